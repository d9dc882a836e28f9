"""A transfer set holds the texts that the teacher labels for its students.

A student learns its teacher's answers, so a transfer set needs no labels: it takes the labelled texts, raw
text, and variations of the labelled texts. It leaves out the texts of the dev and test corpora.
"""

import gzip
import hashlib
import json
import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from app.engine.text.words import Ints, split_words
from training.data.augmentation import augment
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, text_key
from training.data.held_out import HeldOut
from training.data.json_lines import json_lines
from training.folders import replaced_folder
from training.recipe import Augmentation, Recipe

LABELLED = "labelled"
"""The origin of the texts of training documents."""

BLANK, DUPLICATES, HELD_OUT, OVER = "blank", "duplicates", "held out", "over the limit"

_TEXTS, _SUMMARY = "texts.jsonl.gz", "transfer.json"

_COUNTED_TOGETHER = 1000  # texts that are joined and split into words in one call, which is faster


@dataclass(frozen=True)
class TransferSet:
    """Holds texts without labels.

    Attributes:
        texts: labelled ones, then raw ones by file, then variations; each text once.
        counts: number of texts by origin: `labelled`, a file's path under the root, or an augmentation.
        dropped: number of texts left out by reason: `blank`, `duplicates`, `held out`, `over the limit`.
    """

    texts: tuple[str, ...]
    counts: dict[str, int]
    dropped: dict[str, int]

    @cached_property
    def words(self) -> int:
        """Return the number of words of all texts, as `app.engine.text.words` splits them."""
        return int(_word_counts(self.texts).sum())

    @cached_property
    def key(self) -> str:
        """Return the sha256 of the texts in order, by which a teacher's answers are cached."""
        digest = hashlib.sha256()
        for line in _lines(self.texts):
            digest.update(line)
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the set in place of everything in `folder`."""
        summary = {"key": self.key, "counts": self.counts, "dropped": self.dropped}
        with replaced_folder(folder) as new:
            # Without a time and a name in the file, the same texts give the same bytes.
            with (
                (new / _TEXTS).open("wb") as file,
                gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as lines,
            ):
                lines.writelines(_lines(self.texts))
            text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
            (new / _SUMMARY).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "TransferSet":
        """Read a set that `save` wrote.

        Raises:
            FileNotFoundError: a file of the set is missing.
            ValueError: a file is damaged or was changed.
        """
        remedy = "delete the folder, and the next run makes it again"
        try:
            summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
            with gzip.open(folder / _TEXTS) as lines:
                texts = tuple(text for _, text in json_lines(lines, folder / _TEXTS, "a transfer set"))
            loaded, key = cls(texts, summary["counts"], summary["dropped"]), summary["key"]
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{folder}: no transfer set, {_SUMMARY} or {_TEXTS} is missing"
            ) from None
        except (EOFError, KeyError, OSError, TypeError, ValueError, zlib.error) as error:
            raise ValueError(f"{folder}: not a transfer set: {error!r}; {remedy}") from error
        if loaded.key != key:
            raise ValueError(
                f"{folder}: {_TEXTS} holds other texts than {_SUMMARY} says (key {loaded.key[:12]}…, "
                f"want {key[:12]}…); {remedy}"
            )
        return loaded


def _lines(texts: Iterable[str]) -> Iterator[bytes]:
    return (json.dumps(text).encode("ascii") + b"\n" for text in texts)


def build_transfer_set(
    recipe: Recipe, train: Sequence[LoadedCorpus], held_out: Sequence[LoadedCorpus]
) -> TransferSet:
    """Gather the texts of `recipe.transfer`: training documents, then raw text, then varied documents.

    Texts that differ only in spacing, case and marks are taken once. No text is a held-out text, contains
    one or is part of one, if the shorter of the two has at least six words and twelve letters. With a limit
    of `transfer.words` all labelled texts stay and the others are sampled.

    Args:
        train: the result of `training.data.corpora.load_train`.
        held_out: every dev and test corpus.

    Raises:
        ValueError: a pattern matches no file, or a file is not UTF-8 or damaged.
    """
    transfer = recipe.transfer
    gathered = _Gathered(HeldOut(d.text for corpus in held_out for d in corpus.documents))
    labelled = [d for corpus in train for d in corpus.documents if gathered.take(LABELLED, d.text)]
    whole = len(gathered.texts)
    for origin, text in read_raw(Path(transfer.root), transfer.texts):
        gathered.take(origin, text)
    for origin, document in _variations(labelled, transfer.augment, transfer.seed):
        gathered.take(origin, document.text)

    kept: Sequence[int] = range(len(gathered.texts))
    if transfer.words:
        kept = _sampled(_word_counts(gathered.texts), whole, transfer.words, random.Random(transfer.seed))
    counts = dict.fromkeys(gathered.seen_origins, 0)
    for at in kept:
        counts[gathered.origins[at]] += 1
    dropped = gathered.dropped | {OVER: len(gathered.texts) - len(kept)}
    return TransferSet(tuple(gathered.texts[at] for at in kept), counts, dropped)


def read_raw(root: Path, patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the file's path under `root` and the stripped text of each line.

    Files follow the order of the patterns, then of their names, each once; `.gz` files are unpacked.

    Raises:
        ValueError: a pattern matches no file or leaves `root`, or a file is not UTF-8 or damaged.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        if not pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ValueError(
                f"transfer.texts: {pattern!r} must be a path under {root}; set transfer.root for files "
                "elsewhere"
            )
        found = sorted(path for path in root.glob(pattern) if path.is_file())
        if not found:
            raise ValueError(
                f"{root}: no file matches {pattern!r}; mend transfer.texts, or set transfer.root to where "
                "raw text lies"
            )
        files |= dict.fromkeys(found)
    for path in files:
        origin = path.relative_to(root).as_posix()
        for line in _raw_lines(path):
            yield origin, line


def _raw_lines(path: Path) -> Iterator[str]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}:{number}: not UTF-8 (byte {error.start + 1} of the line is "
            f"{error.object[error.start]:#04x}); convert the file, or leave it out of transfer.texts"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged after line {number} ({error}); fetch or pack it again") from None


def _variations(
    documents: Sequence[Document], augmentation: Augmentation, seed: int
) -> Iterator[tuple[str, Document]]:
    """Yield variations, method after method.

    Each method has a separate random generator, so that more copies of one do not change the others.
    """
    for way, copies in augmentation:
        if copies:
            only = Augmentation.model_validate({way: copies})
            for document in augment(documents, only, random.Random(f"{seed} {way}")):
                yield way, document


class _Gathered:
    """Gathers texts that are neither blank nor held out, each once, and counts the rejected ones."""

    def __init__(self, held_out: HeldOut):
        self.texts: list[str] = []
        self.origins: list[str] = []
        self.seen_origins: dict[str, None] = {}
        self.dropped = dict.fromkeys((BLANK, DUPLICATES, HELD_OUT), 0)
        self._held_out = held_out
        self._keys: set[str] = set()

    def take(self, origin: str, text: str) -> bool:
        """Take the text or count it as dropped; say whether it was taken."""
        self.seen_origins[origin] = None
        key = text_key(text)
        if not key:
            self.dropped[BLANK] += 1
        elif key in self._keys:
            self.dropped[DUPLICATES] += 1
        elif self._held_out.touches(text):
            self.dropped[HELD_OUT] += 1
        else:
            self._keys.add(key)
            self.texts.append(text)
            self.origins.append(origin)
            return True
        return False


def _sampled(words: Ints, whole: int, limit: int, rng: random.Random) -> list[int]:
    """Choose the first `whole` texts and a sample of the others, `limit` words in total at most."""
    others = list(range(whole, len(words)))
    rng.shuffle(others)
    total = int(words[:whole].sum()) + np.cumsum(words[others])
    fitting = int(np.searchsorted(total, limit, side="right"))
    return [*range(whole), *sorted(others[:fitting])]


def _word_counts(texts: Sequence[str]) -> Ints:
    """Return the number of words of each text, shape (texts,)."""
    counts = [np.zeros(0, np.int64)]
    for first in range(0, len(texts), _COUNTED_TOGETHER):
        some = texts[first : first + _COUNTED_TOGETHER]
        ends = np.cumsum([len(text) + 1 for text in some])
        before = np.searchsorted(split_words("\n".join(some)).starts, ends)
        counts.append(np.diff(before, prepend=0))
    return np.concatenate(counts)
