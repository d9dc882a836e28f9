"""Gauges: report the loaded sessions of each version, what they run on, and what waits for them."""

import threading

from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion


class LoadedGauges:
    """Sets `nerve_model_info` and `nerve_queue_tokens` from what is loaded in this process."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self._loaded: list[LoadedVersion] = []
        self._lock = threading.Lock()  # of two concurrent refreshes, the older value could be set last

    def opened(self, loaded: LoadedVersion) -> None:
        """Count a version as loaded, and its queue from now on."""
        self._metrics.model_info.labels(*_info(loaded)).inc()
        with self._lock:
            self._loaded.append(loaded)
            self._set_queues()

    def closed(self, loaded: LoadedVersion) -> None:
        """Stop counting a version that was closed."""
        self._metrics.model_info.labels(*_info(loaded)).dec()
        with self._lock:
            self._loaded = [other for other in self._loaded if other is not loaded]
            self._metrics.queue_tokens.labels(*_of(loaded)).set(0)
            self._set_queues()

    def refresh(self) -> None:
        """Read the queues and set their gauge; requests do not update it."""
        with self._lock:
            self._set_queues()

    def _set_queues(self) -> None:
        queues = {(_of(loaded), id(loaded.model)): loaded.model for loaded in self._loaded}
        waiting = dict.fromkeys((of for of, _ in queues), 0)  # versions may share a model and its queue
        for (of, _), model in queues.items():
            waiting[of] += model.waiting_tokens
        for of, tokens in waiting.items():
            self._metrics.queue_tokens.labels(*of).set(tokens)


def _of(loaded: LoadedVersion) -> tuple[str, str]:
    return loaded.manifest.name, str(loaded.manifest.version)


def _info(loaded: LoadedVersion) -> tuple[str, ...]:
    precision = loaded.variant.precision
    return (*_of(loaded), precision, loaded.provider, str(loaded.threads), str(loaded.runs))
