"""A binding keeps the buffers of a session's inputs and logits on a device, one set for each shape."""

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from app.engine.runtimes.runtime import Arrays

_SHAPES = 32
"""Most shapes whose buffers are kept. The buffers of one take a few hundred kilobytes at most."""


class _Buffers:
    """Holds the inputs of one shape on the device, and the binding that refers to them."""

    def __init__(self, session: Any, shape: tuple[int, int], output: str, device: str):
        self.lock = threading.Lock()
        self._session = session
        self._binding = session.io_binding()
        self._inputs = {
            item.name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.int64, device)
            for item in session.get_inputs()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        tags = next(item.shape[2] for item in session.get_outputs() if item.name == output)
        if isinstance(tags, int):
            logits = onnxruntime.OrtValue.ortvalue_from_shape_and_type((*shape, tags), np.float32, device)
            self._binding.bind_ortvalue_output(output, logits)
        else:  # the graph does not say its number of tags, so the runtime makes room on each run
            self._binding.bind_output(output, device)

    def run(self, batch: Arrays, options: Any) -> npt.NDArray[Any]:
        for name, value in self._inputs.items():
            value.update_inplace(np.ascontiguousarray(batch[name], np.int64))
        self._session.run_with_iobinding(self._binding, options)
        (logits,) = self._binding.copy_outputs_to_cpu()
        return np.asarray(logits)


class DeviceBinding:
    """Runs a session with its inputs and logits bound to a device.

    Inputs are copied into existing buffers, and the logits are copied back once. Different shapes run at
    the same time, but batches of one shape one after another. Tests only run it with `device="cpu"`.

    Args:
        session: an `onnxruntime.InferenceSession` whose inputs are int64 of shape (rows, length).
        output: name of the output that holds the logits.
        device: `cuda` or `cpu`.
    """

    def __init__(self, session: Any, output: str, device: str = "cuda"):
        self._session, self._output, self._device = session, output, device
        self._names = tuple(item.name for item in session.get_inputs())
        self._kept: OrderedDict[tuple[int, int], _Buffers] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, batch: Arrays, options: Any = None) -> npt.NDArray[Any]:
        """Return logits in the host's memory. Errors are ONNX Runtime's, or ValueError for wrong inputs.

        Args:
            options: the `onnxruntime.RunOptions` of this run.
        """
        shapes = {batch[name].shape for name in self._names if name in batch}
        if set(batch) != set(self._names) or len(shapes) != 1:
            raise ValueError(
                f"the graph takes {', '.join(self._names)}, all of one shape (rows, length), and was given "
                f"{', '.join(f'{name} {array.shape}' for name, array in batch.items())}"
            )
        (shape,) = shapes
        buffers = self._buffers(shape)
        with buffers.lock:
            return buffers.run(batch, options)

    def _buffers(self, shape: Any) -> _Buffers:
        """Return the buffers of a shape, new or kept. Dropped ones live until their running batch ends."""
        with self._lock:
            if shape not in self._kept:
                self._kept[shape] = _Buffers(self._session, shape, self._output, self._device)
            self._kept.move_to_end(shape)
            if len(self._kept) > _SHAPES:
                self._kept.popitem(last=False)
            return self._kept[shape]
