"""Gauges: how many sessions of each version are loaded, what they run on, and how much waits for them."""

import threading

from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion


class LoadedGauges:
    """Keeps `nerve_model_info` and `nerve_queue_tokens` true to what is loaded in this process."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self._loaded: list[LoadedVersion] = []
        self._lock = threading.Lock()  # two refreshes at once could set an older value last

    def opened(self, loaded: LoadedVersion) -> None:
        """Count a version among those that are loaded, and its queue from now on."""
        self._metrics.model_info.labels(*_info(loaded)).inc()
        with self._lock:
            self._loaded.append(loaded)
            self._set_queues()

    def closed(self, loaded: LoadedVersion) -> None:
        """Count a version no longer."""
        self._metrics.model_info.labels(*_info(loaded)).dec()
        with self._lock:
            self._loaded = [other for other in self._loaded if other is not loaded]
            self._metrics.queue_tokens.labels(*_of(loaded)).set(0)
            self._set_queues()

    def refresh(self) -> None:
        """Set the gauge of the queues, which changes with every request and is not counted on the way."""
        with self._lock:
            self._set_queues()

    def _set_queues(self) -> None:
        queues = {(_of(loaded), id(loaded.model)): loaded.model for loaded in self._loaded}
        waiting = dict.fromkeys((of for of, _ in queues), 0)  # loadings may share a model: it is one queue
        for (of, _), model in queues.items():
            waiting[of] += model.waiting_tokens
        for of, tokens in waiting.items():
            self._metrics.queue_tokens.labels(*of).set(tokens)


def _of(loaded: LoadedVersion) -> tuple[str, str]:
    return loaded.manifest.name, str(loaded.manifest.version)


def _info(loaded: LoadedVersion) -> tuple[str, ...]:
    precision = loaded.variant.precision
    return (*_of(loaded), precision, loaded.provider, str(loaded.threads), str(loaded.runs))
