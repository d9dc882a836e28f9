import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.helper import make_node
from onnx.numpy_helper import from_array

from app.engine.batching.report import BatchReport
from app.engine.decoding.entities import Prediction
from app.engine.model import Network
from app.engine.runtimes.runtime import Arrays, Logits
from app.engine.runtimes.session import OnnxSession
from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.errors import Busy, DeadlineExceeded, InferenceFailed, NotReady
from app.manifest import read_manifest
from tests.networks import open_network, running_on
from tests.servers import until
from tests.texts import texts
from tests.tiny import POISON, SCORES, SPANS, TAGS, TEXT, tiny_graph, write_tiny_version

Make = Callable[..., Network]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes networks and closes them at the end."""
    made: list[Network] = []

    def make(options: dict[str, Any] | None = None, **changes: Any) -> Network:
        folder = write_tiny_version(tmp_path_factory.mktemp("models"), **changes)
        made.append(open_network(folder, **(options or {})))
        return made[-1]

    yield make
    for network in made:
        network.close()


@pytest.fixture(scope="module")
def plain(make: Make) -> Network:
    return make()


@pytest.fixture(scope="module")
def short(make: Make) -> Network:
    """Sees its neighbours, through windows of 10 sub-tokens that overlap by 4."""
    return make(context=True, max_length=12, stride=4)


@pytest.fixture(scope="module")
def long(make: Make) -> Network:
    """The same network, through one window."""
    return make(context=True, max_length=100_000, stride=4)


@pytest.fixture(scope="module")
def eager(make: Make) -> Network:
    """Takes whatever it does not know for a name."""
    return make(scores={**SCORES, "[UNK]": {"B-LOC": 8}}, max_length=16, stride=4)


def spans(prediction: Prediction) -> list[tuple[int, int, str]]:
    return [(entity.start, entity.end, entity.label) for entity in prediction.entities]


def test_it_finds_the_entities_of_a_text(plain: Network) -> None:
    (prediction,) = plain.predict([TEXT])
    assert spans(prediction) == SPANS
    assert prediction.windows == 1
    assert all(0.5 < entity.score <= 1 for entity in prediction.entities)


def test_answers_have_the_order_of_the_texts(plain: Network) -> None:
    asked = ["IBM", "nothing", "x " * 500 + "IBM", "", "New York"]
    predictions = plain.predict(asked)
    assert [spans(p) for p in predictions] == [
        [(0, 3, "ORG")],
        [],
        [(1000, 1003, "ORG")],
        [],
        [(0, 8, "LOC")],
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\r\t\u3000\u2028", "\u200b", "\x00"])
def test_a_text_without_words_has_no_entities_and_no_windows(plain: Network, text: str) -> None:
    assert plain.predict([text]) == [Prediction((), 0)]


def test_no_texts_no_predictions(plain: Network) -> None:
    assert plain.predict([]) == []


@given(text=texts)
def test_entities_are_whole_words_in_order_without_overlap(eager: Network, text: str) -> None:
    (prediction,) = eager.predict([text])
    last = 0
    for entity in prediction.entities:
        assert last <= entity.start < entity.end <= len(text)
        assert text[entity.start : entity.end].strip() == text[entity.start : entity.end]
        last = entity.end


@given(text=texts)
def test_windows_never_change_an_answer(short: Network, long: Network, text: str) -> None:
    (in_windows,), (at_once,) = short.predict([text]), long.predict([text])
    assert in_windows.entities == at_once.entities
    assert at_once.windows <= 1


@pytest.mark.parametrize("before", range(40))
def test_an_entity_across_a_windows_edge_is_found_whole(short: Network, before: int) -> None:
    text = "x " * before + "Angela Merkel" + " x" * 30
    (prediction,) = short.predict([text])
    assert spans(prediction) == [(2 * before, 2 * before + 13, "PER")]
    assert prediction.windows > 1


def test_an_entity_longer_than_a_window_is_found_whole(short: Network) -> None:
    text = "Angela" + " Merkel" * 50
    (prediction,) = short.predict([text])
    assert spans(prediction) == [(0, len(text), "PER")]


@given(text=texts, mates=st.lists(texts, max_size=12), at=st.integers(0, 12))
def test_an_answer_does_not_depend_on_what_else_is_in_the_request(
    short: Network, text: str, mates: list[str], at: int
) -> None:
    (alone,) = short.predict([text])
    together = short.predict([*mates[:at], text, *mates[at:]])
    assert together[min(at, len(mates))] == alone


def test_an_answer_does_not_depend_on_other_requests(short: Network) -> None:
    asked = [f"{'x ' * n}Angela Merkel{' IBM' * (n % 7)}" for n in range(120)]
    alone = [short.predict([text])[0] for text in asked]
    futures = [short.submit([text]) for text in asked]
    assert [future.result()[0] for future in futures] == alone


@given(text=texts)
def test_an_answer_on_the_callers_thread_is_the_very_same(short: Network, text: str) -> None:
    (wanted,) = short.predict([text])
    until(lambda: short.idle)
    assert short.answer_now([text]) == [wanted]
    until(lambda: short.idle)


def test_only_one_short_text_is_answered_on_the_callers_thread(plain: Network) -> None:
    until(lambda: plain.idle)
    for asked in ([], [TEXT, TEXT], ["x" * 1_001]):
        assert plain.answer_now(asked) is None
    assert plain.answer_now(["x" * 1_000]) is not None


def test_what_fails_on_the_callers_thread_fails_as_elsewhere(make: Make) -> None:
    reports: list[BatchReport] = []
    network = make(options={"report": reports.append})
    for _ in range(3):
        assert not network.failing
        with pytest.raises(InferenceFailed):
            network.answer_now([POISON])
    assert network.failing
    assert [report.failed for report in reports] == [True] * 3
    assert network.idle


def test_a_network_in_the_background_never_runs_on_the_callers_thread(make: Make) -> None:
    network = make(options={"background": True})
    assert network.answer_now([TEXT]) is None
    assert spans(network.predict([TEXT])[0]) == SPANS


def test_windows_of_many_requests_share_batches(make: Make) -> None:
    reports: list[BatchReport] = []
    network = make(options={"report": reports.append, "max_batch_tokens": 256})
    network.predict(["IBM " * 50] * 30)
    assert max(report.rows for report in reports) > 1
    assert all(report.rows * report.longest <= 256 for report in reports)


def test_a_label_below_its_threshold_is_not_an_entity(make: Make, plain: Network) -> None:
    (unsure,) = plain.predict(["perhaps"])
    (score,) = [entity.score for entity in unsure.entities]
    assert 0.3 < score < 0.9
    assert not make(thresholds={"PER": 0.9}).predict(["perhaps"])[0].entities
    assert make(thresholds={"ORG": 0.9}).predict(["perhaps"])[0].entities


def test_temperature_softens_scores(make: Make, plain: Network) -> None:
    (hot,), (cold,) = make(temperature=4.0).predict([TEXT]), plain.predict([TEXT])
    assert spans(hot) == spans(cold)
    assert all(h.score < c.score for h, c in zip(hot.entities, cold.entities, strict=True))


def test_word_shapes_reach_the_network(make: Make) -> None:
    network = make(shapes=True)
    assert spans(network.predict(["an apple"])[0]) == []
    assert spans(network.predict(["an Apple"])[0]) == [(3, 8, "ORG")]


def test_logits_are_those_of_each_decision(plain: Network) -> None:
    (logits,) = plain.logits(["IBM in Paris"])
    assert logits.shape == (3, 7)
    assert logits.dtype == np.float32


def test_a_request_that_fails_fails_alone(plain: Network) -> None:
    good = plain.submit([TEXT])
    bad = plain.submit(["IBM", f"some {POISON}"])
    with pytest.raises(InferenceFailed):
        bad.result()
    good.exception()  # it may have shared the batch
    assert spans(plain.predict([TEXT])[0]) == SPANS
    assert plain.alive


def test_a_request_whose_deadline_has_passed_is_answered_so(plain: Network) -> None:
    late = plain.submit([TEXT] * 100, deadline=time.monotonic() - 1)
    with pytest.raises((DeadlineExceeded, Busy)):
        late.result()
    until(lambda: plain.idle)


def test_a_tokenizer_that_fails_fails_its_request(tmp_path: Path) -> None:
    class Panic(BaseException):
        """As Rust's panics are."""

    class Broken(Tokenizer):
        def encode(self, texts: Sequence[str]) -> list[EncodedText]:
            if "panic" in texts:
                raise Panic
            return super().encode(texts)

    folder = write_tiny_version(tmp_path)
    tokenizer = Broken.from_file(folder / "tokenizer.json")
    network = open_network(folder, tokenizer=tokenizer)
    for asked in (["panic"], [TEXT] * 50 + ["panic"]):
        with pytest.raises(InferenceFailed, match="Panic"):
            network.predict(asked)
    assert spans(network.predict([TEXT])[0]) == SPANS
    until(lambda: network.idle)
    network.close()


