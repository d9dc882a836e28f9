"""How versions are loaded, as the settings say."""

from pathlib import Path

import pytest

from app.machine import available_cpus
from app.settings import Settings
from app.versions.loading.from_settings import load_options


@pytest.mark.parametrize(
    ("threads", "workers", "expected"),
    [(0, 0, available_cpus()), (0, 1, available_cpus()), (0, 10_000, 1), (3, 2, 3)],
)
def test_workers_part_the_cpus_unless_threads_are_said(
    tmp_path: Path, threads: int, workers: int, expected: int
) -> None:
    settings = Settings(models_dir=tmp_path, threads=threads, workers=workers)
    assert load_options(settings).threads == expected


def test_settings_of_the_same_names_are_options(tmp_path: Path) -> None:
    said = {"provider": "cpu", "variant": "int8", "runs": 3, "max_queue_tokens": 7, "load_timeout": 1.5}
    options = load_options(Settings(models_dir=tmp_path, **said))  # type: ignore[arg-type]
    assert {name: getattr(options, name) for name in said} == said
