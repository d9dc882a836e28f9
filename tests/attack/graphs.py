"""A tiny network that never ends where a text holds one word, and answers all else as ever."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.slow_graphs import adding, with_zero
from tests.tiny import VOCABULARY

HANG = "apple"
"""The word; no golden text has it."""


def hanging() -> onnx.ModelProto:
    """The tiny network, which counts for longer than anyone lives where a row holds `HANG`."""
    return with_zero(
        [
            helper.make_node("Equal", ["input_ids", "word"], ["is_word"]),
            helper.make_node("Cast", ["is_word"], ["ones"], to=TensorProto.INT64),
            helper.make_node("ReduceMax", ["ones"], ["any"], keepdims=0),
            helper.make_node("Mul", ["any", "many"], ["times"]),
            helper.make_node("ReduceSum", ["looked_up"], ["some"], keepdims=0),
            helper.make_node("Mul", ["some", "none"], ["start"]),
            helper.make_node("Loop", ["times", "yes", "start"], ["counted"], body=adding("one")),
            helper.make_node("Mul", ["counted", "none"], ["zero"]),
        ],
        word=np.array(VOCABULARY.index(HANG)),
        many=np.array(2**60),
        yes=np.array(True),
        one=np.array(1, np.float32),
        none=np.array(0, np.float32),
    )
