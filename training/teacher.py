"""This module runs the teacher: one or more fine-tuned networks that give each word tag probabilities.

Answers are stored by word, so that a student may use another tokenizer than its teacher. Each member's
log-probabilities are computed once and kept on disk in fp16. The teacher's answer is their mean: a
geometric mean of the distributions, where Hinton et al. 2015 take the arithmetic mean.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.engine.text.words import Ints, split_words
from app.files import write_whole
from app.labels import WordRule
from app.manifest import MANIFEST, file_hash
from app.versions.loading.loader import load_single
from app.versions.loading.options import LoadOptions
from training.data.encode import NO_TARGET
from training.inference import logits_of
from training.models import load_tagger
from training.progress import Say
from training.recipe import Recipe

Floats = npt.NDArray[np.float32]

_TEXTS_A_SAVE = 2_000
"""Texts that are labelled between two saves; a kill loses the work on at most this many."""


class Member(Protocol):
    """Answers texts with one network of the teacher.

    Attributes:
        rule: the rule by which it splits text into words.
    """

    rule: WordRule

    def answer(self, texts: Sequence[str]) -> list[tuple[EncodedText, Floats]]:
        """Return each text's decisions and their log-probabilities, shape (decisions, tags)."""
        ...

    def close(self) -> None:
        """Release the network."""


class CheckpointMember:
    """Runs a checkpoint of this package in PyTorch."""

    def __init__(self, folder: Path, tags: Sequence[str], recipe: Recipe):
        self.rule = recipe.encoder.words
        self._tagger = load_tagger(folder).to("cuda" if torch.cuda.is_available() else "cpu")
        self._columns = _columns(folder, self._tagger.tags, tags)
        self._tokenizer = Tokenizer.from_file(folder / "tokenizer.json", self.rule)
        self._window = recipe.export.max_length, recipe.export.stride

    def answer(self, texts: Sequence[str]) -> list[tuple[EncodedText, Floats]]:
        encoded = self._tokenizer.encode(texts)
        logits = logits_of(self._tagger, self._tokenizer, encoded, len(self._columns), *self._window)
        return [
            (text, _log_softmax(values[:, self._columns]))
            for text, values in zip(encoded, logits, strict=True)
        ]

    def close(self) -> None:
        del self._tagger


class VersionMember:
    """Runs a published version in the serving engine; `nerve-train import` makes one of a checkpoint."""

    def __init__(self, folder: Path, tags: Sequence[str]):
        loaded = load_single(folder.resolve(), LoadOptions(provider="auto"))
        manifest = loaded.manifest
        try:
            self._columns = _columns(folder, manifest.tags, tags)
        except ValueError:
            loaded.model.close()
            raise
        self.rule = manifest.words
        self._model = loaded.model
        self._temperature = manifest.temperature

    def answer(self, texts: Sequence[str]) -> list[tuple[EncodedText, Floats]]:
        encoded = self._model.tokenizer.encode(texts)
        logits = self._model.logits(texts)
        scaled = (_log_softmax(values[:, self._columns] / self._temperature) for values in logits)
        return list(zip(encoded, scaled, strict=True))

    def close(self) -> None:
        self._model.close()


def open_member(folder: Path, tags: Sequence[str], recipe: Recipe) -> Member:
    """Open a member from the folder of a version or checkpoint; the caller closes it.

    Raises:
        ValueError: its tags or its rule for words differ from the recipe's.
    """
    is_version = (folder / MANIFEST).exists()
    member: Member = VersionMember(folder, tags) if is_version else CheckpointMember(folder, tags, recipe)
    if member.rule != recipe.encoder.words:
        member.close()
        raise ValueError(
            f"teacher {folder}: splits words by {member.rule!r}, the recipe by {recipe.encoder.words!r}; "
            f'set encoder.words = "{member.rule}"'
        )
    return member


def member_key(folder: Path) -> str:
    """Return a hash of a member's files, which identifies it.

    Raises:
        ValueError: the folder holds neither a version nor a checkpoint.
    """
    if (folder / MANIFEST).exists():
        files = [folder / MANIFEST]  # it lists the hashes of the other files
    elif (folder / "tokenizer.json").exists():
        files = [*sorted(folder.glob("*.safetensors")), folder / "tokenizer.json"]
    else:
        raise ValueError(
            f"teacher {folder}: holds neither {MANIFEST} (a version) nor tokenizer.json (a checkpoint)"
        )
    return hashlib.sha256("".join(map(file_hash, files)).encode()).hexdigest()


