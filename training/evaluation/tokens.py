"""The token table scores the tag of each word, `O` included, as articles on NER often do.

Its scores are too high, because most words are `O`; the main score is the entity score (`spans.py`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from app.engine.text.alignment import touched
from app.engine.text.words import split_words
from training.data.documents import Document, Span
from training.data.tags import spell_spans
from training.evaluation.spans import Percentages, Score


def token_table(
    documents: Sequence[Document], found: Sequence[Iterable[Span]], labels: Sequence[str]
) -> dict[str, Percentages]:
    """Compute precision, recall and F1 of each IOB2 tag over all words, and their micro average."""
    right, seen, meant = Counter[str](), Counter[str](), Counter[str]()
    for document, spans in zip(documents, found, strict=True):
        got, want = _tags(document.text, spans), _tags(document.text, document.spans)
        seen.update(got)
        meant.update(want)
        right.update(a for a, b in zip(got, want, strict=True) if a == b)
    tags = ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]
    table = {tag: Score(right[tag], seen[tag], meant[tag]).percentages for tag in tags}
    table["micro"] = Score(right.total(), seen.total(), meant.total()).percentages
    return table


def _tags(text: str, spans: Iterable[Span]) -> list[str]:
    words = split_words(text)
    touching = [(*touched(words.starts, words.ends, start, end), label) for start, end, label in spans]
    kept = [(int(first), int(last), label) for first, last, label in touching if first <= last]
    return spell_spans(kept, len(words), "IOB2")
