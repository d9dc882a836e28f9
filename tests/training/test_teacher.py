"""What teachers say of a few texts, and how it is kept."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.text.words import split_words
from app.labels import tags_of
from tests.tiny import TAGS, write_tiny_version
from tests.training.toy import toy_documents
from training import teacher
from training.data.encode import NO_TARGET
from training.export.onnx_file import export_onnx, input_names
from training.export.package import Package, features_of, write_version
from training.recipe import Recipe, load_recipe
from training.stages.run_folder import CHECKPOINT, teacher_folder
from training.teacher import CheckpointMember, TeacherAnswers, label, member_key

TEXTS = [str(record["text"]) for record in toy_documents(11, seed=7)]


@dataclass(frozen=True)
class Setting:
    """A trained toy run, and a place for answers."""

    recipe: Recipe
    seeds: tuple[Path, Path]
    cache: Path

    def ask(self, folders: Sequence[Path], texts: Sequence[str] = TEXTS) -> TeacherAnswers:
        recipe = self.recipe
        tags = tags_of(recipe.labels, recipe.scheme)
        return label(folders, texts, tags, recipe, self.cache, lambda line: None)

    @property
    def files(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in self.cache.iterdir()}


@pytest.fixture
def setting(tuned: Path, tmp_path: Path) -> Setting:
    recipe = load_recipe(tuned / "toy.toml")
    first, second = (teacher_folder(recipe, seed) / CHECKPOINT for seed in (1, 2))
    return Setting(recipe, (first, second), tmp_path / "answers")


@pytest.fixture
def tiny_recipe(toy: Path) -> Recipe:
    """A recipe whose tags are those of `tests.tiny`, in another order."""
    return load_recipe(toy / "toy.toml", ['scheme="IOB2"', 'labels=["LOC", "PER", "ORG"]'])


def every_row(answers: TeacherAnswers, texts: Sequence[str] = TEXTS) -> list[int]:
    return [row for number in range(len(texts)) for row in answers.of_text(number).tolist()]


def test_each_word_has_what_the_network_says_of_it(setting: Setting) -> None:
    answers = setting.ask(setting.seeds[:1])
    tags = tags_of(setting.recipe.labels, setting.recipe.scheme)
    member = CheckpointMember(setting.seeds[0], tags, setting.recipe)
    for number, (encoded, values) in enumerate(member.answer(TEXTS)):
        rows = answers.of_text(number)
        assert len(rows) == len(split_words(TEXTS[number])) == len(encoded.firsts)
        np.testing.assert_allclose(answers.rows(rows), values, atol=0.01)  # fp16
        np.testing.assert_allclose(np.exp(values).sum(1), 1, rtol=1e-5)
    named = {tags[column] for column in answers.rows(np.array(every_row(answers))).argmax(1)}
    assert {"O", "B-PER", "E-PER", "S-LOC", "S-ORG"} <= named


def test_answers_are_kept_by_member_and_texts(setting: Setting) -> None:
    before = setting.ask(setting.seeds)
    files = setting.files
    assert len(files) == 2
    again = setting.ask(setting.seeds)
    assert setting.files == files
    rows = np.array(every_row(before))
    np.testing.assert_array_equal(again.rows(rows), before.rows(rows))
    setting.ask(setting.seeds[:1], TEXTS[:3])
    assert len(setting.files) == 3
    assert files.items() <= setting.files.items()


def test_the_teacher_is_the_mean_of_its_members(setting: Setting) -> None:
    both, first, second = (
        setting.ask(setting.seeds),
        setting.ask(setting.seeds[:1]),
        setting.ask(setting.seeds[1:]),
    )
    rows = np.array(every_row(both))
    assert not np.array_equal(first.rows(rows), second.rows(rows))
    np.testing.assert_allclose(both.rows(rows), (first.rows(rows) + second.rows(rows)) / 2, rtol=1e-6)


class Watched(list[str]):
    """Texts that record where slices start, and interrupt the labelling from some text on."""

    def __init__(self, texts: Sequence[str], gone: int):
        super().__init__(texts)
        self.gone = gone
        self.starts: list[int] = []

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            if key.start >= self.gone:
                raise KeyboardInterrupt
            self.starts.append(key.start)
        return super().__getitem__(key)


@pytest.mark.parametrize(("gone", "left"), [(4, [4, 8]), (8, [8]), (0, [0, 4, 8])])
def test_a_stopped_labelling_goes_on_with_the_next_chunk(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: int, left: list[int]
) -> None:
    monkeypatch.setattr(teacher, "_TEXTS_A_SAVE", 4)
    whole = Setting(setting.recipe, setting.seeds, tmp_path / "whole")
    whole.ask(setting.seeds[:1])
    with pytest.raises(KeyboardInterrupt):
        setting.ask(setting.seeds[:1], Watched(TEXTS, gone))
    assert not list(setting.cache.glob("*.npy"))
    rest = Watched(TEXTS, len(TEXTS))
    setting.ask(setting.seeds[:1], rest)
    assert rest.starts == left
    assert set(setting.files) == set(whole.files)
    for name in whole.files:
        assert (setting.cache / name).read_bytes() == (whole.cache / name).read_bytes()


def test_a_word_without_a_decision_of_its_own_has_no_target(setting: Setting) -> None:
    texts = ["Anna \u200b moved .", "\u200b", "", "Acme"]
    answers = setting.ask(setting.seeds, texts)
    assert [answers.of_text(number).tolist() for number in range(4)] == [
        [0, NO_TARGET, 2, 3],
        [NO_TARGET],
        [],
        [5],
    ]
    assert np.isfinite(answers.rows(np.array([0, 2, 3, 5]))).all()


def test_a_version_teaches_too_whatever_the_order_of_its_tags(tiny_recipe: Recipe, tmp_path: Path) -> None:
    version = write_tiny_version(tmp_path, temperature=2.0)
    setting = Setting(tiny_recipe, (version, version), tmp_path / "answers")
    answers = setting.ask([version], ["Angela Merkel visited IBM in New York."])
    tags = tags_of(tiny_recipe.labels, tiny_recipe.scheme)
    assert sorted(tags) == sorted(TAGS)
    assert tags != TAGS
    found = answers.rows(answers.of_text(0))
    best = [tags[column] for column in found.argmax(1)]
    assert best == ["B-PER", "I-PER", "O", "B-ORG", "O", "B-LOC", "I-LOC", "O"]
    # "angela" has a logit of 8 for one tag and 0 for six, and the temperature is 2.
    assert found[0, tags.index("B-PER")] == pytest.approx(4 - np.log(np.exp(4) + 6), abs=2e-3)


def test_a_checkpoint_and_its_export_say_the_same(setting: Setting, tmp_path: Path) -> None:
    recipe = setting.recipe
    export_onnx(str(setting.seeds[0]), tmp_path / "model.onnx")
    package = Package(
        name="exported",
        labels=recipe.labels,
        tags=tags_of(recipe.labels, recipe.scheme),
        scheme=recipe.scheme,
        files={"fp32": tmp_path / "model.onnx"},
        tokenizer=setting.seeds[0] / "tokenizer.json",
        inputs=features_of(input_names(tmp_path / "model.onnx"), word_shapes=True),
        max_length=recipe.export.max_length,
        stride=recipe.export.stride,
    )
    version = write_version(package, tmp_path, 1)
    checkpoint, exported = setting.ask(setting.seeds[:1]), setting.ask([version])
    rows = np.array(every_row(checkpoint))
    assert every_row(exported) == rows.tolist()
    ours, theirs = (np.exp(answers.rows(rows)) for answers in (checkpoint, exported))
    np.testing.assert_allclose(ours, theirs, atol=0.1)  # one of them in bf16
    both = setting.ask([setting.seeds[0], version])
    np.testing.assert_allclose(
        both.rows(rows), (checkpoint.rows(rows) + exported.rows(rows)) / 2, rtol=1e-6
    )


def test_another_order_of_labels_is_asked_anew(tiny_recipe: Recipe, tmp_path: Path, toy: Path) -> None:
    version = write_tiny_version(tmp_path)
    best = {}
    for labels in ('["LOC", "PER", "ORG"]', '["PER", "ORG", "LOC"]'):
        recipe = load_recipe(toy / "toy.toml", ['scheme="IOB2"', f"labels={labels}"])
        answers = Setting(recipe, (version, version), tmp_path / "answers").ask([version], ["IBM"])
        best[labels] = tags_of(recipe.labels, "IOB2")[int(answers.rows(np.array([0])).argmax())]
    assert set(best.values()) == {"B-ORG"}


def test_a_folder_that_is_no_teacher_is_named(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: holds neither manifest\.json .* nor tokenizer\.json"):
        setting.ask([tmp_path / "empty"])


def test_a_teacher_of_other_tags_is_named(setting: Setting, tmp_path: Path) -> None:
    version = write_tiny_version(tmp_path)  # IOB2, the recipe is BIOES
    with pytest.raises(ValueError, match=r"ner-en/1: its tags are O, B-PER, .* choose the recipe's"):
        setting.ask([version])
    other = Setting(
        setting.recipe.model_copy(update={"labels": ("PER", "ORG", "SHIP")}), setting.seeds, setting.cache
    )
    with pytest.raises(ValueError, match=r"seed-1/checkpoint: its tags are O, B-PER.*the recipe's .*SHIP"):
        other.ask(setting.seeds)


def test_a_teacher_of_other_words_is_named(tiny_recipe: Recipe, tmp_path: Path) -> None:
    version = write_tiny_version(tmp_path, words="space", golden=())
    setting = Setting(tiny_recipe, (version, version), tmp_path / "answers")
    with pytest.raises(ValueError, match=r"splits words by 'space', .* set encoder\.words = \"space\""):
        setting.ask([version])


def test_a_members_key_changes_with_its_weights(setting: Setting, tmp_path: Path) -> None:
    first, second = (
        write_tiny_version(tmp_path / name, ibm=label) for name, label in (("a", "ORG"), ("b", "PER"))
    )
    keys = {member_key(folder) for folder in (*setting.seeds, first, second)}
    assert len(keys) == 4
    manifest = json.loads((first / "manifest.json").read_text())
    (first / "manifest.json").write_text(json.dumps(manifest | {"temperature": 3.0}))
    assert member_key(first) not in keys
