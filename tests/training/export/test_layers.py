from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.training.export.checkpoints import KINDS, write_checkpoint
from tests.training.export.operators import operators_at_run_time
from tests.training.models.teachers import student
from training.export.fusion import largest_difference
from training.export.layers import MICROSOFT, lean_layers
from training.export.onnx_file import export_onnx
from training.models.transformer import TransformerTagger


@pytest.fixture(scope="module", params=[*KINDS, "deberta", "bilstm", "cnn", "transformer"])
def graphs(
    request: pytest.FixtureRequest, one_cpu: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    """A kind of network, its graph as exported, and the lean one."""
    kind, folder = str(request.param), tmp_path_factory.mktemp("layers")
    own = kind in ("bilstm", "cnn", "transformer")
    checkpoint = write_checkpoint(folder / "checkpoint", "bert" if own else kind)
    if own:
        student(kind, TransformerTagger.load(checkpoint)).save(folder / "tagger")
        checkpoint = folder / "tagger"
    source, lean = folder / "fp32.onnx", folder / "lean.onnx"
    export_onnx(str(checkpoint), source)
    onnx.save(lean_layers(onnx.load(source)), lean)
    onnx.checker.check_model(str(lean))
    return kind, source, lean


def test_a_lean_graph_computes_the_same(graphs: tuple[str, Path, Path]) -> None:
    """On rows that are full, padded on either side, and with holes."""
    _, source, lean = graphs
    assert largest_difference(source, lean) < 1e-4


def test_attention_is_written_with_few_operators(graphs: tuple[str, Path, Path]) -> None:
    kind, source, lean = graphs
    operators = Counter(node.op_type for node in onnx.load(lean).graph.node)
    before = Counter(node.op_type for node in onnx.load(source).graph.node)
    layers = before["Softmax"]
    assert operators["Softmax"] == layers
    assert not {"Attention", "SkipLayerNormalization", "BiasGelu"} & set(operators)
    if layers and kind != "deberta":
        assert not {"Sqrt", "Erf"} & set(operators)
        assert operators["Sum"] == 2 * layers
        assert operators["Reshape"] == operators["Transpose"] == 4 * layers
        assert operators["Gelu"] >= layers


def test_the_runtime_makes_no_slow_operator_of_residuals(
    graphs: tuple[str, Path, Path], tmp_path: Path
) -> None:
    assert "SkipLayerNormalization" not in operators_at_run_time(graphs[2], tmp_path)


def test_attention_that_asks_for_more_stays_as_it_is() -> None:
    rng = np.random.default_rng(2)
    tensors = {"weights": rng.normal(size=(8, 24)), "bias": rng.normal(size=24)}
    node = helper.make_node(
        "Attention",
        ["x", "weights", "bias", "mask"],
        ["y"],
        domain=MICROSOFT,
        num_heads=2,
        unidirectional=1,
    )
    graph = helper.make_graph(
        [node],
        "looks back only",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "length", 8]),
            helper.make_tensor_value_info("mask", TensorProto.INT32, ["rows", "length"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "length", 8])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
    lean = lean_layers(helper.make_model(graph, opset_imports=opsets))
    assert [kept.op_type for kept in lean.graph.node] == ["Attention"]
