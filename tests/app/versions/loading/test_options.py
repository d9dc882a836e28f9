"""Options of loading: each is a setting, and a sandbox gets all of them."""

from dataclasses import asdict, fields
from datetime import UTC
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from app.settings import Settings
from app.versions.loading.options import DEFAULTS, LoadOptions

PLAIN = {"provider": "auto"}
"""What a server takes by default, where it is not what a version is loaded with by itself."""


@pytest.mark.parametrize("name", [field.name for field in fields(LoadOptions)])
def test_every_option_is_a_setting_with_the_same_default(name: str) -> None:
    assert name in Settings.model_fields
    assert Settings.model_fields[name].get_default() == PLAIN.get(name, getattr(DEFAULTS, name))


whole, seconds = st.integers(0, 10**12), st.floats(0, allow_infinity=False)

options = st.builds(
    LoadOptions,
    provider=st.sampled_from(["auto", "cpu", "cuda"]),
    allow_cpu_fallback=st.booleans(),
    variant=st.text(),
    threads=whole,
    runs=whole,
    max_queue_tokens=whole,
    max_batch_tokens=whole,
    load_timeout=seconds,
    load_memory_bytes=whole,
    trusted_since=st.none() | st.datetimes(timezones=st.none() | st.just(UTC)),
    revoked=st.none() | st.text("/.aé", min_size=1).map(Path),
    trusted_keys=st.lists(st.text("/.aé", min_size=1).map(Path), max_size=2).map(tuple),
)


@given(options)
def test_options_are_the_same_in_another_process(options: LoadOptions) -> None:
    adapter = TypeAdapter(LoadOptions)
    assert adapter.validate_json(adapter.dump_json(options)) == options


def test_options_are_values() -> None:
    said = LoadOptions(threads=3, trusted_keys=(Path("a.pem"),))
    assert {said, LoadOptions(**asdict(said))} == {said}
