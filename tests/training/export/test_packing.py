from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from app.engine.runtimes.runtime import Arrays
from app.engine.runtimes.session import OnnxSession
from tests.training.export.checkpoints import KINDS, write_checkpoint
from training.export.layers import lean_layers
from training.export.onnx_file import export_onnx, keep_columns
from training.export.packing import pack_rows
from training.export.quantize import quantize_by_row


@pytest.fixture(scope="module", params=KINDS)
def files(
    request: pytest.FixtureRequest, one_cpu: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A lean graph in fp32 and, from the same checkpoint, what is served in int8."""
    folder = tmp_path_factory.mktemp("packing")
    checkpoint = write_checkpoint(folder / "checkpoint", request.param)
    export_onnx(str(checkpoint), folder / "fp32.onnx")
    keep_columns(
        folder / "fp32.onnx", [2, 0]
    )  # an operator after the last layer that packing does not know
    onnx.save(lean_layers(onnx.load(folder / "fp32.onnx")), folder / "lean.onnx")
    quantize_by_row(folder / "fp32.onnx", folder / "int8.onnx")
    return folder / "lean.onnx", folder / "int8.onnx"


def batch_of(session: OnnxSession, mask: npt.NDArray[np.int64]) -> Arrays:
    rng = np.random.default_rng(7)
    arrays = {"input_ids": rng.integers(5, 50, mask.shape), "attention_mask": mask}
    arrays["token_type_ids"] = np.zeros_like(mask)
    return {name: arrays[name] for name in session.inputs}


MASKS = st.integers(1, 40).flatmap(
    lambda length: st.lists(
        st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=5
    )
)
"""Rows with holes, padding on either side, or nothing else."""


def packed_of(path: Path) -> Path:
    """A packed copy of a graph."""
    target = path.with_suffix(".packed.onnx")
    if not target.exists():
        model = onnx.load(path)
        assert pack_rows(model)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, target)
    return target


@settings(max_examples=30)
@given(MASKS)
def test_a_packed_graph_computes_the_same(files: tuple[Path, Path], rows: list[list[bool]]) -> None:
    sessions = OnnxSession(files[0], threads=1), OnnxSession(packed_of(files[0]), threads=1)
    assert sessions[0].inputs == sessions[1].inputs
    assert sessions[0].outputs == sessions[1].outputs
    mask = np.array(rows, np.int64)
    mask[:, 0] |= mask.sum(1) == 0  # each row has a sub-token
    before, after = (session.run(batch_of(session, mask)) for session in sessions)
    assert before.shape == after.shape
    np.testing.assert_allclose(after[mask == 1], before[mask == 1], rtol=0, atol=1e-5)


def rows_of_products(path: Path, mask: npt.NDArray[np.int64]) -> list[int]:
    """How many rows each product with weights has, when a batch is run."""
    model = onnx.load(path)
    products = [node.output[0] for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in products]
    model.graph.output.extend(outputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    made: Sequence[npt.NDArray[np.float32]] = session.run(
        products, dict(batch_of(OnnxSession(path, threads=1), mask))
    )
    return [array.size // array.shape[-1] for array in made]


def test_nothing_is_multiplied_for_padding(files: tuple[Path, Path]) -> None:
    mask = (np.arange(30) < np.array([[30], [4], [11], [1]])).astype(np.int64)
    counts = rows_of_products(files[1], mask)
    # ELECTRA widens its embeddings once before the first layer, where rows are still padded.
    assert counts.count(46) >= len(counts) - 1 >= 12


@pytest.mark.parametrize("kind", ["deberta", "cnn"])
def test_what_has_other_attention_or_none_stays_as_it_was(kind: str, tmp_path: Path) -> None:
    from tests.training.models.teachers import student
    from training.models.transformer import TransformerTagger

    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert" if kind == "cnn" else kind)
    if kind == "cnn":
        student(kind, TransformerTagger.load(checkpoint)).save(tmp_path / "tagger")
        checkpoint = tmp_path / "tagger"
    export_onnx(str(checkpoint), tmp_path / "fp32.onnx")
    model = lean_layers(onnx.load(tmp_path / "fp32.onnx"))
    before = model.SerializeToString(deterministic=True)
    assert not pack_rows(model)
    assert model.SerializeToString(deterministic=True) == before


def plain_graph() -> onnx.ModelProto:
    """Embeddings, a layer norm and a product, without attention."""
    rng = np.random.default_rng(2)
    arrays = {"table": rng.normal(size=(60, 4)), "scale": np.ones(4), "weights": rng.normal(size=(4, 3))}
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("LayerNormalization", ["x", "scale"], ["normal"]),
        helper.make_node("MatMul", ["normal", "weights"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "plain", inputs, [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_graph_without_attention_stays_whole() -> None:
    model = plain_graph()
    before = model.SerializeToString(deterministic=True)
    assert not pack_rows(model)
    assert model.SerializeToString(deterministic=True) == before


def test_what_asks_for_a_shape_gets_that_of_rows(files: tuple[Path, Path], tmp_path: Path) -> None:
    """The logits are multiplied by their number of rows and sub-tokens, padding included."""
    model = onnx.load(files[0])
    for node in model.graph.node:
        node.output[:] = ["plain" if name == "logits" else name for name in node.output]
    products = [
        node for node in model.graph.node if node.op_type == "MatMul" and "plain" not in node.output
    ]
    inner = products[-1].output[0]  # of the last layer, where sub-tokens are packed
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "zero_axis"))
    model.graph.node.extend(
        [
            helper.make_node("Shape", [inner], ["inner_shape"]),
            helper.make_node("Gather", ["inner_shape", "zero_axis"], ["inner_rows"]),
            helper.make_node("Cast", ["inner_rows"], ["factor"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["plain", "factor"], ["logits"]),
        ]
    )
    onnx.save(model, tmp_path / "plain.onnx")
    assert pack_rows(model)
    onnx.save(model, tmp_path / "packed.onnx")
    mask = (np.arange(9) < np.array([[9], [2], [5]])).astype(np.int64)
    sessions = [OnnxSession(tmp_path / name, threads=1) for name in ("plain.onnx", "packed.onnx")]
    plain, packed = (session.run(batch_of(session, mask)) for session in sessions)
    np.testing.assert_allclose(packed[mask == 1], plain[mask == 1], rtol=0, atol=1e-4)


def test_a_packed_graph_is_not_packed_again(files: tuple[Path, Path]) -> None:
    model = onnx.load(files[1])
    nodes = [node.op_type for node in model.graph.node]
    assert "NonZero" in nodes
    assert not pack_rows(model)
    assert [node.op_type for node in model.graph.node] == nodes
