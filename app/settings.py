"""Settings are read from `NERVE_*` environment variables."""

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import SettingsError

_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class Settings(BaseSettings):
    """Holds all settings. The environment variable of a field is `NERVE_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="NERVE_", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="names that the server is reached under, separated by commas, such as "
        "`ner.example.com` or `*.example.com`; `*` allows any",
    )
    models_dir: Path = Field(Path("models"), description="folder of `<name>/<version>/` folders")
    state_dir: Path | None = Field(
        None, description="where the desired state is kept; default `<models dir>/.state`"
    )
    default_model: str = Field("ner-en", description="model of requests that name none")
    provider: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="execution provider; `auto` takes CUDA where it works, else the CPU"
    )
    allow_cpu_fallback: bool = Field(
        False, description="with `cuda`: run on the CPU where CUDA does not work, and say so"
    )
    variant: Literal["auto", "int8", "fp32", "fp16"] = Field(
        "auto", description="precision to load; `auto` takes the version's first for the provider"
    )
    workers: int = Field(
        0,
        ge=0,
        description="processes that serve, sharing one port; 0 takes one, or where one interpreter cannot "
        "keep 4 or more CPUs busy, as many as it takes, measured at start",
    )
    threads: int = Field(
        0,
        ge=0,
        description="threads that run a version; 0 takes the CPUs this server may use, parted among its "
        "workers",
    )
    runs: int = Field(
        0, ge=0, description="batches that run at a time, among which the threads are parted; 0 measures it"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe line that is logged"
    )
    log_format: Literal["text", "json"] = Field("text", description="one line a request, or JSON")
    max_connections: int = Field(
        0,
        ge=0,
        description="connections that a process holds at a time; 0 takes what its file descriptors allow, "
        "4096 at most",
    )
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1, description="largest request body, in bytes")
    max_bodies_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1,
        description="memory, in bytes, for all bodies and lines of streams that are being received, the "
        "first 64 KiB of each left out, parted among the workers; above it they get 429",
    )
    body_timeout: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds in which a body must have come, and a line of a stream after its first 64 KiB",
    )
    max_text_chars: int = Field(1_000_000, ge=1, description="longest text, in code points")
    max_request_chars: int = Field(
        2_000_000, ge=1, description="most characters of all texts of a request, in code points"
    )
    max_texts: int = Field(1_000, ge=1, description="most texts a request")
    request_timeout: float = Field(
        60.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds until a request is answered 504; a caller's `X-Request-Timeout-Ms` can only "
        "shorten them; 0 sets no limit",
    )
    stream_spool_bytes: int = Field(
        1024**3,
        ge=1,
        description="largest part of a stream, in bytes, that waits on disk while its client does not read",
    )
    stream_spools_bytes: int = Field(
        4 * 1024**3,
        ge=1,
        description="largest part of all streams together, in bytes, that waits on disk, parted among the "
        "workers",
    )
    stream_idle_timeout: float = Field(
        300.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds that the client of a stream may neither send nor read anything",
    )
    max_queue_tokens: int = Field(
        1_000_000,
        ge=1,
        description="sub-tokens that may wait, a quarter of them for each of four sizes of requests; above "
        "it, requests of that size get 429",
    )
    max_batch_tokens: int = Field(
        0,
        ge=0,
        description="largest batch, rows times longest row, in sub-tokens; 0 takes 512 on a CPU, and on a "
        "GPU what it can take, found when a version loads",
    )
    max_loaded_versions: int = Field(
        4,
        ge=1,
        description="versions kept loaded for requests that pin one, beside the stable ones",
    )
    poll_seconds: float = Field(0.5, gt=0, description="how often models and desired state are looked at")
    converge_timeout: float = Field(
        30.0, ge=0, description="seconds a change waits for every worker to follow before it answers 202"
    )
    batch_timeout: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds that a batch may take before it is stopped as hung, or 20 times what such a "
        "batch should take, if that is longer",
    )
    load_timeout: float = Field(120.0, gt=0, description="seconds that checking a version may take")
    load_memory_bytes: int = Field(
        0,
        ge=0,
        description="private memory, in bytes, that checking a version may take, used or reserved: some 80 "
        "MB more than is resident; 0 takes 20 times the size of its files, but at least 2 GiB, and with "
        "CUDA sets no limit",
    )
    trusted_keys: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="public keys, PEM files or folders, separated by `:`; versions must be signed by one",
    )

    trusted_since: datetime | None = Field(
        None, description="versions that were created before this time (ISO 8601) are refused"
    )
    revoked: Path | None = Field(
        None,
        description="file that names versions to refuse: `<name>/<version>` or the SHA-256 of a "
        "`manifest.json` on each line, `#` before a comment",
    )

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("allowed_hosts")
    @classmethod
    def _lower(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _HOST.fullmatch(name):
                raise ValueError("give names without scheme, port and path, such as ner.example.com")
        return tuple(name.lower() for name in names)

    @field_validator("trusted_keys", mode="before")
    @classmethod
    def _separated(cls, value: object) -> object:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value

    @property
    def state_folder(self) -> Path:
        return self.state_dir or self.models_dir / ".state"


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: values are out of range or of the wrong kind; the message names each.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"NERVE_{str(e['loc'][0]).upper()}={e['input']!r}: {e['msg']}" for e in error.errors()
        )
        raise SettingsError(problems) from None