def test_short_texts_that_come_meanwhile_are_tokenized_together(tmp_path: Path) -> None:
    class Counting(Tokenizer):
        def encode(self, texts: Sequence[str]) -> list[EncodedText]:
            calls.append(len(texts))
            return super().encode(texts)

    class Waiting(OnnxSession):
        def run(self, batch: Arrays) -> Logits:
            go.wait()
            return super().run(batch)

    calls: list[int] = []
    go = threading.Event()
    go.set()  # for the warm-up
    folder = write_tiny_version(tmp_path)
    session = Waiting(folder / "model.fp32.onnx", threads=1)
    tokenizer = Counting.from_file(folder / "tokenizer.json")
    network = Network(read_manifest(folder), tokenizer, running_on(session))
    go.clear()
    first = network.submit([TEXT])
    until(lambda: calls == [1])
    futures = [network.submit([TEXT if number % 3 else ""]) for number in range(20)]
    assert calls == [1]
    go.set()
    assert [len(future.result()[0].entities) for future in futures] == [
        len(SPANS) if number % 3 else 0 for number in range(20)
    ]
    assert first.done()
    assert calls == [1, 20]
    network.close()


def test_what_has_come_before_it_closes_is_answered(tmp_path: Path) -> None:
    network = open_network(write_tiny_version(tmp_path), runs=2)
    futures = [network.submit([TEXT]) for _ in range(200)] + [network.submit([TEXT] * 40)]
    network.close()
    assert all(spans(prediction) == SPANS for future in futures for prediction in future.result())


