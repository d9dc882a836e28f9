"""The check finds errors in a recipe's data before an hour of training is spent on them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from app.engine.text.words import split_words
from app.labels import Scheme, WordRule
from training.data.corpora import Dropped, LoadedCorpus, read_corpus, under_labels, without_repeats
from training.data.documents import Document
from training.data.readers import read_tagged
from training.data.tags import TaggedFile, detect_scheme, illegal_tags
from training.recipe import Corpus, Recipe

Split = Literal["train", "dev", "test"]
Counts = dict[str, int]

_SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
_TOLERATED = 0.01
"""The share of illegal tags that annotators' mistakes explain; more mean a wrong scheme or column."""
_SHOWN = 3
"""The largest number of examples in a line of the report."""


@dataclass(frozen=True)
class TagCheck:
    """Holds what was found about the tags of one file.

    Attributes:
        scheme: the scheme in which the tags are read.
        detected: the scheme that the tags suggest.
        fits: schemes in which no tag is illegal.
        tags: the number of tags other than `O`.
        illegal: the place of each illegal tag, `file:line: tag after tag`.
        foreign: number of sentences that are illegal in `scheme`, by a scheme in which they are legal.
    """

    path: Path
    scheme: Scheme
    detected: Scheme
    fits: tuple[Scheme, ...]
    tags: int
    illegal: tuple[str, ...]
    foreign: Counts


@dataclass(frozen=True)
class CorpusCheck:
    """Holds what was found about one corpus.

    Attributes:
        documents: number of texts.
        before: number of entities by the labels of the files.
        after: number of entities by the recipe's labels, after cleaning.
        unmapped: number of entities whose label is neither mapped nor the recipe's: they become `O`.
        tags: one check for each file whose format has tags.
        broken: ids of documents with a span that is empty, overlaps another or leaves its text.
        off_words: entities that do not start and end where words do, `document: surface`.
        dropped: training texts that are left out of training.
    """

    name: str
    split: Split
    documents: int
    before: Counts
    after: Counts
    unmapped: Counts
    tags: tuple[TagCheck, ...]
    broken: tuple[str, ...]
    off_words: tuple[str, ...]
    dropped: tuple[Dropped, ...] = ()

    @property
    def conflicts(self) -> tuple[Dropped, ...]:
        """Return the duplicates whose entities differ from the original's."""
        return tuple(d for d in self.dropped if not d.leak and d.document.names != d.original.names)


