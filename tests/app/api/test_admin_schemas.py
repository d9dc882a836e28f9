"""Bodies of `/models`: they are documented, and answers are as documented."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from app.api.admin_schemas import DeploymentBody, ModelBody, ModelsBody, ShadowBody, VersionBody
from app.main import create_app
from app.settings import Settings
from app.versions.rollout.manager import State
from tests.applications import client_of
from tests.tiny import edit_manifest, write_tiny_version

BODIES = (DeploymentBody, ModelBody, ModelsBody, ShadowBody, VersionBody)

CHANGE = {
    "canary": {"version": 2, "percent": 5, "abort": {"requests": 100, "errors": 2}},
    "shadow": [{"version": 3, "percent": 10}],
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is answered of versions in every role, and of one that is refused."""
    models: Path = tmp_path_factory.mktemp("admin") / "models"
    for version in (1, 2, 3):
        write_tiny_version(models, version=version)
    edit_manifest(write_tiny_version(models, version=4), format_version=9)
    models_state = models / ".state"
    models_state.mkdir()
    (models_state / "ner-en.json").write_text('{"stable": 1, "generation": 1}')

    async def ask() -> dict[str, bytes]:
        settings = Settings(models_dir=models, provider="cpu", threads=1, poll_seconds=0.05)
        async with client_of(create_app(settings)) as client:
            changed = await client.put("/models/ner-en/deployment", json=CHANGE)
            assert changed.status_code == 200, changed.text
            while "refused" not in (model := await client.get("/models/ner-en")).text:
                await asyncio.sleep(0.02)
            return {
                "change": changed.content,
                "model": model.content,
                "models": (await client.get("/models")).content,
            }

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("what", "body"), [("change", DeploymentBody), ("model", ModelBody), ("models", ModelsBody)]
)
def test_answers_are_as_documented(answers: dict[str, bytes], what: str, body: type[BaseModel]) -> None:
    read = body.model_validate_json(answers[what], strict=True)
    assert read.model_dump_json().encode() == answers[what]  # with no field more


def test_each_version_has_its_state_and_a_refused_one_its_reason(answers: dict[str, bytes]) -> None:
    model = ModelBody.model_validate_json(answers["model"])
    states = {version.version: version.state for version in model.versions}
    assert states == {1: "serving", 2: "canary", 3: "shadow", 4: "refused"}
    assert [bool(version.reason) for version in model.versions] == [False, False, False, True]
    assert [shadow.version for shadow in model.shadow] == [3]


def fields_of(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of a schema and of all that it is made of, with their names."""
    for part in (schema, *schema.get("$defs", {}).values()):
        for name, field in part.get("properties", {}).items():
            yield f"{part['title']}.{name}", field


@pytest.mark.parametrize("body", BODIES)
def test_every_field_is_documented(body: type[BaseModel]) -> None:
    without = [name for name, field in fields_of(body.model_json_schema()) if not field.get("description")]
    assert without == []


def test_every_state_is_explained() -> None:
    explained = VersionBody.model_fields["state"].description or ""
    assert [state for state in get_args(State) if f"`{state}`: " not in explained] == []
