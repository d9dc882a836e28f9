from pathlib import Path

import pytest

from app.labels import tags_of
from training import recipe as tables
from training.data.cleaning import CLEANING
from training.data.readers import READERS
from training.recipe import load_recipe

SHIPPED = sorted((Path(__file__).parents[2] / "training/recipes").glob("*.toml"))

OWN = """
name = "own"
labels = ["PER"]

[encoder]
path = "some/encoder"

[[train]]
name = "train"
paths = ["train.conll"]
reader = "conll"
options = { scheme = "IOB1", tag_column = 3 }

[[dev]]
name = "dev"
paths = ["dev.conll"]
reader = "conll"
"""


STUDENT = "students=[{name='a', architecture='cnn', %s}]"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN, encoding="utf-8")
    return path


def test_a_recipe_may_name_all_that_data_has() -> None:
    assert set(tables.READERS) == set(READERS)
    assert set(tables.CLEANING) == set(CLEANING)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_load(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem  # the model card names the recipe so
    assert recipe.license
    assert all(corpus.licence and corpus.source for corpus in recipe.train)
    for corpus in (*recipe.train, *recipe.dev, *recipe.test):
        assert set(corpus.labels.values()) <= {*recipe.labels, "O"}


def test_no_test_file_is_trained_on_or_selected_on() -> None:
    for path in SHIPPED:
        recipe = load_recipe(path)
        used = {file for corpus in (*recipe.train, *recipe.dev) for file in corpus.paths}
        assert not used & {file for corpus in recipe.test for file in corpus.paths}


def test_a_recipe_has_defaults(own: Path) -> None:
    recipe = load_recipe(own)
    assert recipe.scheme == "BIOES"
    assert recipe.run_folder == Path("runs/own")
    assert recipe.train[0].options == {"scheme": "IOB1", "tag_column": 3}
    assert tags_of(recipe.labels, recipe.scheme)[0] == "O"


def test_a_recipe_may_have_many_teachers_and_students(own: Path) -> None:
    recipe = load_recipe(
        own,
        [
            "finetune.seeds=[]",
            "finetune.unfreeze=gradual",
            "finetune.trained_layers=0",
            "teacher.members=['models/ner-en/1', 'models/other/2']",
            "students=[{name='a', architecture='cnn', size={dilations=[1, 2]}}, "
            "{name='b', architecture='bilstm', labelled={losses={mse=0.5, cross_entropy=0.5}}}]",
        ],
    )
    first, second = recipe.students
    assert recipe.teacher.members == ("models/ner-en/1", "models/other/2")
    assert first.size == {"dilations": (1, 2)}
    assert first.transfer.losses == {"mse": 1.0}
    assert (first.labelled, first.alone) == (None, None)
    assert second.labelled is not None
    assert second.labelled.wanted == {"mse", "cross_entropy"}


def test_values_are_changed_in_toml_or_bare_words(own: Path) -> None:
    changes = ["finetune.lr=1e-4", "encoder.path=other/encoder", 'output="runs/b"', "export.golden=['a']"]
    recipe = load_recipe(own, [*changes, "encoder.word_shapes = false"])
    assert recipe.finetune.lr == 1e-4
    assert recipe.encoder.path == "other/encoder"
    assert recipe.run_folder == Path("runs/b")
    assert recipe.export.golden == ("a",)
    assert recipe.encoder.word_shapes is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("finetune.lr", "must be table.key=value"),
        ("finetune.speed=1", "finetune.speed: Extra inputs are not permitted"),
        ("finetune.lr=-1", "finetune.lr: Input should be greater than 0 (got '-1')"),
        ("name.first=a", "name is no table of the recipe"),
        ("train.name=a", "train is no table of the recipe"),
        ("scheme=IOBES", "scheme: Input should be 'IO', 'IOB1', 'IOB2' or 'BIOES'"),
        ("labels=[]", "labels"),
        ("finetune.losses={mse=1.0}", "finetune: Value error, losses: labelled text without a teacher"),
        ("finetune.losses={cross_entropy=0}", "losses: one weight must be above 0"),
        ("finetune.losses={surprise=1}", "finetune.losses.surprise"),
        ("finetune.unfreeze=gradual", 'unfreeze = "gradual" needs trained_layers of the first epoch'),
        ("finetune.seeds=[]", "finetune.seeds is empty; give a seed, or name a teacher"),
        ("students=[{name='A', architecture='cnn'}]", "students.0.name"),
        (STUDENT % "transfer={losses={cross_entropy=1}}", "the transfer set has no labels"),
        (STUDENT % "alone={losses={kl=1}}", "alone.losses: labelled text without a teacher"),
        (
            STUDENT % "encoder={path='other', words='space'}",
            "students a: its encoder.words is 'space', the recipe's 'bert'",
        ),
    ],
)
def test_a_wrong_change_is_named(own: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        load_recipe(own, [change])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('reader = "conll"\noptions', 'reader = "conllu"\noptions', f"none of {', '.join(READERS)}"),
        ("options =", "clean = ['the']\noptions =", "clean ['the'] are none of articles, "),
        ("[[dev]]", "[[develop]]", "dev: Field required"),
        ("[encoder]", "[encoder", "not TOML"),
    ],
)
def test_a_wrong_recipe_is_named(own: Path, old: str, new: str, message: str) -> None:
    own.write_text(OWN.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=r"own\.toml: ") as caught:
        load_recipe(own)
    assert message in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.toml: no such recipe"):
        load_recipe(tmp_path / "nowhere.toml")
