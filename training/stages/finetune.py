"""This module fine-tunes a pretrained encoder on labelled text, once for each seed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from app.engine.text.tokenizer import Tokenizer
from app.engine.text.words import Ints
from app.labels import tags_of
from training.data.corpora import LoadedCorpus, load_held_out, load_train
from training.data.encode import Example, encode
from training.loop import TrainingData, train
from training.models.transformer import TransformerTagger, load_tokenizer
from training.progress import Say, Watch
from training.recipe import Encoder, Recipe
from training.stages.once import once
from training.stages.run_folder import CHECKPOINT, data_made_of, prepare, teacher_folder


def finetune_stage(recipe: Recipe, say: Say) -> list[Path]:
    """Fine-tune the encoder with each seed, or resume; return the best epoch's checkpoint of each.

    Raises:
        ValueError: there is no seed, the data has problems, or a folder holds a training of another
            recipe.
    """
    if not recipe.finetune.seeds:
        raise ValueError(f"{recipe.file}: finetune.seeds is empty; give a seed to fine-tune with")
    prepare(recipe)
    corpora = load_train(recipe)
    for corpus in corpora:
        say(
            f"{corpus.name}: {len(corpus.documents)} texts "
            f"({corpus.duplicates} duplicates and {corpus.leaks} leaks dropped)"
        )
    return [finetune_seed(recipe, seed, corpora) for seed in recipe.finetune.seeds]


def finetune_seed(
    recipe: Recipe, seed: int, corpora: Sequence[LoadedCorpus], watch: Watch | None = None
) -> Path:
    """Fine-tune the encoder with one seed, or resume; return the best epoch's checkpoint.

    Raises:
        ValueError: the seed's folder holds a training of another recipe.
    """
    folder, stage = teacher_folder(recipe, seed), recipe.finetune

    def work() -> None:
        tokenizer, tagger = pretrained(recipe.encoder, recipe, seed)
        examples = labelled_examples(recipe, corpora, tokenizer)
        data = TrainingData(examples, tokenizer, load_held_out(recipe.dev, recipe))
        train(tagger, data, stage, seed, recipe, folder, watch)

    own = {"seed": seed, "stage": stage.model_dump(mode="json", exclude={"seeds"})}
    once(folder, data_made_of(recipe) | own, work)
    return folder / CHECKPOINT


def pretrained(encoder: Encoder, recipe: Recipe, seed: int) -> tuple[Tokenizer, TransformerTagger]:
    """Load the tokenizer and network of a pretrained encoder, with a new classification layer."""
    tagger = TransformerTagger.from_pretrained(
        encoder.path,
        tags_of(recipe.labels, recipe.scheme),
        encoder.word_shapes,
        encoder.dropout,
        torch.Generator().manual_seed(seed),
    )
    return load_tokenizer(encoder.path, encoder.words, encoder.spaced_marks), tagger


def labelled_examples(
    recipe: Recipe,
    corpora: Sequence[LoadedCorpus],
    tokenizer: Tokenizer,
    rows: Callable[[str], Ints] | None = None,
) -> list[Example]:
    """Return the examples of the training corpora, each as often as its corpus is repeated.

    Args:
        rows: returns the row of the teacher's answers for each word of a text; None without a teacher.
    """
    examples = []
    for corpus in corpora:
        found = [rows(document.text) for document in corpus.documents] if rows else None
        encoded = encode(corpus.documents, tokenizer, recipe.scheme, recipe.labels, found)
        examples += encoded * corpus.repeat
    return examples
