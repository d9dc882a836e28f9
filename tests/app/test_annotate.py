"""Annotating without any protocol: what is kept, what is counted, and what a canary is judged by."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from app.annotate import Annotator, Ask, LeasedAnnotator, Service, Wanted
from app.engine.decoding.entities import Entity, Prediction
from app.errors import Busy, ClientLeft, InferenceFailed, NotFound, NotReady, Unprocessable
from app.main import make_manager
from app.metrics import Metrics
from app.settings import Settings
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.loader import load_version
from app.versions.rollout.manager import VersionManager
from tests.tiny import SPANS, TEXT, write_tiny_version


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `ner-en/1` and `ner-en/2`, which finds another label."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_version(folder)
    write_tiny_version(folder, version=2, ibm="LOC")
    return folder


@pytest.fixture(scope="module")
def loaded(models: Path) -> Iterator[LoadedVersion]:
    version = load_version(models / "ner-en/1")
    yield version
    version.close()


@pytest.fixture(scope="module")
def manager(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersionManager]:
    """A manager that serves the higher version."""
    settings = Settings(models_dir=models, state_dir=tmp_path_factory.mktemp("state"), threads=1)
    made = make_manager(settings, Metrics())
    made.reconcile()
    yield made
    made.close()


def spans(prediction: Prediction) -> list[tuple[int, int, str]]:
    return [(entity.start, entity.end, entity.label) for entity in prediction.entities]


def total(metrics: Metrics, name: str, **labels: str) -> float:
    return sum(sample.value for sample in metrics.samples(name, **labels))


# what is wanted


@pytest.mark.parametrize(
    ("wanted", "starts"),
    [
        (Wanted(), [0, 2, 4]),
        (Wanted(labels=["PER"]), [0, 4]),
        (Wanted(labels=[]), []),
        (Wanted(min_score=0.5), [0, 2]),
        (Wanted(min_score=0.5, labels=["LOC"]), [2]),
        (Wanted(min_score=1.0), []),
    ],
)
def test_only_what_is_wanted_is_kept(loaded: LoadedVersion, wanted: Wanted, starts: list[int]) -> None:
    entities = Entity(0, 1, "PER", 0.7), Entity(2, 3, "LOC", 0.5), Entity(4, 5, "PER", 0.4)
    (kept,) = Annotator(loaded, wanted).kept([Prediction(entities, 3)])
    assert [entity.start for entity in kept.entities] == starts
    assert kept.windows == 3


def test_a_label_that_the_version_does_not_have_is_named(loaded: LoadedVersion) -> None:
    with pytest.raises(Unprocessable, match=r"no label 'DOG' \(it has PER, ORG, LOC\)") as raised:
        Annotator(loaded, Wanted(labels=["PER", "DOG"])).check_labels()
    assert raised.value.code == "unknown_label"


def test_a_version_that_was_loaded_by_its_caller_needs_no_service(loaded: LoadedVersion) -> None:
    annotator = Annotator(loaded, Wanted(labels=["ORG"]))
    in_flight = [annotator.submit([text]) for text in ("IBM", TEXT, "nothing")]
    found = [spans(annotator.kept(future.result())[0]) for future in in_flight]
    assert found == [[(0, 3, "ORG")], [SPANS[1]], []]


# leases


async def annotated(service: Service, ask: Ask) -> tuple[int, list[list[tuple[int, int, str]]]]:
    with await service.lease(ask) as annotator:
        annotation = await annotator.annotate(ask.texts)
    return annotation.version, [spans(prediction) for prediction in annotation.predictions]


def test_the_version_that_serves_answers_and_a_pinned_one_is_loaded(manager: VersionManager) -> None:
    service = Service(manager, Metrics(), "ner-en")
    assert asyncio.run(annotated(service, Ask(texts=["IBM"]))) == (2, [[(0, 3, "LOC")]])
    assert asyncio.run(annotated(service, Ask(texts=["IBM"], version=1))) == (1, [[(0, 3, "ORG")]])
    assert asyncio.run(annotated(service, Ask(texts=[], model="ner-en"))) == (2, [])


@pytest.mark.parametrize("ask", [Ask(model="nope"), Ask(version=99), Ask(model="nope", version=1)])
def test_what_is_unknown_is_not_found(manager: VersionManager, ask: Ask) -> None:
    with pytest.raises(NotFound):
        asyncio.run(annotated(Service(manager, Metrics(), "ner-en"), ask))


def test_answers_count_with_the_entities_that_were_wanted(manager: VersionManager) -> None:
    metrics = Metrics()
    ask = Ask(texts=[TEXT] * 200, labels=["PER"], version=1)
    version, found = asyncio.run(annotated(Service(manager, metrics, "ner-en"), ask))
    assert (version, found) == (1, [SPANS[:1]] * 200)
    assert total(metrics, "nerve_texts_total", model="ner-en", version="1") == 200
    assert total(metrics, "nerve_entities_total") == 200
    assert total(metrics, "nerve_entities_total", label="PER") == 200


# what a canary is judged by


class Recorded:
    """A lease that keeps what it was released with."""

    def __init__(self, loaded: LoadedVersion):
        self.loaded = loaded
        self.released: list[bool | None] = []

    def release(self, failed: bool | None = None) -> None:
        self.released.append(failed)


def judged(
    loaded: LoadedVersion, manager: VersionManager, error: BaseException, deadline: float | None = None
) -> bool | None:
    """How a request is released that waited for its answer in vain."""
    lease = Recorded(loaded)

    async def fails(_: "Future[list[Prediction]]") -> list[Prediction]:
        raise error

    async def ask() -> None:
        with LeasedAnnotator(lease, Wanted(), manager, Metrics()) as annotator:  # type: ignore[arg-type]
            await annotator.annotate([TEXT], deadline, fails)

    with pytest.raises(type(error)):
        asyncio.run(ask())
    (failed,) = lease.released
    return failed


@pytest.mark.parametrize("error", [InferenceFailed("the session failed"), ValueError("a bug")])
def test_what_the_server_is_to_blame_for_counts(
    loaded: LoadedVersion, manager: VersionManager, error: Exception
) -> None:
    assert judged(loaded, manager, error) is True


@pytest.mark.parametrize(
    "error", [Busy("full", 1.0), ClientLeft("gone"), NotReady("closed"), asyncio.CancelledError()]
)
def test_what_says_nothing_of_the_version_does_not_count(
    loaded: LoadedVersion, manager: VersionManager, error: BaseException
) -> None:
    assert judged(loaded, manager, error) is None


def test_a_request_that_is_given_up_at_its_deadline_counts(
    loaded: LoadedVersion, manager: VersionManager
) -> None:
    given_up = asyncio.CancelledError()
    assert judged(loaded, manager, given_up, time.monotonic() + 3600) is None
    assert judged(loaded, manager, given_up, time.monotonic()) is True


def test_an_answer_counts_and_texts_one_after_another_do_not(
    loaded: LoadedVersion, manager: VersionManager
) -> None:
    lease, metrics = Recorded(loaded), Metrics()

    async def request() -> None:
        with LeasedAnnotator(lease, Wanted(), manager, metrics) as annotator:  # type: ignore[arg-type]
            await annotator.annotate([TEXT])

    asyncio.run(request())
    with LeasedAnnotator(lease, Wanted(), manager, metrics) as annotator:  # type: ignore[arg-type]
        found = annotator.submit([TEXT, "IBM"]).result()
        annotator.answered([TEXT, "IBM"], found, annotator.kept(found))
    assert lease.released == [False, None]
    assert total(metrics, "nerve_texts_total") == 3


# on the caller's own event loop


def test_a_short_text_may_be_annotated_without_waking_anybody(manager: VersionManager) -> None:
    async def nobody(future: "Future[list[Prediction]]") -> list[Prediction]:
        raise AssertionError("a runner was asked")

    async def scene() -> None:
        with await Service(manager, Metrics(), "ner-en").lease(Ask(texts=[TEXT], version=1)) as annotator:
            there = await annotator.annotate([TEXT])
            here = await annotator.annotate([TEXT], None, nobody, lambda: True)
            assert here == there
            with pytest.raises(AssertionError, match="a runner was asked"):
                await annotator.annotate([TEXT], None, nobody)
            with pytest.raises(AssertionError, match="a runner was asked"):
                await annotator.annotate([TEXT * 100], None, nobody, lambda: True)
            with pytest.raises(AssertionError, match="a runner was asked"):
                await annotator.annotate([TEXT, TEXT], None, nobody, lambda: True)

    asyncio.run(scene())
