from pathlib import Path

import numpy as np
import onnx
import pytest

from app.engine.runtimes.runtime import Logits
from app.engine.runtimes.session import OnnxSession
from tests.training.export.checkpoints import write_checkpoint
from tests.training.export.operators import operators_at_run_time
from tests.training.models.teachers import student
from training.export.onnx_file import export_onnx
from training.export.quantize import quantize_by_row
from training.models.transformer import TransformerTagger

VOCABULARY = 1500  # enough for a table that is worth shrinking


@pytest.fixture(scope="module", params=["bert", "roberta", "deberta"])
def files(
    request: pytest.FixtureRequest, one_cpu: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """fp32 and int8. DeBERTa's graph has branches, BERT's and RoBERTa's have none."""
    folder = tmp_path_factory.mktemp("quantize")
    checkpoint = write_checkpoint(folder / "checkpoint", request.param, vocab_size=VOCABULARY)
    export_onnx(str(checkpoint), folder / "fp32.onnx")
    quantize_by_row(folder / "fp32.onnx", folder / "int8.onnx")
    return folder / "fp32.onnx", folder / "int8.onnx"


@pytest.fixture(scope="module", params=["bilstm", "cnn"])
def own(
    request: pytest.FixtureRequest, one_cpu: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """fp32 and int8 of a network of our own."""
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = write_checkpoint(folder / "teacher", "bert", vocab_size=VOCABULARY)
    tagger = student(request.param, TransformerTagger.load(checkpoint))
    tagger.save(folder / "tagger")
    export_onnx(str(folder / "tagger"), folder / "fp32.onnx")
    quantize_by_row(folder / "fp32.onnx", folder / "int8.onnx")
    return folder / "fp32.onnx", folder / "int8.onnx"


def run(session: OnnxSession, rows: list[np.ndarray], length: int) -> Logits:
    ids = np.ones((len(rows), length), np.int64)
    mask = np.zeros((len(rows), length), np.int64)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = values
        mask[row, : len(values)] = 1
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    arrays["word_shape"] = ids % 6 * mask
    return session.run({name: arrays[name] for name in session.inputs})


def rows(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(5, VOCABULARY, length) for length in lengths]


def test_no_scale_is_a_tensors(files: tuple[Path, Path]) -> None:
    operators = [node.op_type for node in onnx.load(files[1]).graph.node]
    assert "DynamicQuantizeLinear" not in operators
    assert "MatMulInteger" not in operators  # int32 that would be cast and scaled in passes of their own
    assert operators.count("MatMulIntegerToFloat") >= 13  # six linear layers twice, and the head


def test_a_row_alone_gives_the_same_bits_as_among_others(files: tuple[Path, Path]) -> None:
    session = OnnxSession(files[1], threads=1)
    batch = rows([5, 31, 12, 64, 1, 17])
    together = run(session, batch, 64)
    for row, values in enumerate(batch):
        alone = run(session, [values], len(values))[0]
        np.testing.assert_array_equal(together[row, : len(values)], alone)


def test_neither_company_nor_padding_nor_threads_change_a_bit(files: tuple[Path, Path]) -> None:
    """Batches at random: rows of 1 to 100 sub-tokens, up to 9 of them, in any order, padded at will."""
    one, two = (OnnxSession(files[1], threads=threads) for threads in (1, 2))
    rng = np.random.default_rng(11)
    pool = rows([int(length) for length in rng.integers(1, 101, 24)])
    alone = [run(one, [values], len(values))[0] for values in pool]
    for _ in range(20):
        chosen = rng.choice(len(pool), rng.integers(1, 10), replace=False)
        batch = [pool[index] for index in chosen]
        length = max(map(len, batch)) + int(rng.integers(0, 20))
        together = run(one, batch, length)
        np.testing.assert_array_equal(run(two, batch, length), together)
        for row, index in enumerate(chosen):
            np.testing.assert_array_equal(together[row, : len(pool[index])], alone[index])


def test_padding_changes_no_bit(files: tuple[Path, Path]) -> None:
    session = OnnxSession(files[1], threads=1)
    (values,) = rows([13])
    alone = run(session, [values], 13)[0]
    for length in range(14, 70):
        np.testing.assert_array_equal(run(session, [values], length)[0, :13], alone)


def test_int8_stays_close_to_fp32(files: tuple[Path, Path]) -> None:
    batch = rows([40] * 8)
    fp32, int8 = (run(OnnxSession(path, threads=1), batch, 40) for path in files)
    assert np.abs(int8 - fp32).mean() < 0.02 * fp32.std()
    assert (int8.argmax(-1) == fp32.argmax(-1)).mean() > 0.97


def test_our_own_stay_close_to_fp32(own: tuple[Path, Path]) -> None:
    batch = rows([40] * 8)
    fp32, int8 = (run(OnnxSession(path, threads=1), batch, 40) for path in own)
    assert np.abs(int8 - fp32).max() < 0.1 * fp32.std()


def test_our_own_depend_on_their_row_alone(own: tuple[Path, Path]) -> None:
    """To the bit where every product is by row; an LSTM is fp32 and may round by the batch."""
    session, batch = OnnxSession(own[1], threads=1), rows([5, 31, 12, 64, 1, 17])
    together = run(session, batch, 70)
    lstm = any(node.op_type == "LSTM" for node in onnx.load(own[1]).graph.node)
    for row, values in enumerate(batch):
        alone = run(session, [values], len(values))[0]
        np.testing.assert_allclose(together[row, : len(values)], alone, rtol=0, atol=0.05 if lstm else 0)


def test_tables_of_our_own_are_int8_and_the_rest_is_fused(own: tuple[Path, Path], tmp_path: Path) -> None:
    tables = {table.name: table for table in onnx.load(own[1]).graph.initializer}
    assert tables["embeddings.words.weight_int8"].data_type == onnx.TensorProto.INT8
    assert "embeddings.words.weight" not in tables
    operators = operators_at_run_time(own[1], tmp_path)
    assert "MatMul" not in operators
    if "LSTM" in operators:
        assert operators.count("MatMulIntegerToFloat") == 1  # the classifier
    else:
        assert operators.count("MatMulIntegerToFloat") == 5  # widening, three layers, classifier
        assert operators.count("LayerNormalization") == 4
        assert operators.count("Cast") == 2  # of the mask, once, and of what is looked up
        assert not {"Conv", "Transpose", "Sqrt", "Pow"} & set(operators)


def test_next_to_nothing_is_kept_for_what_gelu_never_gives(files: tuple[Path, Path]) -> None:
    graph = onnx.load(files[1]).graph
    makers = {output: node for node in graph.node for output in node.output}
    zeros = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {
        (makers[makers[node.input[0]].input[0]].op_type == "FastGelu", int(zeros[node.input[4]]))
        for node in graph.node
        if node.op_type == "MatMulIntegerToFloat"
    }
    assert found == {(True, 16), (False, 128)}


def test_a_batch_makes_each_kind_of_zero_once(files: tuple[Path, Path]) -> None:
    """For all layers, but not in DeBERTa: its attention stays as it was exported, with shapes unknown."""
    nodes = onnx.load(files[1]).graph.node
    made = [node.output[0] for node in nodes if node.op_type == "ConstantOfShape"]
    if not any(node.op_type == "If" for node in nodes):
        assert sum(name.endswith("_zero") for name in made) == 2


def test_a_row_of_zeros_is_no_division_by_zero(tmp_path: Path) -> None:
    source, target = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    onnx.save(linear_graph(), source)
    quantize_by_row(source, target)
    arrays = {"x": np.array([[0], [1]])}
    got = OnnxSession(target, threads=1).run(arrays)
    np.testing.assert_array_equal(got[0], np.zeros((1, 3)))
    np.testing.assert_allclose(got, OnnxSession(source, threads=1).run(arrays), atol=0.02)


def test_int8_files_are_smaller(files: tuple[Path, Path]) -> None:
    fp32, int8 = (onnx.load(path).graph.initializer for path in files)
    assert sum(len(table.raw_data) for table in int8) < 0.5 * sum(len(table.raw_data) for table in fp32)


def test_a_table_looked_up_twice_is_shrunk_once(tmp_path: Path) -> None:
    source, target = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    onnx.save(linear_graph(lookups=2), source)
    quantize_by_row(source, target)
    names = [table.name for table in onnx.load(target).graph.initializer]
    assert names.count("table_int8") == 1
    assert "table" not in names
    arrays = {"x": np.array([[0], [1], [1999]])}
    want = OnnxSession(source, threads=1).run(arrays)
    np.testing.assert_allclose(OnnxSession(target, threads=1).run(arrays), want, atol=0.05)


def linear_graph(lookups: int = 1) -> onnx.ModelProto:
    """A table whose first row is zero, looked up and summed, and one linear layer."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(5)
    table = rng.normal(size=(2000, 8)).astype(np.float32)
    table[0] = 0
    weights = rng.normal(size=(8, 3)).astype(np.float32) / 8
    nodes = [helper.make_node("Gather", ["table", "x"], [f"row{i}"]) for i in range(lookups)]
    nodes.append(helper.make_node("Sum", [f"row{i}" for i in range(lookups)], ["rows"]))
    nodes.append(helper.make_node("MatMul", ["rows", "weights"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["rows", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "length", 3])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
