"""The buffers of a device, where the CPU is the device."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from app.engine.runtimes.binding import DeviceBinding
from app.engine.runtimes.session import CPU
from tests.tiny import TAGS, VOCABULARY

LENGTHS = range(1, 60)


@pytest.fixture
def session(models_dir: Path) -> Any:
    return onnxruntime.InferenceSession(str(models_dir / "ner-en/1/model.fp32.onnx"), providers=[CPU])


def batch(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(seed).integers(0, len(VOCABULARY) - 1, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones((rows, length), np.int64)}


def plain(session: Any, arrays: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(session.run(["logits"], arrays)[0])


def test_it_gives_what_the_session_gives(session: Any) -> None:
    binding = DeviceBinding(session, "logits", "cpu")
    for shape in [(1, 8), (4, 16), (1, 8), (3, 5), (200, 16), (4, 16)]:
        for seed in range(2):
            arrays = batch(*shape, seed=seed)
            np.testing.assert_array_equal(binding.run(arrays), plain(session, arrays))


def test_logits_do_not_change_when_their_buffer_is_filled_again(session: Any) -> None:
    binding = DeviceBinding(session, "logits", "cpu")
    first = binding.run(batch(2, 8))
    kept = first.copy()
    binding.run(batch(2, 8, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_more_shapes_than_are_kept(session: Any) -> None:
    binding = DeviceBinding(session, "logits", "cpu")
    for length in (*LENGTHS, *LENGTHS):
        arrays = batch(2, length, seed=length)
        np.testing.assert_array_equal(binding.run(arrays), plain(session, arrays))
    assert len(binding._kept) < len(LENGTHS)


def test_threads_do_not_mix_their_batches(session: Any) -> None:
    binding = DeviceBinding(session, "logits", "cpu")
    batches = [batch(2, length, seed) for seed in range(40) for length in (8, 16)]
    with ThreadPoolExecutor(8) as pool:
        for arrays, logits in zip(batches, pool.map(binding.run, batches), strict=True):
            np.testing.assert_array_equal(logits, plain(session, arrays))


def test_inputs_that_do_not_fit_are_told(session: Any) -> None:
    binding = DeviceBinding(session, "logits", "cpu")
    arrays = batch(2, 8)
    for wrong in (
        {"input_ids": arrays["input_ids"]},
        arrays | {"attention_mask": arrays["attention_mask"].reshape(8, 2)},
        arrays | {"token_type_ids": arrays["attention_mask"]},
    ):
        with pytest.raises(ValueError, match="the graph takes input_ids, attention_mask"):
            binding.run(wrong)
    np.testing.assert_array_equal(binding.run(arrays), plain(session, arrays))


def test_a_graph_that_does_not_say_how_many_tags_it_has(models_dir: Path, tmp_path: Path) -> None:
    model = onnx.load(models_dir / "ner-en/1/model.fp32.onnx")
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "tags"
    onnx.save(model, tmp_path / "open.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "open.onnx"), providers=[CPU])
    logits = DeviceBinding(session, "logits", "cpu").run(batch(2, 8))
    assert logits.shape == (2, 8, len(TAGS))
    np.testing.assert_array_equal(logits, plain(session, batch(2, 8)))


def test_a_run_can_be_stopped_by_its_options(session: Any) -> None:
    options = onnxruntime.RunOptions()
    options.terminate = True
    binding = DeviceBinding(session, "logits", "cpu")
    with pytest.raises(Exception, match="terminate"):
        binding.run(batch(1, 8), options)
    binding.run(batch(1, 8), onnxruntime.RunOptions())
