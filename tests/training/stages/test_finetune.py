"""What fine-tuning starts from and learns from; whole runs are in `tests/training/test_cli.py`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app.engine.text.words import split_words
from training.data.corpora import load_train
from training.models.transformer import load_tokenizer
from training.recipe import Recipe, load_recipe
from training.stages.finetune import finetune_seed, finetune_stage, labelled_examples, pretrained
from training.stages.run_folder import CHECKPOINT, teacher_folder


@pytest.fixture(scope="module")
def recipe(tuned: Path) -> Recipe:
    return load_recipe(tuned / "toy.toml")


def test_the_same_seed_gives_the_same_network(recipe: Recipe) -> None:
    first, second, other = (pretrained(recipe.encoder, recipe, seed)[1].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["network.classifier.weight"], other["network.classifier.weight"])


def test_a_trained_seed_is_not_trained_again(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    checkpoints = finetune_stage(recipe, said.append)
    assert checkpoints == [teacher_folder(recipe, seed) / CHECKPOINT for seed in recipe.finetune.seeds]
    assert "epoch" not in capsys.readouterr().out
    assert said[0].startswith("toy-train: ")
    assert "leaks dropped" in said[0]


def test_a_seed_of_another_recipe_is_refused(recipe: Recipe) -> None:
    faster = recipe.finetune.model_copy(update={"lr": 1.0})
    with pytest.raises(ValueError, match=r"seed-1: was made with other stage"):
        finetune_seed(recipe.model_copy(update={"finetune": faster}), 1, load_train(recipe))


def test_examples_are_repeated_and_point_at_the_teachers_answers(recipe: Recipe) -> None:
    (corpus,) = load_train(recipe)
    few = replace(corpus, documents=corpus.documents[:3], repeat=2)
    tokenizer = load_tokenizer(recipe.encoder.path)
    plain = labelled_examples(recipe, [few], tokenizer)
    assert len(plain) == 6
    assert all((example.rows == -1).all() for example in plain)
    taught = labelled_examples(
        recipe, [few], tokenizer, lambda text: np.arange(len(split_words(text, "bert")))
    )
    for document, example in zip(few.documents, taught[:3], strict=True):
        assert example.rows.max() == len(split_words(document.text, "bert")) - 1


def test_without_a_seed_nothing_is_trained(recipe: Recipe) -> None:
    none = recipe.finetune.model_copy(update={"seeds": ()})
    with pytest.raises(ValueError, match=r"finetune\.seeds is empty"):
        finetune_stage(recipe.model_copy(update={"finetune": none}), print)
