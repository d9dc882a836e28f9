"""The way of a request, whatever its dialect: what is counted, what is logged, and what fails."""

import logging

import pytest

from tests.app.api.toy import Client
from tests.tiny import TEXT


def stage(toy: Client, name: str) -> float:
    """Seconds that requests of the model spent in a stage."""
    of = {"model": "ner-en", "version": "1", "stage": name}
    return sum(sample.value for sample in toy.app.state.metrics.samples("nerve_stage_seconds_total", **of))


def test_what_it_annotates_is_counted_under_its_own_route(toy: Client) -> None:
    toy.post("/toy/ner-en/labels", content="IBM")
    labels = {"route": "/toy/{model}/labels", "model": "ner-en", "version": "1", "status": "200"}
    samples = toy.app.state.metrics.samples("nerve_requests_total", **labels)
    assert [sample.value >= 1 for sample in samples] == [True]


def test_the_time_that_its_dialect_takes_is_counted(toy: Client) -> None:
    before = stage(toy, "parse"), stage(toy, "render")
    toy.post("/toy/ner-en/labels", content=TEXT)
    assert stage(toy, "parse") > before[0]
    assert stage(toy, "render") > before[1]


def test_the_log_has_what_was_asked_and_what_answered(
    toy: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nerve.request")
    toy.post("/toy/ner-en/labels", content="IBM\nIBM", headers={"X-Request-Id": "mine"})
    (line,) = [record.getMessage() for record in caplog.records if record.name == "nerve.request"]
    assert "POST /toy/ner-en/labels 200" in line
    assert line.endswith("ner-en/1 2 texts 6 chars mine")


def test_a_route_that_answers_by_itself_and_crashes_has_its_dialects_shape(toy: Client) -> None:
    answer = toy.get("/toy/bug")
    assert answer.status_code == 500
    assert answer.json()["asked"] is None
    assert "ZeroDivisionError" in answer.json()["oops"]
