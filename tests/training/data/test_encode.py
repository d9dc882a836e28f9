import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from app.engine.text.tokenizer import Tokenizer
from app.engine.text.words import Ints, split_words
from app.labels import Scheme, tags_of
from tests.texts import texts
from tests.training.data.tagging import LABELS, SCHEMES, runs
from training.data.documents import Document, Span
from training.data.encode import (
    IGNORED,
    NO_TARGET,
    Batch,
    Example,
    batches,
    encode,
    encode_raw,
    tag_ids,
    training_windows,
)
from training.data.tags import illegal_tags, read_spans


def tokenizer() -> Tokenizer:
    """A WordPiece that cuts every word of Latin letters into single letters."""
    letters = [prefix + chr(code) for code in range(97, 123) for prefix in ("", "##")]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]
    rust = RustTokenizer(models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    rust.normalizer = normalizers.BertNormalizer(lowercase=True)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return Tokenizer(rust)


TOKENIZER = tokenizer()


@pytest.mark.parametrize("scheme", SCHEMES)
@given(text=texts, data=st.data())
def test_spans_become_tags_and_spans_again(scheme: Scheme, text: str, data: st.DataObject) -> None:
    (encoded,) = TOKENIZER.encode([text])
    meant = data.draw(runs(len(encoded.firsts)))
    if scheme == "IO":  # it cannot part two neighbours of one label
        meant = [
            run
            for before, run in pairwise([(-2, -2, ""), *meant])
            if (before[1] + 1, before[2]) != (run[0], run[2])
        ]
    spans = tuple(Span(int(encoded.starts[a]), int(encoded.ends[b]), label) for a, b, label in meant)
    names = tags_of(LABELS, scheme)
    tags = [names[number] for number in tag_ids(encoded, Document("d", text, spans), scheme, names)]
    assert read_spans(tags, scheme) == meant
    assert not illegal_tags(tags, scheme)


def tags_for(text: str, *spans: Span, scheme: Scheme = "BIOES") -> list[str]:
    names = tags_of(LABELS, scheme)
    (encoded,) = TOKENIZER.encode([text])
    return [names[number] for number in tag_ids(encoded, Document("d", text, spans), scheme, names)]


def test_an_entity_takes_every_word_it_touches() -> None:
    assert tags_for("anti-Lund riots", Span(6, 9, "LOC")) == ["O", "O", "S-LOC", "O"]


def test_of_two_entities_in_a_word_the_first_stays() -> None:
    assert tags_for("LundBay rose", Span(0, 4, "PER"), Span(4, 12, "LOC")) == ["S-PER", "S-LOC"]


def test_iob1_marks_only_a_neighbour_of_its_label() -> None:
    spans = (Span(0, 3, "PER"), Span(4, 7, "PER"), Span(8, 11, "LOC"), Span(14, 17, "LOC"))
    expected = ["I-PER", "B-PER", "I-LOC", "O", "I-LOC"]
    assert tags_for("Ada Bay Lea , Lea", *spans, scheme="IOB1") == expected


def test_a_word_has_its_tag_on_its_first_sub_token() -> None:
    document = Document("d", "Ada rose", (Span(0, 3, "PER"),), "g")
    (example,) = encode([document], TOKENIZER, "BIOES", LABELS)
    single = tags_of(LABELS, "BIOES").index("S-PER")
    assert example.tags.tolist() == [single, IGNORED, IGNORED, 0, IGNORED, IGNORED, IGNORED]
    assert example.shapes.tolist() == [2, 2, 2, 1, 1, 1, 1]
    assert example.group == "g"


@st.composite
def examples(draw: st.DrawFn) -> list[Example]:
    """Examples whose ids count up through all of them; tags and rows are their sub-token's id or none."""
    made = []
    at = 0
    for length in draw(st.lists(st.integers(0, 40), max_size=8)):
        ids = np.arange(at, at + length)
        some = st.lists(st.booleans(), min_size=length, max_size=length)
        ignored, unknown = np.array(draw(some), bool), np.array(draw(some), bool)
        tags, rows = np.where(ignored, IGNORED, ids), np.where(unknown, NO_TARGET, ids)
        made.append(Example(ids, ids % 6, tags, rows, draw(st.sampled_from(["", "a", "b"]))))
        at += length
    return made


@given(examples(), st.integers(1, 24), st.sampled_from([0.0, 0.5, 0.99]), st.integers(0, 9))
def test_windows_cover_every_tag_and_row_exactly_once(
    made: list[Example], size: int, passages: float, seed: int
) -> None:
    windows = list(training_windows(made, size, passages, random.Random(seed)))
    assert told(windows) == told(made)
    for window in windows:
        assert 1 <= len(window) <= size
        own, known = window.tags != IGNORED, window.rows != NO_TARGET
        assert (own | known).any()
        assert (window.tags[own] == window.ids[own]).all()
        assert (window.rows[known] == window.ids[known]).all()
        assert (window.shapes == window.ids % 6).all()


def told(made: Sequence[Example]) -> tuple[list[int], list[int]]:
    """All tags and rows in order."""
    tags = [tag for example in made for tag in example.tags.tolist() if tag != IGNORED]
    return tags, [row for example in made for row in example.rows.tolist() if row != NO_TARGET]


@given(st.lists(texts, max_size=4), st.integers(1, 24), st.data())
def test_each_decision_learns_what_is_said_of_its_first_word(
    spoken: list[str], size: int, data: st.DataObject
) -> None:
    rows, expected, at = [], [], 0
    for text, encoded in zip(spoken, TOKENIZER.encode(spoken), strict=True):
        starts = split_words(text).starts.tolist()
        known = data.draw(st.lists(st.booleans(), min_size=len(starts), max_size=len(starts)))
        numbers = np.arange(at, at + len(starts))
        rows.append(np.where(np.array(known, bool), numbers, NO_TARGET))
        expected += [int(rows[-1][starts.index(start)]) for start in encoded.starts.tolist()]
        at += len(starts)
    expected = [row for row in expected if row != NO_TARGET]
    raw = encode_raw(spoken, TOKENIZER, rows)
    assert told(raw) == ([], expected)
    assert told(list(training_windows(raw, size, 0.0, random.Random(1)))) == ([], expected)
    labelled = encode([Document("d", text) for text in spoken], TOKENIZER, "IO", LABELS, rows)
    assert told(labelled)[1] == expected
    assert len(told(labelled)[0]) == sum(len(one.firsts) for one in TOKENIZER.encode(spoken))


def test_texts_that_teach_nothing_are_not_run() -> None:
    spoken = ["Ada rose", "Ada", ""]
    rows: list[Ints] = [np.array([NO_TARGET, NO_TARGET]), np.array([7]), np.zeros(0, np.int64)]
    windows = list(training_windows(encode_raw(spoken, TOKENIZER, rows), 8, 0.0, random.Random(1)))
    assert [window.rows.tolist() for window in windows] == [[7, NO_TARGET, NO_TARGET]]


def plain(ids: Ints, group: str = "") -> Example:
    """An example whose every sub-token is a decision of tag 0 that no teacher knows."""
    return Example(ids, np.zeros_like(ids), np.zeros_like(ids), np.full(len(ids), NO_TARGET), group)


def test_only_sentences_of_one_article_join() -> None:
    made = [plain(np.array([n]), group) for n, group in enumerate(["a", "a", "b", "", ""])]
    joined = training_windows(made, 8, 0.999, random.Random(1))
    assert [window.ids.tolist() for window in joined] == [[0, 1], [2], [3], [4]]
    alone = training_windows(made, 8, 0.0, random.Random(1))
    assert [window.ids.tolist() for window in alone] == [[0], [1], [2], [3], [4]]


@given(st.lists(st.integers(1, 70), max_size=40), st.integers(8, 256), st.integers(0, 3), st.integers(0, 9))
def test_batches_keep_to_the_limit_and_lose_nothing(
    lengths: list[int], tokens: int, extra: int, seed: int
) -> None:
    made = [plain(np.full(length, number)) for number, length in enumerate(lengths)]
    result = batches(made, tokens, extra, random.Random(seed))
    assert sorted(int(e.ids[0]) for batch in result for e in batch) == list(range(len(made)))
    for batch in result:
        size = (max(map(len, batch)) + extra) * len(batch)
        assert size <= tokens or len(batch) == 1


def test_batches_are_the_same_for_the_same_seed() -> None:
    made = [plain(np.full(n, n)) for n in range(1, 40)]

    def order(seed: int) -> list[list[int]]:
        return [[len(e) for e in batch] for batch in batches(made, 128, 2, random.Random(seed))]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_a_batch_is_padded_on_the_right_between_special_tokens() -> None:
    documents, rows = [Document("d", "ab"), Document("d", "a")], [np.array([5]), np.array([NO_TARGET])]
    made = encode(documents, TOKENIZER, "IO", LABELS, rows)
    batch = Batch.of(made, TOKENIZER)
    a, b = TOKENIZER.encode(["ab"])[0].ids.tolist()
    assert batch.input_ids.tolist() == [[2, a, b, 3], [2, a, 3, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch.word_shape.tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]
    assert batch.tags.tolist() == [[IGNORED, 0, IGNORED, IGNORED], [IGNORED, 0, IGNORED, IGNORED]]
    assert batch.rows.tolist() == [[NO_TARGET, 5, NO_TARGET, NO_TARGET], [NO_TARGET] * 4]
