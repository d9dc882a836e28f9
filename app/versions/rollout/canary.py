"""Canary: which requests it answers, and when it is taken out by its own rule."""

import random
import threading
from collections import deque
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from app.versions.rollout.desired import AbortRule, Canary


def chosen(canary: Canary, name: str, key: str | None) -> bool:
    """Whether the canary of a model answers a request.

    Args:
        key: what the request sticks to; None leaves it to chance. The same key is always answered by the
            same version, and a key that the canary answers stays with it when the share grows.
    """
    if key is None:
        at = random.random()
    else:  # the version is part of the hash, so that other callers try out the next canary
        digest = blake2b(f"{name}/{canary.version}\0{key}".encode(), digest_size=8).digest()
        at = int.from_bytes(digest) / 2**64
    return 100 * at < canary.percent


class CanaryWatch:
    """Keeps the last answers of a canary and of the stable version beside it, and judges by them."""

    def __init__(self, rule: AbortRule):
        self._rule = rule
        self._lock = threading.Lock()
        self._canary: deque[tuple[float, bool]] = deque(maxlen=rule.requests)
        self._stable: deque[tuple[float, bool]] = deque(maxlen=rule.requests)

    def record(self, canary: bool, seconds: float, failed: bool) -> None:
        """Count one request.

        Args:
            canary: whether the canary answered it, and not the stable version.
            seconds: how long its lease was held.
            failed: whether it failed by the server's fault.
        """
        with self._lock:
            (self._canary if canary else self._stable).append((seconds, failed))

    def verdict(self) -> str | None:
        """Why the canary should be taken out; None while it is not worse or too little is known.

        The stable version counts as having failed at least once, so that a single failure ends no canary.
        Latencies are compared once the stable version has answered as many requests as the canary.
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
    """A canary that answers its share of the requests, and what watches it where it has a rule."""

    canary: Canary
    watch: CanaryWatch | None
