from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers.fusion_options import FusionOptions

from app.engine.runtimes.session import OnnxSession
from tests.training.models.teachers import inputs, toy_teacher
from training.export.fusion import fuse_fp16
from training.export.onnx_file import export_onnx

LAYERS, HEADS, WIDTH = 2, 2, 32


@pytest.fixture(scope="module")
def source(one_cpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 graph of a BERT that sees word shapes."""
    folder = tmp_path_factory.mktemp("fusion")
    toy_teacher(folder).save(folder / "checkpoint")
    export_onnx(str(folder / "checkpoint"), folder / "fp32.onnx")
    return folder / "fp32.onnx"


def test_all_that_can_be_is_fused(source: Path, tmp_path: Path) -> None:
    counts = fuse_fp16(source, tmp_path / "fp16.onnx", HEADS, WIDTH, LAYERS)
    assert counts == {"attention": 2, "skip_layer_norm": 4, "embed_layer_norm": 1, "bias_gelu": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["fp16.onnx"]


def test_inputs_stay_and_logits_are_float32(source: Path, tmp_path: Path) -> None:
    fuse_fp16(source, tmp_path / "fp16.onnx", HEADS, WIDTH, LAYERS)
    before, after = (onnx.load(path).graph for path in (source, tmp_path / "fp16.onnx"))
    assert list(after.input) == list(before.input)
    assert {value.type.tensor_type.elem_type for value in after.input} == {TensorProto.INT64}
    (logits,) = after.output
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", TensorProto.FLOAT)
    assert {table.data_type for table in after.initializer} == {TensorProto.FLOAT16}


def test_half_has_room_for_the_mask(source: Path, tmp_path: Path) -> None:
    fuse_fp16(source, tmp_path / "fp16.onnx", HEADS, WIDTH, LAYERS)
    nodes = onnx.load(tmp_path / "fp16.onnx").graph.node
    filters = [
        attribute.f
        for node in nodes
        if node.op_type == "Attention"
        for attribute in node.attribute
        if attribute.name == "mask_filter_value"
    ]
    assert filters == [-10_000.0] * LAYERS


def test_halved_weights_still_tell(source: Path, tmp_path: Path) -> None:
    """The fp16 file with its numbers widened again, which a CPU can run: right-padded, and with holes."""
    fuse_fp16(source, tmp_path / "fp16.onnx", HEADS, WIDTH, LAYERS)
    model = onnx.load(tmp_path / "fp16.onnx")
    for table in model.graph.initializer:
        values = numpy_helper.to_array(table).astype(np.float32)
        table.CopyFrom(numpy_helper.from_array(values, table.name))
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "widened.onnx")
    ids, mask, shapes = (tensor.numpy() for tensor in inputs([20, 11]))
    mask[0, 4:7] = 0
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": shapes}
    want, got = (OnnxSession(path).run(arrays)[mask == 1] for path in (source, tmp_path / "widened.onnx"))
    np.testing.assert_allclose(got, want, atol=0.02 * want.std())
    assert np.abs(got - want).max() > 0  # they were halved


def test_attention_that_was_not_fused_is_told(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 of 3 attention layers were fused"):
        fuse_fp16(source, tmp_path / "fp16.onnx", HEADS, WIDTH, 3)
    model = onnx.load(source)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.op_type = "LogSoftmax"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"1 of 2 attention layers were fused \(attention 1,"):
        fuse_fp16(tmp_path / "other.onnx", tmp_path / "fp16.onnx", HEADS, WIDTH, LAYERS)
    assert not (tmp_path / "fp16.onnx").exists()


def test_the_optimizers_own_mask_format_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts sub-tokens from the right, and so attends to those that stand in a hole."""
    monkeypatch.setattr(FusionOptions, "use_raw_attention_mask", lambda *_: None)
    with pytest.raises(ValueError, match="logits of the fused graph differ by"):
        fuse_fp16(source, tmp_path / "fp16.onnx", HEADS, WIDTH, LAYERS)
    assert not list(tmp_path.iterdir())
