from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from tests.tiny import TAGS, VOCABULARY, tiny_graph
from training.evaluation.timed import count_parameters, encoder_in_torch
from training.recipe import load_recipe


def test_parameters_are_counted_in_initializers_and_constants(tmp_path: Path) -> None:
    graph = tiny_graph()
    before = (len(VOCABULARY) - 1) * len(TAGS) + 1  # the table, and the axis of Unsqueeze
    onnx.save(graph, tmp_path / "tiny.onnx")
    assert count_parameters(tmp_path / "tiny.onnx") == before
    weight = numpy_helper.from_array(np.zeros((3, 5), np.float32))
    graph.graph.node.append(helper.make_node("Constant", [], ["weight"], value=weight))
    onnx.save(graph, tmp_path / "tiny.onnx")
    assert count_parameters(tmp_path / "tiny.onnx") == before + 15


def test_pytorch_has_its_threads_back(toy: Path) -> None:
    before = torch.get_num_threads()
    with ExitStack() as stack:
        timed = encoder_in_torch(load_recipe(toy / "toy.toml"), before + 1, stack)
        assert torch.get_num_threads() == timed.threads == before + 1
    assert torch.get_num_threads() == before


def test_pytorch_takes_texts_that_are_longer_than_its_windows(toy: Path) -> None:
    with ExitStack() as stack:
        timed = encoder_in_torch(load_recipe(toy / "toy.toml"), 1, stack)
        timed.sentence("Anna Adler moved to Aachen . " * 40)  # or it raises, as positions end at 64
        assert timed.sentence("") == []
