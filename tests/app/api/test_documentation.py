"""The description of the API holds together, and the page that shows it needs nobody else."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings
from tests.servers import Server


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    return server.client.get("/openapi.json").json()


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(target := part.get("$ref"), str):
            yield target
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from references(inner)


def operations(document: Any) -> Iterator[tuple[str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_reference_leads_to_a_component_and_each_is_used(document: Any) -> None:
    there = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) == there
    assert "$defs" not in str(document)


def test_every_route_says_how_it_may_fail(document: Any) -> None:
    for name, operation in operations(document):
        statuses = set(operation["responses"])
        assert statuses >= {"200", "400", "403", "408", "414", "429", "431", "500", "503"}, name
        if "requestBody" in operation:
            assert statuses >= {"415", "422"}, name
        for status, response in operation["responses"].items():
            assert "X-Request-Id" in response["headers"], (name, status)


def test_every_parameter_is_explained(document: Any) -> None:
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (name, parameter["name"])


# the page


def test_the_page_comes_whole_from_this_server(server: Server) -> None:
    page = server.client.get("/docs")
    parts = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert parts == ["data:,", "docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/start.js"]
    kinds = []
    for path in parts[1:]:
        answer = server.client.get(f"/{path}")
        assert answer.status_code == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        kinds.append(answer.headers["Content-Type"].partition(";")[0])
    assert kinds == ["text/css", "text/javascript", "text/javascript"]


def test_the_page_may_load_and_ask_nobody_else(server: Server) -> None:
    page = server.client.get("/docs")
    assert "<script>" not in page.text
    assert not re.search(r"https?://", page.text + server.client.get("/docs/start.js").text)
    policy = dict(
        part.strip().partition(" ")[::2] for part in page.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"


@pytest.mark.parametrize("path", ["/docs/redoc.standalone.js", "/docs/..%2fcore.py", "/docs/%00", "/redoc"])
def test_nothing_else_is_there(server: Server, path: str) -> None:
    answer = server.client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_below_another_application_the_description_says_where_it_is() -> None:
    outer = FastAPI()
    outer.mount("/below", create_app(Settings()))

    async def ask() -> tuple[Any, int]:
        transport = httpx.ASGITransport(outer)
        async with httpx.AsyncClient(transport=transport, base_url="http://nerve") as client:
            asset = await client.get("/below/docs/swagger-ui.css")
            return (await client.get("/below/openapi.json")).json()["servers"], asset.status_code

    assert asyncio.run(ask()) == ([{"url": "/below"}], 200)
