"""Binding: inputs and logits of a session that stay on a device, made once a shape and filled anew."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from app.engine.runtimes.batch_shapes import graph_shape

_SHAPES = 32
"""Shapes whose buffers are kept. One needs some hundred kilobytes at most."""

_GRAPHS = 64
"""CUDA graphs that are recorded; their buffers stay until the session ends."""

_CUDA = "CUDAExecutionProvider"

_NO_GRAPH = -1  # the runtime's number for a run that is neither recorded nor replayed


class _Buffers:
    """What one shape needs: its inputs on the device, and a binding that knows them."""

    def __init__(
        self, session: Any, shape: tuple[int, int], output: str, device: str, host: Any, graph: int | None
    ):
        self.lock = threading.Lock()
        self._session = session
        self._binding = session.io_binding()
        self._inputs = {
            item.name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.int64, device)
            for item in session.get_inputs()
        }
        self._staged = {
            name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.int64, memory_info=host)
            for name in self._inputs
            if host is not None
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        tags = next(item.shape[2] for item in session.get_outputs() if item.name == output)
        if isinstance(tags, int):
            logits = onnxruntime.OrtValue.ortvalue_from_shape_and_type((*shape, tags), np.float32, device)
            self._binding.bind_ortvalue_output(output, logits)
        else:  # a graph that does not say how many tags it has: the runtime makes room on each run
            self._binding.bind_output(output, device)
        self._options = onnxruntime.RunOptions()
        if graph is not None:
            self._options.add_run_config_entry("gpu_graph_id", str(graph))

    def run(self, batch: Mapping[str, npt.NDArray[np.int64]]) -> npt.NDArray[Any]:
        for name, value in self._inputs.items():
            if name in self._staged:
                self._staged[name].numpy()[...] = batch[name]  # a view, not a copy
                value.update_inplace(self._staged[name])
            else:
                value.update_inplace(np.ascontiguousarray(batch[name], np.int64))
        self._session.run_with_iobinding(self._binding, self._options)
        (logits,) = self._binding.copy_outputs_to_cpu()
        return np.asarray(logits)


class DeviceBinding:
    """Runs a session with its inputs and logits bound to a device.

    Inputs are copied into buffers that are there already, and the logits are copied back once. A shape
    is run by one thread at a time, different shapes at once. Without a GPU it was run with
    `device="cpu"` alone, and CUDA graphs on no device.

    Args:
        session: an `onnxruntime.InferenceSession` whose inputs are int64 of shape (rows, length).
        output: name of the logits' output.
        device: `cuda` or `cpu`.
        graphs: run the shapes of `graph_shape` as CUDA graphs. The session must have been made with
            the provider's option `enable_cuda_graph`. A graph belongs to the thread that recorded it
            and all share a stream, so that one thread then runs everything.
        host: memory that inputs pass through on their way, as `pinned_memory` finds; None copies them
            from where they are.
    """

    def __init__(
        self, session: Any, output: str, device: str = "cuda", graphs: bool = False, host: Any = None
    ):
        self._session, self._output, self._device = session, output, device
        self._graphs, self._host = graphs, host
        self._names = tuple(item.name for item in session.get_inputs())
        self._kept: OrderedDict[tuple[int, int], _Buffers] = OrderedDict()
        self._recorded: dict[tuple[int, int], _Buffers] = {}
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cuda-graphs") if graphs else None

    def run(self, batch: Mapping[str, npt.NDArray[np.int64]]) -> npt.NDArray[Any]:
        """Logits on the host. Errors are the runtime's own, or ValueError for inputs that do not fit."""
        shapes = {batch[name].shape for name in self._names if name in batch}
        if set(batch) != set(self._names) or len(shapes) != 1:
            raise ValueError(
                f"the graph takes {', '.join(self._names)}, all of one shape (rows, length), and was given "
                f"{', '.join(f'{name} {array.shape}' for name, array in batch.items())}"
            )
        (shape,) = shapes
        if self._thread:
            return self._thread.submit(self._run, shape, batch).result()
        return self._run(shape, batch)

    def _run(self, shape: Any, batch: Mapping[str, npt.NDArray[np.int64]]) -> npt.NDArray[Any]:
        buffers = self._buffers(shape)
        with buffers.lock:
            return buffers.run(batch)

    def _buffers(self, shape: tuple[int, int]) -> _Buffers:
        """Those of a shape, made where it is new. A thread that runs others keeps them itself."""
        with self._lock:
            if shape in self._recorded:
                return self._recorded[shape]
            if self._graphs and len(self._recorded) < _GRAPHS and graph_shape(*shape) == shape:
                made = self._made(shape, len(self._recorded) + 1)
                self._recorded[shape] = made
                return made
            if shape not in self._kept:
                self._kept[shape] = self._made(shape, _NO_GRAPH if self._graphs else None)
            self._kept.move_to_end(shape)
            if len(self._kept) > _SHAPES:
                self._kept.popitem(last=False)
            return self._kept[shape]

    def _made(self, shape: tuple[int, int], graph: int | None) -> _Buffers:
        return _Buffers(self._session, shape, self._output, self._device, self._host, graph)


def pinned_memory() -> Any | None:
    """Where the runtime gets page-locked memory, which a GPU copies from without the CPU; None where it
    has none.

    Its Python interface offers it only for providers that are registered as a library, so this
    registers CUDA's. Written from the interface's documentation and run on no GPU.
    """
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        if not any(device.ep_name == _CUDA for device in onnxruntime.get_ep_devices()):
            onnxruntime.register_execution_provider_library(_CUDA, str(library))
        kind = onnxruntime.OrtDeviceMemoryType.HOST_ACCESSIBLE
        found = (d.memory_info(kind) for d in onnxruntime.get_ep_devices() if d.ep_name == _CUDA)
        return next((info for info in found if info is not None), None)
    except Exception:  # the runtime's own exception types share no root
        return None
