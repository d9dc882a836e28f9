"""Load options are taken from the settings."""

from app.machine import available_cpus
from app.settings import Settings
from app.versions.loading.options import LoadOptions


def load_options(settings: Settings) -> LoadOptions:
    """Return the load options of the settings. By default each worker gets its share of the CPUs."""
    return LoadOptions(
        provider=settings.provider,
        allow_cpu_fallback=settings.allow_cpu_fallback,
        variant=settings.variant,
        threads=settings.threads or max(1, available_cpus() // (settings.workers or 1)),
        runs=settings.runs,
        max_queue_tokens=settings.max_queue_tokens,
        max_batch_tokens=settings.max_batch_tokens,
        batch_timeout=settings.batch_timeout,
        load_timeout=settings.load_timeout,
        load_memory_bytes=settings.load_memory_bytes,
        trusted_keys=settings.trusted_keys,
        trusted_since=settings.trusted_since,
        revoked=settings.revoked,
    )
