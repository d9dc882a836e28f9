"""The API is as it is described: whatever schemathesis makes of the description is answered as it says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import settings
from schemathesis import Case, CheckContext, Response
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation

from app.main import create_app
from app.settings import Settings
from tests.servers import Server, serving
from tests.tiny import write_tiny_version

DOCUMENT = create_app(Settings(models_dir=Path("nowhere"))).openapi()
LATE = [429, 504]
"""What is answered, rightly, where the caller leaves less time than the request takes."""

CONFIG = {
    "request-timeout": 300,
    "generation": {"deterministic": True},
    "checks": {
        "not_a_server_error": {"expected-statuses": ["2xx", "4xx", *LATE]},
        "positive_data_acceptance": {
            "expected-statuses": ["2xx", 404, 409, 412, 422, *LATE]  # of 422, see `refused_for_a_reason`
        },
    },
    "operations": [
        {  # a wrong line is answered in its place
            "include-path": "/ner/stream",
            "checks": {"negative_data_rejection": {"expected-statuses": ["2xx", "4xx"]}},
        }
    ],
}
API = schemathesis.openapi.from_dict(DOCUMENT, config=SchemathesisConfig.from_dict(CONFIG))


@schemathesis.serializer("application/x-ndjson")
def lines(_: Any, value: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in (value, value))


@API.hook
def map_body(_: Any, body: Any) -> Any:
    """Write whole numbers as such: 1.0 is an integer to JSON Schema, and a float to us."""
    if isinstance(body, float) and body.is_integer():
        return int(body)
    if isinstance(body, list):
        return [map_body(_, item) for item in body]
    return {key: map_body(_, value) for key, value in body.items()} if isinstance(body, dict) else body


def refused_for_a_reason(_: CheckContext, response: Response, case: Case) -> None:
    """What the schema allows is refused only for what depends on the model or on its deployment."""
    assert case.meta
    if response.status_code == 422 and case.meta.generation.mode.is_positive:
        assert response.json()["code"] in ("unknown_label", "invalid_deployment"), response.text


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose versions may be changed."""
    folder = tmp_path_factory.mktemp("described")
    write_tiny_version(folder / "models")
    write_tiny_version(folder / "models", version=2)
    with serving(folder / "models", folder / "log") as running:
        yield running


@API.parametrize()
@settings(max_examples=10, derandomize=True)
def test_the_api_is_as_described(case: Case, described: Server) -> None:
    if case.path == "/ner" and case.media_type == "application/json":
        query = case.meta and case.meta.components.get(ParameterLocation.QUERY)
        if not (query and query.mode.is_negative):
            case.query = {}  # options stand there with text/plain only, which no description can say
    case.call_and_validate(base_url=described.url, additional_checks=[refused_for_a_reason])
