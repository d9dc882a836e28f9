"""Tag schemes as corpora spell them: recognising them, finding what is illegal, reading spans."""

from collections.abc import Iterable, Sequence

from app.engine.decoding import Scheme, joins, legal, split_tag

_SPELLINGS = {"L": "E", "U": "S", "M": "I", "W": "S"}  # BILOU, BMES, BMEWO


def plain_tag(tag: str) -> str:
    """A tag in this project's spelling: `U-PER` → `S-PER`, `B_PER` → `B-PER`."""
    if len(tag) < 3 or tag[1] not in "-_":
        return tag
    return f"{_SPELLINGS.get(tag[0], tag[0])}-{tag[2:]}"


def detect_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme of a corpus's tags: the one that explains them all.

    Where they allow both IOB1 and IOB2 (no entity starts with `I`), it is IOB2, which reads them
    alike.
    """
    prefixes: set[str] = set()
    starts_with_i = False
    for tags in sentences:
        before = "O"
        for tag in tags:
            prefixes.add(tag[0])
            starts_with_i |= tag[0] == "I" and not joins(before, tag, "IOB2")
            before = tag
    if prefixes & {"E", "S"}:
        return "BIOES"
    if "B" not in prefixes and "I" in prefixes:
        return "IO"
    return "IOB1" if starts_with_i else "IOB2"


def read_runs(tags: Sequence[str], scheme: Scheme) -> list[tuple[int, int, str]]:
    """(first, last, label) of each entity, positions inclusive. Illegal tags are read as starts."""
    runs: list[tuple[int, int, str]] = []
    before = "O"
    for at, tag in enumerate(tags):
        if tag != "O":
            if joins(before, tag, scheme):
                runs[-1] = (runs[-1][0], at, runs[-1][2])
            else:
                runs.append((at, at, split_tag(tag)[1]))
        before = tag
    return runs


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
