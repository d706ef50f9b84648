from __future__ import annotations

import json
from pathlib import Path

from slipway._server.http.app import encode_document

KEPT = Path(__file__).parents[4] / "docs" / "openapi.json"
HOW = "write it anew: python -m slipway._server.http.app > docs/openapi.json"


def test_document_in_docs_is_that_of_the_code() -> None:
    assert KEPT.read_bytes() == encode_document(), HOW


def test_every_error_response_is_a_problem() -> None:
    told = json.loads(encode_document())

    for methods in told["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"]


def test_requests_have_no_default_that_a_generated_client_would_send() -> None:
    told = json.loads(encode_document())
    schemas = told["components"]["schemas"]
    named = {name for name in schemas if name.endswith("Body")} | {"Data", "File"}

    for name in named:
        required = schemas[name].get("required", [])
        for field, kind in schemas[name]["properties"].items():
            assert "default" not in kind
            assert ({"type": "null"} in kind.get("anyOf", [])) == (field not in required)
    for methods in told["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                assert "default" not in parameter["schema"]


def test_operations_have_tags_and_the_document_a_server() -> None:
    told = json.loads(encode_document())
    known = {tag["name"] for tag in told["tags"]}

    assert told["servers"]
    for methods in told["paths"].values():
        for operation in methods.values():
            (tag,) = operation["tags"]
            assert tag in known


def test_every_referenced_schema_exists() -> None:
    text = encode_document().decode()
    schemas = json.loads(text)["components"]["schemas"]

    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named == set(schemas)