def test_a_long_request_lets_others_be_tokenized(plain: Network) -> None:
    long = plain.submit([f"{TEXT} {'x ' * 300}"] * 600)
    short = plain.submit([TEXT, TEXT])
    assert [spans(prediction) for prediction in short.result()] == [SPANS, SPANS]
    assert not long.done()
    long.cancel()
    until(lambda: plain.idle)


def test_a_cancelled_request_leaves_the_others_alone(plain: Network) -> None:
    futures = [plain.submit([TEXT * 20]) for _ in range(30)]
    for future in futures[::2]:
        future.cancel()
    assert all(len(future.result()[0].entities) == 60 for future in futures[1::2])


def test_warm_up_measures_the_machine(plain: Network) -> None:
    assert plain.cost.fixed > 0
    assert plain.cost.per_token > 0


def test_a_network_of_few_positions_warms_up_within_them(tmp_path: Path) -> None:
    graph = tiny_graph()
    graph.graph.node[-1].output[0] = "unplaced"
    graph.graph.initializer.append(from_array(np.zeros((16, len(TAGS)), np.float32), "positions"))
    graph.graph.initializer.append(from_array(np.array([0]), "zero"))
    graph.graph.node.append(make_node("Shape", ["input_ids"], ["length"], start=1, end=2))
    graph.graph.node.append(make_node("Slice", ["positions", "zero", "length"], ["placed"]))
    graph.graph.node.append(make_node("Add", ["unplaced", "placed"], ["logits"]))
    network = open_network(write_tiny_version(tmp_path, graph=graph, max_length=16, stride=4))
    assert spans(network.predict([TEXT * 3])[0])[:3] == SPANS
    network.close()


def test_a_closed_predictor_takes_nothing_more(tmp_path: Path) -> None:
    network = open_network(write_tiny_version(tmp_path))
    running = network.submit([TEXT])
    running.result()
    network.close()
    assert not network.alive
    assert network.answer_now([TEXT]) is None
    with pytest.raises(NotReady):
        network.logits([TEXT])
    with pytest.raises(NotReady):
        network.predict([TEXT])


def test_three_failures_in_a_row_are_noted_for_good(tmp_path: Path) -> None:
    network = open_network(write_tiny_version(tmp_path))
    for asked in (POISON, POISON, TEXT, POISON, POISON):
        network.submit([asked]).exception()
    assert not network.failing
    network.submit([POISON]).exception()
    assert network.failing
    network.predict([TEXT])
    assert network.failing
    network.close()


def test_it_is_idle_once_every_request_is_answered(tmp_path: Path) -> None:
    network = open_network(write_tiny_version(tmp_path))
    assert network.idle
    futures = [network.submit([TEXT * 200]) for _ in range(20)]
    assert not network.idle
    futures[-1].cancel()
    for future in futures[:-1]:
        future.result()
    until(lambda: network.idle)
    network.close()
    network.submit([TEXT]).exception()
    assert network.idle


def test_closed_and_dropped_it_is_gone_without_a_collection(tmp_path: Path) -> None:
    network = open_network(write_tiny_version(tmp_path))
    network.predict([TEXT] * 3)
    gone = weakref.ref(network)
    gc.disable()
    try:
        network.close()
        del network
        assert gone() is None
    finally:
        gc.enable()