class TeacherAnswers:
    """Holds the teacher's answers for the words of some texts.

    Args:
        files: one array for each member, fp16 of shape (words of all texts, tags); NaN where a word is not
            the first of a decision.
        counts: the number of words of each text.
    """

    def __init__(self, files: Sequence[Path], counts: Sequence[int]):
        self._members = [np.load(file, mmap_mode="r") for file in files]
        self._ends = np.cumsum(counts)
        self._known = ~np.any([np.isnan(member[:, 0]) for member in self._members], axis=0)

    def rows(self, rows: Ints) -> Floats:
        """Return the teacher's log-probabilities of these words, shape (rows, tags); not normalised."""
        return np.asarray(np.mean([member[rows].astype(np.float32) for member in self._members], axis=0))

    def of_text(self, number: int) -> Ints:
        """Return the row of each word of a text, shape (words,); `NO_TARGET` if a member has no answer."""
        start = int(self._ends[number - 1]) if number else 0
        rows = np.arange(start, int(self._ends[number]))
        return np.where(self._known[rows], rows, NO_TARGET)


def label(
    folders: Sequence[Path],
    texts: Sequence[str],
    tags: Sequence[str],
    recipe: Recipe,
    cache: Path,
    say: Say,
) -> TeacherAnswers:
    """Have each member label the texts, or resume; files in `cache` are keyed by member, tags and texts.

    Raises:
        ValueError: a member cannot be loaded or does not fit the recipe.
    """
    cache.mkdir(parents=True, exist_ok=True)
    counts = [len(split_words(text, recipe.encoder.words)) for text in texts]
    key = hashlib.sha256("\0".join([*tags, *texts]).encode()).hexdigest()
    files = []
    for folder in folders:
        file = cache / f"{member_key(folder)[:16]}-{key[:16]}.npy"
        if not file.exists():
            say(f"{folder} labels {len(texts)} texts of {sum(counts)} words")
            member = open_member(folder, tags, recipe)
            try:
                _label(member, texts, counts, len(tags), file)
            finally:
                member.close()
        files.append(file)
    return TeacherAnswers(files, counts)


def _label(member: Member, texts: Sequence[str], counts: Sequence[int], tags: int, file: Path) -> None:
    """Fill one member's array, or resume after the last save."""
    part, mark = file.with_suffix(".part"), file.with_suffix(".json")
    done = json.loads(mark.read_text())["texts"] if mark.exists() and part.exists() else 0
    shape = (sum(counts), tags)
    array = np.lib.format.open_memmap(part, "r+" if done else "w+", np.float16, None if done else shape)
    bar = tqdm(total=len(texts), initial=done, unit="text", mininterval=10)
    at = sum(counts[:done])
    for start in range(done, len(texts), _TEXTS_A_SAVE):
        some = texts[start : start + _TEXTS_A_SAVE]
        for text, (encoded, values) in zip(some, member.answer(some), strict=True):
            words = split_words(text, member.rule)
            array[at : at + len(words)] = np.nan
            array[at + np.searchsorted(words.starts, encoded.starts)] = values
            at += len(words)
        array.flush()
        write_whole(mark, json.dumps({"texts": start + len(some)}))
        bar.update(len(some))
    bar.close()
    part.replace(file)
    mark.unlink(missing_ok=True)


def _columns(folder: Path, own: Sequence[str], tags: Sequence[str]) -> list[int]:
    """Return the member's logit column of each of the recipe's tags."""
    if set(own) != set(tags):
        raise ValueError(
            f"teacher {folder}: its tags are {', '.join(own)}, the recipe's {', '.join(tags)}; "
            "choose the recipe's labels and scheme as the teacher has them"
        )
    return [list(own).index(tag) for tag in tags]


def _log_softmax(logits: npt.NDArray[np.floating]) -> Floats:
    shifted = logits - logits.max(-1, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)), np.float32)
