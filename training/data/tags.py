"""Tag schemes as corpora spell them: recognising them, finding what is illegal, reading spans."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.labels import Scheme, joins, legal, split_tag
from training.data.documents import Document, Span

_SPELLINGS = {"L": "E", "U": "S", "M": "I", "W": "S"}  # BILOU, BMES, BMEWO
_IOB: tuple[Scheme, Scheme] = ("IOB1", "IOB2")


@dataclass(frozen=True)
class TaggedSentence:
    """One sentence as its file spells it.

    Attributes:
        text: the sentence.
        starts: where each token starts in it.
        tokens, tags: the columns.
        lines: the number of each token's line, the first being 1.
        group: sentences of one article share it; empty where a sentence stands alone.
    """

    text: str
    starts: Sequence[int]
    tokens: Sequence[str]
    tags: Sequence[str]
    lines: Sequence[int]
    group: str = ""


@dataclass(frozen=True)
class TaggedFile:
    """A file of tagged tokens, and the scheme its tags are read in."""

    path: Path
    scheme: Scheme
    sentences: tuple[TaggedSentence, ...]

    def documents(self) -> Iterator[Document]:
        """One document a sentence, its tags read as spans."""
        for sentence in self.sentences:
            starts = sentence.starts
            spans = tuple(
                Span(starts[first], starts[last] + len(sentence.tokens[last]), label)
                for first, last, label in read_spans(sentence.tags, self.scheme)
            )
            yield Document(f"{self.path.name}:{sentence.lines[0]}", sentence.text, spans, sentence.group)


def plain_tag(tag: str) -> str:
    """A tag in this project's spelling: `U-PER` → `S-PER`, `B_PER` → `B-PER`."""
    if len(tag) < 3 or tag[1] not in "-_":
        return tag
    return f"{_SPELLINGS.get(tag[0], tag[0])}-{tag[2:]}"


def detect_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme of a corpus's tags: the one in which the fewest are illegal.

    Where they allow both IOB1 and IOB2 (no entity starts with `I`), it is IOB2, which reads them
    alike. `E` or `S` make it BIOES.
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
    """(first, last, label) of each entity, positions inclusive. Illegal tags are read as starts."""
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
    """The tags of `length` positions, what `read_spans` undoes: (first, last, label), positions inclusive.

    In IO two neighbours of one label become one entity. Of two that overlap, the later one is spelled.
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
    """Positions whose tag may not follow the one before it, or may not end the sentence."""
    before = "O"
    wrong = []
    for at, tag in enumerate(tags):
        if not legal(before, tag, scheme):
            wrong.append(at)
        before = tag
    if tags and not legal(before, "O", scheme):
        wrong.append(len(tags) - 1)
    return sorted(set(wrong))
