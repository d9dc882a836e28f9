from pathlib import Path

import pytest

from app.errors import SettingsError
from app.settings import Settings, read_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"NERVE_{field.upper()}", raising=False)


def test_defaults() -> None:
    settings = read_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.default_model == "ner-en"
    assert settings.models_dir == Path("models")
    assert settings.state_folder == Path("models/.state")
    assert (settings.provider, settings.variant) == ("auto", "auto")
    assert settings.max_body_bytes == 8 * 1024 * 1024
    assert settings.max_text_chars == 1_000_000
    assert settings.max_texts == 1_000
    assert settings.request_timeout == 60
    assert settings.stream_spool_bytes == 1024**3


def test_every_field_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERVE_HOST", "0.0.0.0")
    monkeypatch.setenv("NERVE_PORT", "9000")
    monkeypatch.setenv("NERVE_MODELS_DIR", "/srv/models")
    monkeypatch.setenv("NERVE_LOG_FORMAT", "json")
    settings = read_settings()
    assert (settings.host, settings.port, settings.log_format) == ("0.0.0.0", 9000, "json")
    assert settings.state_folder == Path("/srv/models/.state")


def test_the_state_may_lie_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERVE_STATE_DIR", "/var/lib/nerve")
    assert read_settings().state_folder == Path("/var/lib/nerve")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", ()),
        ("*", ("*",)),
        ("ner.example.com, *.Example.org,", ("ner.example.com", "*.example.org")),
    ],
)
def test_hosts_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, value: str, names: tuple[str, ...]
) -> None:
    monkeypatch.setenv("NERVE_ALLOWED_HOSTS", value)
    assert read_settings().allowed_hosts == names


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERVE_CENTER", "1")
    monkeypatch.setenv("PORT", "1")
    assert read_settings().port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NERVE_PORT", "http"),
        ("NERVE_PORT", "70000"),
        ("NERVE_PORT", "-1"),
        ("NERVE_PORT", ""),
        ("NERVE_PROVIDER", "tpu"),
        ("NERVE_VARIANT", "int4"),
        ("NERVE_LOG_LEVEL", "loud"),
        ("NERVE_LOG_FORMAT", "xml"),
        ("NERVE_MAX_TEXTS", "0"),
        ("NERVE_POLL_SECONDS", "0"),
        ("NERVE_REQUEST_TIMEOUT", "-1"),
        ("NERVE_REQUEST_TIMEOUT", "inf"),
        ("NERVE_REQUEST_TIMEOUT", "nan"),
        ("NERVE_STREAM_SPOOL_BYTES", "0"),
        ("NERVE_ALLOW_CPU_FALLBACK", "perhaps"),
        ("NERVE_ALLOWED_HOSTS", "http://ner.example.com"),
        ("NERVE_ALLOWED_HOSTS", "ner.example.com:8000"),
        ("NERVE_ALLOWED_HOSTS", "ner.*.com"),
    ],
)
def test_a_bad_value_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}='{value}': "):
        read_settings()


def test_every_bad_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERVE_PORT", "http")
    monkeypatch.setenv("NERVE_PROVIDER", "tpu")
    with pytest.raises(SettingsError, match=r"NERVE_PORT=.*NERVE_PROVIDER="):
        read_settings()


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())
