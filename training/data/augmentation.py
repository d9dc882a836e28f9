"""Augmentation makes new texts from labelled ones, for a teacher to label.

A varied text may make less sense than the original, and its entities become less certain, so the teacher
labels it again. The methods are those of Dai & Adel 2020, "An Analysis of Simple Data Augmentation for
Named Entity Recognition" (mentions, words), and Tang et al. 2019, "Distilling Task-Specific Knowledge from
BERT into Simple Neural Networks" (masks, n-grams). They edit characters and keep spacing and punctuation.

Each method takes labelled documents, the number of copies (0.5 varies half of the documents, drawn at
random; 2.0 varies each twice) and a random generator; the same seed gives the same documents. It leaves out
a document that it cannot vary, as `mentions` does with a text without names.
"""

import random
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple, TypeVar

from app.engine.text.words import split_words
from training.data.documents import Document, Span
from training.recipe import Augmentation

MASK = "_"
"""The character that replaces a masked word.

Special tokens in a text are read as text ("[MASK]" is three words), and teacher and student may have
different ones. "_" is a single word under BERT's rule, and a single sub-token without a meaning in
WordPiece ("_"), byte-level BPE ("Ġ_") and SentencePiece ("▁_") vocabularies.
"""

_KEPT = 0.2
"""Chance that a name stays, so that old and new names occur in one text."""
_CHANGED = 0.1
"""Share of words that are replaced or masked, as in Tang et al."""
_SHORTEST, _LONGEST = 3, 10
"""Words of an n-gram. Tang et al. take 1 to 5 to classify sentences; a name needs more words around it,
because its label depends on them."""

_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_MARK = r"[!-/:-@\[-`{-~\u00a1-\u00bf\u2010-\u205e\u3001-\u3011]"
_WORD = re.compile(rf"(?<!\S){_MARK}*(?<!['\u2019])([^\W_{_HAN}]+){_MARK}*(?!\S)|([{_HAN}])")
"""Matches a word with only marks between it and blanks, or a Han character. It skips parts of "U.S.",
"Jean-Pierre", "don't" and addresses, and the "s" of "'s", where another word would make no sense."""

_Item = TypeVar("_Item")
_Piece = tuple[int, int, str]


class _Bag:
    """Draws strings with the frequency in which they were seen."""

    def __init__(self, counts: Counter[str]):
        self._items = list(counts)
        self._ends = list(accumulate(counts.values()))
        self._place = {item: at for at, item in enumerate(self._items)}

    def other(self, than: str, rng: random.Random) -> str:
        """Draw a string other than `than`; return `than` if there is no other."""
        at = self._place.get(than)
        below = self._ends[at - 1] if at else 0
        own = 0 if at is None else self._ends[at] - below
        if self._ends[-1] == own:
            return than
        drawn = rng.randrange(self._ends[-1] - own)
        if at is not None and drawn >= below:
            drawn += own
        return self._items[bisect_right(self._ends, drawn)]


def _bags(seen: Iterable[tuple[Hashable, str]]) -> dict[Hashable, _Bag]:
    counts: dict[Hashable, Counter[str]] = {}
    for kind, item in seen:
        counts.setdefault(kind, Counter())[item] += 1
    return {kind: _Bag(counter) for kind, counter in counts.items()}


def mentions(documents: Sequence[Document], copies: float, rng: random.Random) -> Iterator[Document]:
    """Replace names by other names of their label, drawn with the frequency of the documents.

    One name in five stays. A name after "@" or "#" is replaced by one that stood after the same mark.
    """
    bags = _bags(
        (_name_kind(document, span), document.text[span.start : span.end])
        for document in documents
        for span in _names(document)
    )
    for document in _drawn(documents, copies, rng):
        pieces = [
            (
                span.start,
                span.end,
                bags[_name_kind(document, span)].other(document.text[span.start : span.end], rng),
            )
            for span in _some(list(_names(document)), 1 - _KEPT, rng)
        ]
        yield from _varied(document, pieces, "mentions")


def words(documents: Sequence[Document], copies: float, rng: random.Random) -> Iterator[Document]:
    """Replace a tenth of the words by others with the same tag (label-wise token replacement).

    Both words have the same tag (first or later word of a name, or outside) and the same capitals, so that
    no word gets a spelling that it never had, and both stand at the start of a text or both do not.
    """
    bags = _bags(
        (word.kind, document.text[word.start : word.end])
        for document in documents
        for word in _words(document)
    )
    for document in _drawn(documents, copies, rng):
        pieces = [
            (word.start, word.end, bags[word.kind].other(document.text[word.start : word.end], rng))
            for word in _some(list(_words(document)), _CHANGED, rng)
        ]
        yield from _varied(document, pieces, "words")


