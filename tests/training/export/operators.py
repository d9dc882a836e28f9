"""The operators that a file is really run with."""

from pathlib import Path

import onnx
import onnxruntime


def operators_at_run_time(path: Path, folder: Path) -> list[str]:
    """Of the graph that ONNX Runtime makes of a file and runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]