@dataclass(frozen=True)
class Report:
    """Holds what `check` found: `problems` spoil a model and must be corrected, `notes` do not."""

    corpora: tuple[CorpusCheck, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check(recipe: Recipe) -> Report:
    """Read all corpora of a recipe and report what is wrong with them, without a change to any file.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file is not in its reader's format.
    """
    splits: list[tuple[Split, Sequence[Corpus]]] = [
        ("train", recipe.train),
        ("dev", recipe.dev),
        ("test", recipe.test),
    ]
    pairs = [_check_corpus(corpus, split, recipe) for split, corpora in splits for corpus in corpora]
    loaded, checks = zip(*pairs, strict=True)
    count = len(recipe.train)
    kept = without_repeats(loaded[:count], loaded[count:])
    checked = [
        *(replace(one, dropped=corpus.dropped) for one, corpus in zip(checks, kept, strict=False)),
        *checks[count:],
    ]
    problems, notes = list(_recipe_problems(recipe, checked)), list(_overlap_notes(loaded[count:]))
    for one in checked:
        problems += (f"{one.split} {one.name}: {text}" for text in _problems(one))
        notes += (f"{one.split} {one.name}: {text}" for text in _notes(one))
    return Report(tuple(checked), tuple(problems), tuple(notes))


def _check_corpus(corpus: Corpus, split: Split, recipe: Recipe) -> tuple[LoadedCorpus, CorpusCheck]:
    root = Path(recipe.data_root)
    raw = read_corpus(corpus, root)
    loaded = under_labels(corpus, raw, recipe.labels)
    before = _label_counts(raw)
    files = (read_tagged(corpus.reader, root / path, corpus.options) for path in corpus.paths)
    return loaded, CorpusCheck(
        corpus.name,
        split,
        len(raw),
        before,
        _label_counts(loaded.documents),
        {
            label: count
            for label, count in before.items()
            if label not in corpus.labels and label not in recipe.labels
        },
        tuple(_check_tags(file) for file in files if file),
        tuple(document.id for document in loaded.documents if _broken(document)),
        tuple(text for document in loaded.documents for text in _off_words(document, recipe.encoder.words)),
    )


def _label_counts(documents: Iterable[Document]) -> Counts:
    counts = Counter(span.label for document in documents for span in document.spans)
    return dict(counts.most_common())


def _check_tags(file: TaggedFile) -> TagCheck:
    illegal: list[str] = []
    foreign = Counter[str]()
    fits = set(_SCHEMES)
    for sentence in file.sentences:
        tags = sentence.tags
        legal_in = [scheme for scheme in _SCHEMES if not illegal_tags(tags, scheme)]
        fits.intersection_update(legal_in)
        for at in illegal_tags(tags, file.scheme):
            before = f"after {tags[at - 1]}" if at else "at the start"
            illegal.append(f"{file.path}:{sentence.lines[at]}: {tags[at]} {before}")
        if legal_in and file.scheme not in legal_in:
            foreign[legal_in[0]] += 1
    return TagCheck(
        file.path,
        file.scheme,
        detect_scheme(sentence.tags for sentence in file.sentences),
        tuple(scheme for scheme in _SCHEMES if scheme in fits),
        sum(tag != "O" for sentence in file.sentences for tag in sentence.tags),
        tuple(illegal),
        dict(foreign),
    )


def _broken(document: Document) -> bool:
    edges = [0, *(edge for span in document.spans for edge in span[:2]), len(document.text)]
    return any(a > b for a, b in pairwise(edges)) or any(start >= end for start, end, _ in document.spans)


def _off_words(document: Document, rule: WordRule) -> Iterator[str]:
    if document.spans:
        words = split_words(document.text, rule)
        for start, end, _ in document.spans:
            if not (np.isin(start, words.starts) and np.isin(end, words.ends)):
                yield f"{document.id}: {document.text[start:end]!r}"


def _recipe_problems(recipe: Recipe, checks: Sequence[CorpusCheck]) -> Iterator[str]:
    known = {*recipe.labels, "O"}
    for corpus in (*recipe.train, *recipe.dev, *recipe.test):
        for label, name in corpus.labels.items():
            if name not in known:
                yield (
                    f"{corpus.name}: labels maps {label} to {name}, which is no label of the recipe "
                    f"({', '.join(recipe.labels)}, or O to leave it out)"
                )
    for label in recipe.labels:
        if not any(one.after.get(label) for one in checks if one.split == "train"):
            yield f"no training corpus has a {label}: map a label of theirs to it or leave it out"


def _problems(one: CorpusCheck) -> Iterator[str]:
    if not one.documents:
        yield "holds no text"
    elif not one.after:
        yield f"has none of the recipe's labels, only {_counts(one.before) or 'O'}; map them in labels"
    if one.broken:
        yield f"{len(one.broken)} texts have empty or overlapping entities ({_some(one.broken)})"
    tagged = [file for file in one.tags if file.tags]
    detected = {file.detected for file in tagged}
    if not any(all(s == file.detected or s in file.fits for file in tagged) for s in _SCHEMES):
        files = ", ".join(f"{file.path.name} {file.detected}" for file in tagged)
        yield f"its files look like {len(detected)} schemes ({files}); make a corpus of each"
    for file in tagged:
        if len(file.illegal) > _TOLERATED * file.tags:
            yield f"{_tag_findings(file)}; check tag_column and scheme"


def _notes(one: CorpusCheck) -> Iterator[str]:
    for file in one.tags:
        if 0 < len(file.illegal) <= _TOLERATED * file.tags:
            yield f"{_tag_findings(file)}; each is read as a start"
    if one.unmapped:
        yield f"labels that become O: {_counts(one.unmapped)}"
    if one.off_words:
        yield (
            f"{len(one.off_words)} of {sum(one.after.values())} entities do not start and end where "
            f"words do, so no model can find exactly them ({_some(one.off_words)})"
        )
    for leak, what in ((False, "stand in training before"), (True, "stand in held-out files")):
        where = Counter(dropped.corpus for dropped in one.dropped if dropped.leak == leak)
        if where:
            yield f"{where.total()} texts dropped, which {what}: {_counts(dict(where.most_common()))}"
    if one.conflicts:
        pairs = [f"{d.document.id} and {d.original.id}" for d in one.conflicts]
        yield f"{len(pairs)} of the duplicates are labelled unlike what stays ({_some(pairs)})"


def _overlap_notes(held_out: Sequence[LoadedCorpus]) -> Iterator[str]:
    keys = [{document.key for document in corpus.documents} for corpus in held_out]
    for at, corpus in enumerate(held_out):
        for other, theirs in zip(held_out[:at], keys, strict=False):
            if shared := sum(document.key in theirs for document in corpus.documents):
                yield f"{shared} texts of {corpus.name} also stand in {other.name}; both are kept"


def _tag_findings(file: TagCheck) -> str:
    text = f"{len(file.illegal)} of {file.tags} tags are illegal in {file.scheme} ({_some(file.illegal)})"
    if file.detected != file.scheme:
        text += f"; the file looks like {file.detected}"
    if file.foreign:
        text += f"; legal in another scheme: {_counts(file.foreign)} sentences"
    return text


def _counts(counts: Counts) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _some(items: Sequence[str]) -> str:
    return "; ".join(islice(items, _SHOWN)) + ("; …" if len(items) > _SHOWN else "")


def as_text(report: Report) -> str:
    """Format the report for a terminal: a line for each corpus, then problems and notes."""
    labels = list(dict.fromkeys(label for one in report.corpora for label in one.after))
    rows = [("", "corpus", "texts", "duplicates", "leaks", "tags", *labels, "in the files")]
    rows += [_row(one, labels) for one in report.corpora]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for title, found in (("Problems", report.problems), ("Notes", report.notes)):
        lines += ["", f"{title}: {len(found) or 'none'}", *(f"- {text}" for text in found)]
    return "\n".join(lines)


def _row(one: CorpusCheck, labels: Sequence[str]) -> tuple[str, ...]:
    leaks = sum(dropped.leak for dropped in one.dropped)
    return (
        one.split,
        one.name,
        str(one.documents),
        str(len(one.dropped) - leaks),
        str(leaks),
        "/".join(sorted({file.scheme for file in one.tags})) or "-",
        *(str(one.after.get(label, 0)) for label in labels),
        _counts(one.before) or "none",
    )
