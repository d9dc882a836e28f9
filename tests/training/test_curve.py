"""Learning curves of a toy student."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.manifest import read_manifest
from tests.training.toy import write_corpus, write_recipe
from training.curve import UNLABELLED, learning_curve, share_transfer_set, subset
from training.data.corpora import load_held_out, load_train
from training.data.documents import Document
from training.data.transfer import build_transfer_set
from training.evaluation.evaluate import evaluate
from training.evaluation.plots import learning_curve as drawn
from training.evaluation.runs import LearningCurve
from training.recipe import Recipe, load_recipe

STUDENT = """
[[students]]
name = "tiny"
architecture = "bilstm"
size = { embedding = 8, hidden = 8, layers = 1, dropout = 0.0 }
transfer = { epochs = 1, lr = 1e-2, batch_tokens = 128, max_length = 32, losses = { mse = 1.0 } }
alone = { epochs = 1, lr = 1e-2, batch_tokens = 128, max_length = 32 }
"""


def silent(line: str) -> None:
    """Ignore the message."""


def toy(folder: Path, *changes: str) -> Recipe:
    if not (folder / "toy.toml").exists():
        write_recipe(folder, students=STUDENT)
        write_corpus(folder / "train.jsonl", 300, 1)
        write_corpus(folder / "dev.jsonl", 20, 2)
        write_corpus(folder / "test.jsonl", 20, 3)
    return load_recipe(folder / "toy.toml", ["finetune.epochs=1", "transfer.texts=[]", *changes])


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    recipe = toy(tmp_path_factory.mktemp("curve"))
    return recipe, learning_curve(recipe, recipe.students[0], (1.0, 0.25), silent)


def test_a_curve_is_what_the_versions_on_disk_say(curve: tuple[Recipe, Path]) -> None:
    recipe, file = curve
    found = json.loads(file.read_text())
    whole = sum(len(corpus.documents) for corpus in load_train(recipe))
    assert found["shares"] == [0.25, 1.0]
    assert found["sizes"] == [round(0.25 * whole), whole]
    assert found["teacher_saw"] == "share"
    test = load_held_out(recipe.test, recipe)
    for at, share in enumerate(("0.25", "1")):
        for name in ("alone", "distilled", "teacher"):
            version = recipe.run_folder / f"models/tiny-curve-{share}-{name}/1"
            assert [one.precision for one in read_manifest(version).variants] == ["fp32"]
            f1 = evaluate(version, test)["average_f1"]
            assert found[name][at] == pytest.approx(f1, abs=0.01)
            assert found[f"{name}_low"][at] <= found[name][at] <= found[f"{name}_high"][at]
    assert found["teacher"][1] > found["teacher"][0]  # four times the labels
    assert "<svg" in drawn("Toy", LearningCurve(found))


def test_a_whole_share_is_the_run_itself(curve: tuple[Recipe, Path]) -> None:
    recipe, _ = curve
    assert (recipe.run_folder / "teacher/seed-1/done").exists()
    assert (recipe.run_folder / "students/tiny/transfer/done").exists()
    assert (recipe.run_folder / "students/tiny/alone/done").exists()
    assert [path.name for path in (recipe.run_folder / "learning_curve").iterdir()] == ["0.25"]


def test_what_is_done_is_not_done_twice(curve: tuple[Recipe, Path]) -> None:
    recipe, file = curve
    before, text = times(recipe), file.read_text()
    file.unlink()
    learning_curve(recipe, recipe.students[0], (0.25, 1.0), silent)
    assert times(recipe) == before
    assert file.read_text() == text


def times(recipe: Recipe) -> dict[Path, int]:
    """When each weight was written."""
    files = [*recipe.run_folder.rglob("*.safetensors"), *recipe.run_folder.rglob("*.onnx")]
    return {path: path.stat().st_mtime_ns for path in files}


def test_the_whole_teacher_is_called_so(curve: tuple[Recipe, Path]) -> None:
    recipe, file = curve
    before, text = times(recipe), file.read_text()
    learning_curve(recipe, recipe.students[0], (0.25,), silent, whole_teacher=True)
    found, own = json.loads(file.read_text()), json.loads(text)
    file.write_text(text)
    assert found["teacher_saw"] == "all"
    assert "teacher" not in found
    assert found["alone"] == own["alone"][:1]
    made = {path.parent for path in times(recipe).keys() - before.keys() if path.suffix == ".safetensors"}
    assert {path.relative_to(recipe.run_folder).as_posix() for path in made} == {
        f"learning_curve/0.25/distilled-whole-teacher/students/tiny/transfer/{name}"
        for name in ("checkpoint", "state")
    }


def test_a_version_of_another_training_is_refused(curve: tuple[Recipe, Path]) -> None:
    recipe, _ = curve
    manifest = recipe.run_folder / "models/tiny-curve-0.25-alone/1/manifest.json"
    text = manifest.read_text()
    key = read_manifest(manifest.parent).lineage["checkpoint"]
    manifest.write_text(text.replace(key, "0" * len(key)))
    with pytest.raises(ValueError, match="was made from another training"):
        learning_curve(recipe, recipe.students[0], (0.25,), silent)
    manifest.write_text(text)


def test_the_transfer_set_of_a_share_has_all_texts_and_varies_only_the_labelled(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("A line that nobody labelled.\nAnother one of these.\n")
    recipe = toy(tmp_path, 'transfer.texts=["lines.txt"]', "transfer.augment.mentions=1.0")
    (corpus,) = load_train(recipe)
    held_out = load_held_out((*recipe.dev, *recipe.test), recipe)
    taken = subset(corpus.documents, 0.1, "seed")
    labelled = replace(corpus, documents=taken)
    left = tuple(replace(one, spans=()) for one in corpus.documents if one not in taken)
    rest = replace(corpus, documents=left)
    found = share_transfer_set(recipe, [labelled], [rest], held_out)
    only = build_transfer_set(recipe, [labelled], held_out)
    assert {one.text for one in corpus.documents} <= set(found.texts)
    assert {one for one in only.texts if one not in {d.text for d in left}} <= set(found.texts)
    assert found.counts["mentions"] == only.counts["mentions"] <= len(taken)
    assert found.counts["lines.txt"] == 2
    assert found.counts[UNLABELLED] + len(only.texts) == len(found.texts)
    assert len(set(found.texts)) == len(found.texts)

    few = recipe.transfer.model_copy(update={"words": found.words - 5})
    limited = share_transfer_set(recipe.model_copy(update={"transfer": few}), [labelled], [rest], held_out)
    assert limited.words <= found.words - 5
    assert {one.text for one in corpus.documents} <= set(limited.texts)


@given(
    groups=st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=30),
    shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    seed=st.text(max_size=3),
)
def test_a_smaller_share_is_part_of_a_larger_one(
    groups: list[str], shares: tuple[float, float], seed: str
) -> None:
    documents = [Document(str(n), f"text {n}", group=group) for n, group in enumerate(groups)]
    small, large = (subset(documents, share, seed) for share in sorted(shares))
    assert set(small) <= set(large)
    assert len(small) >= max(1, round(min(shares) * len(documents)))
    assert list(large) == [one for one in documents if one in large]
    assert subset(documents, 1.0, seed) == tuple(documents)
    for group in {one.group for one in small} - {""}:
        assert {one for one in documents if one.group == group} <= set(small)


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        ((), (), "must be above 0"),
        ((0.5, 1.5), (), "shares 0.5, 1.5: must be above 0 and at most 1"),
        ((0.0,), (), "must be above 0"),
        ((0.5,), ("test=[]",), "measured on test files"),
        ((0.5,), ("finetune.seeds=[]", 'teacher.members=["x"]'), "finetune.seeds is empty"),
    ],
)
def test_mistakes_are_named(
    curve: tuple[Recipe, Path], sizes: tuple[float, ...], changes: tuple[str, ...], message: str
) -> None:
    recipe = toy(Path(curve[0].file).parent, *changes)
    with pytest.raises(ValueError, match=message):
        learning_curve(recipe, recipe.students[0], sizes, silent)


def test_a_student_that_is_never_alone_has_no_curve(curve: tuple[Recipe, Path]) -> None:
    recipe, _ = curve
    student = recipe.students[0].model_copy(update={"alone": None})
    with pytest.raises(ValueError, match=r"tiny has no \[students\.alone\]"):
        learning_curve(recipe, student, (0.5,), silent)
