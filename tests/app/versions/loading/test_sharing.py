"""Sharing: what several versions have in common is loaded once."""

import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.errors import InferenceFailed, VersionRefused
from app.versions.loading.loader import Loader, Report
from app.versions.loading.options import LoadOptions
from app.versions.loading.sharing import once
from tests.bad_versions import truncated_model
from tests.teams import write_team
from tests.tiny import POISON, TEXT, edit_manifest, write_tiny_version

ONE_THREAD = LoadOptions(threads=1)


@pytest.fixture
def counted() -> Counter[str]:
    """How often each version was opened, of a loader that `counting` made."""
    return Counter()


def counting(counted: Counter[str]) -> Loader:
    def report(model: str, version: int) -> Report:
        counted[f"{model}/{version}"] += 1
        return lambda batch: None

    return Loader(ONE_THREAD, report)


def test_a_network_is_loaded_once_and_closes_with_its_last_user(
    models_dir: Path, counted: Counter[str]
) -> None:
    loader = counting(counted)
    folder = write_team(models_dir)
    team, alone, again = (
        loader.load(path) for path in (folder, models_dir / "ner-en/1", models_dir / "ner-en/1")
    )
    assert counted == {"ner-en/1": 1, "ner-en/2": 1, "other/1": 1}
    assert alone.model is again.model
    alone.close()
    alone.close()  # once is enough
    team.close()
    team.close()
    assert again.model.predict([TEXT])[0].entities
    again.close()
    assert not again.model.alive


def test_an_ensemble_keeps_its_members_when_others_close_them(models_dir: Path) -> None:
    loader = Loader(ONE_THREAD)
    alone, team = loader.load(models_dir / "ner-en/1"), loader.load(write_team(models_dir))
    alone.close()
    assert team.model.predict([TEXT])[0].entities
    team.close()
    assert not alone.model.alive


def test_two_ensembles_share_their_members(models_dir: Path, counted: Counter[str]) -> None:
    loader = counting(counted)
    first = loader.load(write_team(models_dir))
    (models_dir / "team/1").rename(models_dir / "team-1")
    shutil.rmtree(models_dir / "team")
    write_team(models_dir, "vote", version=2).rename(models_dir / "team/2")
    second = loader.load(models_dir / "team/2")
    assert set(counted.values()) == {1}
    first.close()
    assert second.model.predict([TEXT])[0].entities
    second.close()


def test_threads_that_load_at_the_same_time_load_once(models_dir: Path, counted: Counter[str]) -> None:
    loader, start, found = counting(counted), threading.Barrier(8), list[Any]()

    def load() -> None:
        start.wait()
        found.append(loader.load(models_dir / "ner-en/1"))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted == {"ner-en/1": 1}
    assert len({id(loaded.model) for loaded in found}) == 1
    for loaded in found:
        assert loaded.model.alive
        loaded.close()
    assert not found[0].model.alive


def test_a_folder_that_changed_is_loaded_anew(models_dir: Path) -> None:
    loader = Loader(ONE_THREAD)
    old = loader.load(models_dir / "ner-en/1")
    edit_manifest(models_dir / "ner-en/1", description="another")
    new = loader.load(models_dir / "ner-en/1")
    assert (old.manifest.description, new.manifest.description) != ("another", old.manifest.description)
    assert old.model is not new.model
    old.close()
    assert new.model.predict([TEXT])[0].entities
    new.close()


def test_a_network_that_fails_is_shared_with_nobody_new(models_dir: Path) -> None:
    loader = Loader(ONE_THREAD)
    old = loader.load(models_dir / "ner-en/1")
    for _ in range(3):
        with pytest.raises(InferenceFailed):
            old.model.predict([POISON])
    new = loader.load(models_dir / "ner-en/1")
    assert (old.model.failing, new.model.failing) == (True, False)
    old.close()
    again = loader.load(models_dir / "ner-en/1")
    assert again.model is new.model
    again.close()
    new.close()
    assert not new.model.alive


def test_what_was_refused_is_tried_again_once_it_is_asked_for(models_dir: Path) -> None:
    loader = Loader(ONE_THREAD)
    shutil.copy(models_dir / "ner-en/1/model.fp32.onnx", models_dir / "kept")
    truncated_model(models_dir / "ner-en/1")
    for _ in range(2):
        with pytest.raises(VersionRefused, match="the manifest says"):
            loader.load(models_dir / "ner-en/1")
    shutil.move(models_dir / "kept", models_dir / "ner-en/1/model.fp32.onnx")
    loader.load(models_dir / "ner-en/1").close()


def test_versions_that_bring_the_same_tokenizer_share_it(models_dir: Path) -> None:
    write_tiny_version(models_dir, version=2)
    write_tiny_version(models_dir, version=3, words="space", golden=[])
    loader = Loader(ONE_THREAD)
    loaded = [loader.load_single(models_dir / "ner-en" / str(version)) for version in (1, 2, 3)]
    first, second, third = (one.model.tokenizer for one in loaded)
    assert first is second
    assert (third is first, third.rule) == (False, "space")
    for one in loaded:
        one.close()


def test_the_background_shares_nothing_with_the_foreground(models_dir: Path) -> None:
    loader = Loader(LoadOptions(threads=2))
    loaded = loader.load(models_dir / "ner-en/1")
    hidden = loader.load(models_dir / "ner-en/1", background=True)
    assert (loaded.threads, hidden.threads) == (2, 1)
    assert loaded.model is not hidden.model
    hidden.close()
    assert loaded.model.alive
    loaded.close()


def test_what_is_done_once_is_done_by_the_first() -> None:
    calls: list[int] = []
    call = once(lambda: calls.append(1))
    call()
    call()
    assert calls == [1]
