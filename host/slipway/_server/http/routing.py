"""Creation of routers with the settings that all routes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

if TYPE_CHECKING:
    from fastapi.routing import APIRoute


def create_router(tag: str) -> APIRouter:
    """Return a router whose routes have ``tag``, and as operation id the name of their handler."""
    return APIRouter(tags=[tag], generate_unique_id_function=_get_name)


def _get_name(route: APIRoute) -> str:
    return route.name
