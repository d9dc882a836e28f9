import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.engine.runtimes.runtime import OnnxFile
from app.engine.runtimes.session import CPU, OnnxSession
from app.errors import InferenceFailed
from app.machine import available_cpus
from tests.slow_graphs import HANG, hanging
from tests.tiny import SCORES, TAGS, VOCABULARY


@pytest.fixture
def session(models_dir: Path) -> OnnxSession:
    return OnnxSession(models_dir / "ner-en/1/model.fp32.onnx", threads=1)


def test_it_gives_a_logit_for_each_row_sub_token_and_tag(session: OnnxSession) -> None:
    ids = np.array([[VOCABULARY.index("angela"), VOCABULARY.index("ibm"), 0]])
    logits = session.run({"input_ids": ids, "attention_mask": np.array([[1, 1, 0]])})
    assert logits.shape == (1, 3, len(TAGS))
    assert logits.dtype == np.float32
    assert logits[0, 0, TAGS.index("B-PER")] == SCORES["angela"]["B-PER"]
    assert logits[0, 1, TAGS.index("B-ORG")] == SCORES["ibm"]["B-ORG"]


def test_it_tells_what_it_runs_on(session: OnnxSession) -> None:
    assert session.provider == CPU
    assert session.threads == 1
    assert session.inputs == ("input_ids", "attention_mask")
    assert session.outputs == ("logits",)


def test_threads_default_to_the_cpus_of_this_process(models_dir: Path) -> None:
    session = OnnxSession(models_dir / "ner-en/1/model.fp32.onnx")
    assert session.threads == available_cpus()


def test_batches_keep_their_shape_on_the_cpu(session: OnnxSession) -> None:
    assert session.shape(3, 13) == (3, 13)


def test_it_runs_for_several_threads_at_once(session: OnnxSession) -> None:
    ids = [np.random.default_rng(seed).integers(0, len(VOCABULARY) - 1, (4, 16)) for seed in range(64)]
    batches = [{"input_ids": some, "attention_mask": np.ones_like(some)} for some in ids]
    alone = [session.run(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for want, got in zip(alone, pool.map(session.run, batches), strict=True):
            np.testing.assert_array_equal(got, want)


def test_what_the_runtime_refuses_is_our_error(session: OnnxSession) -> None:
    with pytest.raises(InferenceFailed, match="the session failed on a batch"):
        session.run({"input_ids": np.zeros((1, 3), np.int64)})
    outside = np.full((1, 3), len(VOCABULARY))
    with pytest.raises(InferenceFailed):
        session.run({"input_ids": outside, "attention_mask": np.ones((1, 3), np.int64)})


def test_a_file_in_memory_is_the_same_network_and_is_not_kept(
    models_dir: Path, session: OnnxSession
) -> None:
    content = (models_dir / "ner-en/1/model.fp32.onnx").read_bytes()
    users = sys.getrefcount(content)
    again = OnnxSession(OnnxFile("model.fp32.onnx", content, {}), threads=1)
    assert sys.getrefcount(content) == users
    ids = np.array([[VOCABULARY.index("angela"), VOCABULARY.index("ibm")]])
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    np.testing.assert_array_equal(again.run(batch), session.run(batch))


def test_a_run_that_does_not_end_is_stopped_by_the_id_of_its_thread(tmp_path: Path) -> None:
    onnx.save(hanging(), tmp_path / "hanging.onnx")
    session = OnnxSession(tmp_path / "hanging.onnx", threads=1)
    arrays = {
        "input_ids": np.full((1, 3), VOCABULARY.index(HANG)),
        "attention_mask": np.ones((1, 3), np.int64),
    }
    session.stop(threading.get_ident())  # nothing runs

    def stop(thread: int = threading.get_ident()) -> None:
        while not stopped.wait(0.02):  # it may not have begun yet
            session.stop(thread)

    stopped = threading.Event()
    stopping = threading.Thread(target=stop)
    stopping.start()
    with pytest.raises(InferenceFailed, match="terminate"):
        session.run(arrays)
    stopped.set()
    stopping.join()
    assert session.run({**arrays, "input_ids": np.zeros((1, 3), np.int64)}).shape[1] == 3
