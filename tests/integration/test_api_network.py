"""The option ``network`` of the API, inside the ceiling of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from slipway._model.network import Network
from support.api_server import serve_api

if TYPE_CHECKING:
    import httpx

JOB = {"language": "bash", "source": "print hello"}
ROUTES = ("/v1/run", "/v1/start", "/v1/sessions")


async def request(http: httpx.AsyncClient, route: str, network: object) -> httpx.Response:
    job: dict[str, Any] = {**JOB, "network": network}
    if route == "/v1/sessions":
        del job["source"]
    return await http.post(route, json=job)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("ceiling", "network", "words"),
    [
        (None, {}, "no network"),
        (None, {"allow": ["pypi"]}, "no network"),
        (Network(allow=("pypi",)), {"allow": ["pypi", "npm"]}, "'npm'"),
        (Network(allow=("open",)), {"allow": ["10.0.0.0/8"]}, "'10.0.0.0/8'"),
        (Network(allow=("open",)), {"publish": ["0.0.0.0:8000"]}, "'0.0.0.0:8000'"),
    ],
)
async def test_network_above_the_ceiling_is_forbidden(
    route: str, ceiling: Network | None, network: dict[str, Any], words: str
) -> None:
    async with serve_api(ceiling=ceiling) as api, api.client() as http:
        answer = await request(http, route, network)

        assert answer.status_code == 403
        problem = answer.json()
        assert problem["type"] == "urn:slipway:network-not-allowed"
        assert words in problem["detail"]
        assert problem["hint"]
        assert api.launcher.launched == 0


@pytest.mark.parametrize("route", ROUTES)
async def test_misspelt_rule_is_named(route: str) -> None:
    async with serve_api(ceiling=Network(allow=("open",))) as api, api.client() as http:
        answer = await request(http, route, {"allow": ["pipy"]})

        assert answer.status_code == 422
        assert "'pipy'" in answer.json()["detail"]
        assert api.launcher.launched == 0


@pytest.mark.parametrize("route", ROUTES)
async def test_network_inside_the_ceiling_is_permitted(route: str) -> None:
    async with serve_api(ceiling=Network(allow=("open",))) as api, api.client() as http:
        answer = await request(http, route, {"allow": ["pypi", "*.example.com"]})

        assert answer.status_code in {200, 201}


async def test_run_of_a_session_cannot_change_the_network() -> None:
    async with serve_api(ceiling=Network(allow=("open",))) as api, api.client() as http:
        opened = await http.post("/v1/sessions", json={"language": "bash"})

        place = opened.headers["location"]
        answer = await http.post(f"{place}/run", json={"source": "", "network": {}})

        assert answer.status_code == 422
        assert "'network'" in answer.json()["detail"]