def masks(documents: Sequence[Document], copies: float, rng: random.Random) -> Iterator[Document]:
    """Replace a tenth of the words by `MASK`. A name without any word left is no entity any more."""
    for document in _drawn(documents, copies, rng):
        chosen = _some(list(_words(document)), _CHANGED, rng)
        yield from _varied(document, [(word.start, word.end, MASK) for word in chosen], "masks")


def ngrams(documents: Sequence[Document], copies: float, rng: random.Random) -> Iterator[Document]:
    """Cut out 3 to 10 blank-separated words, marks included, with the names that lie wholly inside.

    All lengths below the text's length are equally likely.
    """
    for document in _drawn(documents, copies, rng):
        runs = split_words(document.text, "space")
        longest = min(_LONGEST, len(runs) - 1)
        if longest < _SHORTEST:
            continue
        length = rng.randint(_SHORTEST, longest)
        first = rng.randint(0, len(runs) - length)
        start, end = int(runs.starts[first]), int(runs.ends[first + length - 1])
        spans = tuple(
            span._replace(start=span.start - start, end=span.end - start)
            for span in document.spans
            if start <= span.start and span.end <= end
        )
        yield replace(
            document, id=f"{document.id}:ngrams", text=document.text[start:end], spans=spans, group=""
        )


VARIATIONS: dict[str, Callable[[Sequence[Document], float, random.Random], Iterator[Document]]] = {
    "mentions": mentions,
    "words": words,
    "masks": masks,
    "ngrams": ngrams,
}
"""The methods by their names in a recipe's `transfer.augment`."""


def augment(
    documents: Sequence[Document], augmentation: Augmentation, rng: random.Random
) -> Iterator[Document]:
    """Make the variations that `augmentation` asks for, method after method."""
    for name, vary in VARIATIONS.items():
        yield from vary(documents, getattr(augmentation, name), rng)


def _drawn(documents: Sequence[Document], copies: float, rng: random.Random) -> Iterator[Document]:
    for _ in range(int(copies)):
        yield from documents
    part = round(copies % 1 * len(documents))
    for at in sorted(rng.sample(range(len(documents)), part)):
        yield documents[at]


def _some(items: list[_Item], share: float, rng: random.Random) -> list[_Item]:
    """Choose each item with chance `share`, but at least one, so that a short text is varied too."""
    chosen = [item for item in items if rng.random() < share]
    return chosen or (items and [rng.choice(items)])


def _names(document: Document) -> Iterator[Span]:
    """Return the entities without those that are marks alone ("@")."""
    return (span for span in document.spans if _spoken(document.text[span.start : span.end]))


def _name_kind(document: Document, span: Span) -> tuple[str, str]:
    before = document.text[: span.start].rstrip()[-1:]
    return span.label, before if before in ("@", "#") else ""


def _spoken(text: str) -> bool:
    return any(map(str.isalnum, text))


class _Word(NamedTuple):
    """Is a word that others of its kind (tag, capitals, whether it starts a text) may replace."""

    start: int
    end: int
    kind: tuple[str | bool, ...]


def _words(document: Document) -> Iterator[_Word]:
    text, spans, at = document.text, document.spans, 0
    for number, found in enumerate(_WORD.finditer(text)):
        start, end = found.span(found.lastindex or 0)
        while at < len(spans) and spans[at].end <= start:
            at += 1
        tag = "O"
        if at < len(spans) and spans[at].start < end:
            if start < spans[at].start or spans[at].end < end:
                continue  # the annotation cuts through the word
            tag = f"{'B' if start == spans[at].start else 'I'}-{spans[at].label}"
        word, first = text[start:end], number == 0 and not _spoken(text[:start])
        capitals = word.islower(), word.istitle(), word.isupper(), word.isdigit()
        yield _Word(start, end, (tag, *capitals, first))


def _varied(document: Document, pieces: Sequence[_Piece], way: str) -> Iterator[Document]:
    """Return the document with the pieces replaced, unless that leaves its text as it was."""
    parts, done = [], 0
    for start, end, new in pieces:
        parts += [document.text[done:start], new]
        done = end
    text = "".join([*parts, document.text[done:]])

    def moved(place: int) -> int:
        return place + sum(len(new) + start - end for start, end, new in pieces if end <= place)

    spans = (span._replace(start=moved(span.start), end=moved(span.end)) for span in document.spans)
    kept = tuple(span for span in spans if not _masked(text[span.start : span.end]))
    if text != document.text:
        yield replace(document, id=f"{document.id}:{way}", text=text, spans=kept, group="")


def _masked(name: str) -> bool:
    return MASK in name and not _spoken(name)
