"""Canary: decides which requests a canary answers, and when its abort rule ends it."""

import random
import threading
from collections import deque
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from app.versions.rollout.desired import AbortRule, Canary


def chosen(canary: Canary, name: str, key: str | None) -> bool:
    """Decide whether the canary of a model answers a request.

    Args:
        key: the value that the request sticks by; None draws at random. The same key always gets the same
            version, and keys of the canary stay with it when its share grows.
    """
    if key is None:
        at = random.random()
    else:  # hashing the version too gives the next canary other callers
        digest = blake2b(f"{name}/{canary.version}\0{key}".encode(), digest_size=8).digest()
        at = int.from_bytes(digest) / 2**64
    return 100 * at < canary.percent


class CanaryWatch:
    """Keeps the outcomes of the last requests of a canary and the stable version, and judges by them."""

    def __init__(self, rule: AbortRule):
        self._rule = rule
        self._lock = threading.Lock()
        self._canary: deque[tuple[float, bool]] = deque(maxlen=rule.requests)
        self._stable: deque[tuple[float, bool]] = deque(maxlen=rule.requests)

    def record(self, canary: bool, seconds: float, failed: bool) -> None:
        """Count one request.

        Args:
            canary: True if the canary answered, False if the stable version did.
            seconds: how long the lease was held.
            failed: whether the request failed by the server's fault.
        """
        with self._lock:
            (self._canary if canary else self._stable).append((seconds, failed))

    def verdict(self) -> str | None:
        """Return why the canary should be taken out; None while it is no worse, or requests are too few.

        The stable version counts as having failed at least once, so that a single failure ends no canary.
        Latencies are compared once both versions have answered `rule.requests` requests.
        """
        rule = self._rule
        with self._lock:
            canary, stable = list(self._canary), list(self._stable)
        if len(canary) < rule.requests:
            return None
        if rule.errors is not None:
            failures = sum(failed for _, failed in canary)
            beside = sum(failed for _, failed in stable) * len(canary) / max(1, len(stable))
            if failures > rule.errors * max(1.0, beside):
                return (
                    f"errors: {failures} of its last {len(canary)} requests failed, and of the stable "
                    f"version's last {len(stable)} {sum(failed for _, failed in stable)}"
                )
        if rule.p99 is not None and len(stable) == rule.requests:
            ours, theirs = (float(np.percentile([s for s, _ in part], 99)) for part in (canary, stable))
            if ours > rule.p99 * theirs:
                return (
                    f"p99: {1000 * ours:.1f} ms over its last {len(canary)} requests, "
                    f"{1000 * theirs:.1f} ms for the stable version"
                )
        return None


@dataclass(frozen=True)
class Tryout:
    """Holds a canary that answers requests, and the watch that judges it if it has an abort rule."""

    canary: Canary
    watch: CanaryWatch | None
