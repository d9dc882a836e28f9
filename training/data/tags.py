"""This module recognises the tag schemes of corpora, finds illegal tags and reads spans."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.labels import Scheme, joins, legal, split_tag
from training.data.documents import Document, Span

_SPELLINGS = {"L": "E", "U": "S", "M": "I", "W": "S"}  # for BILOU, BMES and BMEWO
_IOB: tuple[Scheme, Scheme] = ("IOB1", "IOB2")


@dataclass(frozen=True)
class TaggedSentence:
    """Is one sentence as its file spells it.

    Attributes:
        starts: the offset of each token in the text, in code points.
        tokens, tags: the columns of the file.
        lines: the number of each token's line, counted from 1.
        group: see `Document`.
    """

    text: str
    starts: Sequence[int]
    tokens: Sequence[str]
    tags: Sequence[str]
    lines: Sequence[int]
    group: str = ""


@dataclass(frozen=True)
class TaggedFile:
    """Holds the sentences of a file, and the scheme in which their tags are read."""

    path: Path
    scheme: Scheme
    sentences: tuple[TaggedSentence, ...]

    def documents(self) -> Iterator[Document]:
        """Make a document of each sentence, with spans from its tags."""
        for sentence in self.sentences:
            starts = sentence.starts
            spans = tuple(
                Span(starts[first], starts[last] + len(sentence.tokens[last]), label)
                for first, last, label in read_spans(sentence.tags, self.scheme)
            )
            yield Document(f"{self.path.name}:{sentence.lines[0]}", sentence.text, spans, sentence.group)


def plain_tag(tag: str) -> str:
    """Return a tag in this project's spelling: `U-PER` → `S-PER`, `B_PER` → `B-PER`."""
    if len(tag) < 3 or tag[1] not in "-_":
        return tag
    return f"{_SPELLINGS.get(tag[0], tag[0])}-{tag[2:]}"


def detect_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """Return the scheme in which the fewest tags are illegal.

    Tags that fit IOB1 and IOB2 equally count as IOB2, which reads the same spans. `E` or `S` mean BIOES.
    """
    tagged = [tags for tags in sentences if any(tag != "O" for tag in tags)]
    prefixes = {tag[0] for tags in tagged for tag in tags}
    if prefixes & {"E", "S"}:
        return "BIOES"
    if "B" not in prefixes and "I" in prefixes:
        return "IO"
    iob1, iob2 = (sum(len(illegal_tags(tags, scheme)) for tags in tagged) for scheme in _IOB)
    return "IOB1" if iob1 < iob2 else "IOB2"


def read_spans(tags: Sequence[str], scheme: Scheme) -> list[tuple[int, int, str]]:
    """Return (first, last, label) of each entity, both positions inclusive; an illegal tag is a start."""
    spans: list[tuple[int, int, str]] = []
    before = "O"
    for at, tag in enumerate(tags):
        if tag != "O":
            if joins(before, tag, scheme):
                spans[-1] = (spans[-1][0], at, spans[-1][2])
            else:
                spans.append((at, at, split_tag(tag)[1]))
        before = tag
    return spans


def spell_spans(spans: Iterable[tuple[int, int, str]], length: int, scheme: Scheme) -> list[str]:
    """Return the tags of `length` positions; this is the inverse of `read_spans`.

    IO cannot part two adjacent entities of one label. A later entity overwrites one that it overlaps.
    """
    tags = ["O"] * length
    before = (-2, -2, "")
    for first, last, label in spans:
        touches = before[1] + 1 == first and before[2] == label
        tags[first : last + 1] = [f"I-{label}"] * (last + 1 - first)
        if scheme == "BIOES":
            tags[first], tags[last] = f"B-{label}", f"E-{label}"
            if first == last:
                tags[first] = f"S-{label}"
        elif scheme == "IOB2" or (scheme == "IOB1" and touches):
            tags[first] = f"B-{label}"
        before = first, last, label
    return tags


def illegal_tags(tags: Sequence[str], scheme: Scheme) -> list[int]:
    """Return the positions of tags that may not follow the tag before, or may not end the sentence."""
    before = "O"
    wrong = []
    for at, tag in enumerate(tags):
        if not legal(before, tag, scheme):
            wrong.append(at)
        before = tag
    if tags and not legal(before, "O", scheme):
        wrong.append(len(tags) - 1)
    return sorted(set(wrong))
