"""Options say how versions are checked and run on this machine."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from app.engine.runtimes.runtime import Provider


@dataclass(frozen=True)
class LoadOptions:
    """Says how versions are checked and run; the settings of the same names describe the fields."""

    provider: Provider = "cpu"
    allow_cpu_fallback: bool = False
    variant: str = "auto"
    threads: int = 0
    runs: int = 0
    max_queue_tokens: int = 1_000_000
    max_batch_tokens: int = 0
    batch_timeout: float = 10.0
    load_timeout: float = 120.0
    load_memory_bytes: int = 0
    trusted_keys: tuple[Path, ...] = ()
    trusted_since: datetime | None = None
    revoked: Path | None = None


DEFAULTS = LoadOptions()
