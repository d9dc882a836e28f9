"""A session is an ONNX file that ONNX Runtime has opened with one execution provider."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime

from app.engine.runtimes.runtime import Arrays, Contract, Logits, OnnxFile
from app.errors import InferenceFailed, SettingsError, VersionRefused
from app.machine import available_cpus

CPU = "CPUExecutionProvider"

_SPIN_MICROSECONDS = 100
"""Microseconds that an idle intra-op thread spins before it sleeps. With fewer, waking it between operators
takes time; with more, spinning takes CPU from the thread that makes the next batch."""

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Where an ONNX file in memory may find its weights on disk; by default that is the working folder."""

_SHARED_WEIGHT = "Attempt to replace the existing tensor"
"""ONNX Runtime says this of a graph with one weight in two products, which it cannot make exact."""


class OnnxSession:
    """Runs an ONNX file with ONNX Runtime. The session closes when the last reference to it is dropped.

    Args:
        file: the ONNX file, or its path.
        provider: execution provider that must run the file.
        threads: intra-op threads; 0 takes `available_cpus()`.
        output: name of the output that holds the logits.
        options: options of the provider.

    Attributes:
        provider: execution provider that runs the file.
        threads: intra-op threads.
        inputs, outputs: names of the file's inputs and outputs.

    Raises:
        SettingsError: ONNX Runtime chose another provider than `provider`.
    """

    def __init__(
        self,
        file: Path | OnnxFile,
        provider: str = CPU,
        threads: int = 0,
        output: str = "logits",
        options: Mapping[str, str] | None = None,
    ):
        threads = threads or available_cpus()
        providers = [(provider, dict(options or {})), *([] if provider == CPU else [(CPU, {})])]
        try:
            self._session: Any = _opened(file, _options(threads, exact=True), providers)
        except Exception as error:  # the runtime's own exception types share no root
            if _SHARED_WEIGHT not in str(error):
                raise
            self._session = _opened(file, _options(threads, exact=False), providers)
        self._session.disable_fallback()
        self._output = [output]
        self.provider: str = self._session.get_providers()[0]
        if self.provider != provider:
            raise SettingsError(
                f"{file.name}: a session on {provider} was asked for, and the runtime could make one on "
                f"{self.provider} only; free memory of the GPU, or set NERVE_PROVIDER=cpu"
            )
        self.threads = threads
        self._runs: dict[int, Any] = {}  # the options of each thread's run, by which it can be stopped
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        """Return `rows` and `longest` unchanged: a batch needs no more padding."""
        return rows, longest

    def run(self, batch: Arrays) -> Logits:
        """Return logits of shape (rows, length, tags) from int64 arrays of shape (rows, length).

        Several threads may call it at once.

        Raises:
            InferenceFailed: the runtime refused the batch or ran out of memory, or it was stopped.
        """
        thread = threading.get_ident()
        self._runs[thread] = options = onnxruntime.RunOptions()
        try:
            return np.asarray(self._logits(batch, options), np.float32)
        except Exception as error:  # the runtime's own exception types share no root
            raise InferenceFailed(f"the session failed on a batch: {error}") from error
        finally:
            del self._runs[thread]

    def stop(self, thread: int) -> None:
        """Tell the run of a thread, if there is one, to fail before its next operator."""
        if options := self._runs.get(thread):
            options.terminate = True

    def checked(self, file: Path | OnnxFile, contract: Contract) -> Self:
        """Return this session if its inputs and outputs are those of the contract.

        Raises:
            VersionRefused: they are not.
        """
        if set(self.inputs) != contract.inputs or contract.output not in self.outputs:
            raise VersionRefused(
                f"{file.name} has inputs {sorted(self.inputs)} and outputs {sorted(self.outputs)}, the "
                f"manifest says {sorted(contract.inputs)} and {contract.output}; export it again"
            )
        return self

    def _logits(self, batch: Arrays, options: Any) -> Any:
        (logits,) = self._session.run(self._output, dict(batch), options)
        return logits


def _options(threads: int, exact: bool) -> Any:
    """Return the options of a session.

    Args:
        exact: keep products of int8 exact on CPUs without VNNI too, where sums of two saturate otherwise.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4 if exact else 3  # a shared weight is no error: it is opened again
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_MICROSECONDS))
    # This stops all spinning between batches.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
    # Shapes change with every batch, so memory plans for each shape would only fill memory.
    options.enable_mem_pattern = False
    return options


def _opened(file: Path | OnnxFile, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
    if isinstance(file, Path):
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    if weights := file.weights:
        contents = list(weights.values())
        options.add_external_initializers_from_files_in_memory(
            list(weights), contents, list(map(len, contents))
        )
    options.add_session_config_entry(_WEIGHTS_FOLDER, os.devnull)
    session = onnxruntime.InferenceSession(file.content, options, providers=providers)
    session._model_bytes = None  # the session keeps the content otherwise, although it needs it no more
    return session
