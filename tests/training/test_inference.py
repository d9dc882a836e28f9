"""Networks over texts in PyTorch, with a real network that reads its nearest neighbours only."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.decoding.spans import Decoder
from app.engine.text.tokenizer import Tokenizer
from tests.training.models.teachers import TAGS, student, toy_teacher
from tests.training.toy import toy_documents
from training.data.documents import Document, Span
from training.inference import f1_of, logits_of
from training.models.tagger import Tagger
from training.models.transformer import load_tokenizer
from training.recipe import Recipe, load_recipe

REACH = 1
"""Sub-tokens to each side that the network reads."""

LONGEST = 4096
"""Sub-tokens of a window that holds every text here."""

ROUNDING = 0.02
"""What bf16 may change of a logit where a batch has another shape."""

TEXTS = [record["text"] for record in toy_documents(20, 1)]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Tagger:
    """A CNN of one layer."""
    return student("cnn", toy_teacher(tmp_path_factory.mktemp("teacher")), dilations=(1,))


@pytest.fixture(scope="module")
def tokenizer(toy: Path) -> Tokenizer:
    return load_tokenizer(str(toy / "encoder"))


@pytest.fixture(scope="module")
def recipe(toy: Path) -> Recipe:
    """The toy recipe with the tags of the network."""
    return load_recipe(toy / "toy.toml", ["scheme=IOB2"])


def logits(
    tagger: Tagger, tokenizer: Tokenizer, texts: Sequence[str], size: int, stride: int
) -> list[np.ndarray]:
    """The logits of texts in windows of `size` sub-tokens."""
    encoded = tokenizer.encode(list(texts))
    return list(logits_of(tagger, tokenizer, encoded, len(TAGS), size + tokenizer.frame.count, stride))


@settings(max_examples=25)
@given(
    words=st.lists(st.sampled_from(TEXTS), max_size=6).map(" ".join),
    size=st.integers(2 * REACH + 1, 70),
    more=st.integers(0, 69),
)
def test_stitched_logits_are_those_of_one_window(
    tagger: Tagger, tokenizer: Tokenizer, words: str, size: int, more: int
) -> None:
    """Where windows overlap by what the network reads to both sides, whatever their length."""
    stride = 2 * REACH + more % (size - 2 * REACH)
    (whole,) = logits(tagger, tokenizer, [words], LONGEST, 0)
    (stitched,) = logits(tagger, tokenizer, [words], size, stride)
    np.testing.assert_allclose(stitched, whole, atol=ROUNDING)


def test_without_overlap_the_edges_show(tagger: Tagger, tokenizer: Tokenizer) -> None:
    text = " ".join(TEXTS)
    (whole,) = logits(tagger, tokenizer, [text], LONGEST, 0)
    (cut,) = logits(tagger, tokenizer, [text], 3, 0)
    assert np.abs(cut - whole).max() > 10 * ROUNDING


def test_each_text_has_its_own_logits_whatever_is_run_with_it(tagger: Tagger, tokenizer: Tokenizer) -> None:
    """Short and long texts, more than a batch holds, and some without a sub-token."""
    texts = ["", *TEXTS, " ".join(TEXTS), " ", *TEXTS, TEXTS[0]]
    together = logits(tagger, tokenizer, texts, 20, 4)
    alone = {text: logits(tagger, tokenizer, [text], 20, 4)[0] for text in set(texts)}
    assert [found.shape[1] for found in together] == [len(TAGS)] * len(texts)
    assert (len(together[0]), len(together[-2])) == (0, len(TEXTS[-1].split()))
    for text, found in zip(texts, together, strict=True):
        np.testing.assert_allclose(found, alone[text], atol=ROUNDING)


def test_no_row_is_longer_than_it_may_be(tagger: Tagger, tokenizer: Tokenizer) -> None:
    """Special tokens are part of the length."""
    longest: list[int] = []
    hook = tagger.register_forward_pre_hook(
        lambda _, positional, named: longest.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    logits_of(tagger, tokenizer, tokenizer.encode([" ".join(TEXTS)]), len(TAGS), 30, 4)
    hook.remove()
    assert max(longest) == 30


def test_a_network_in_training_is_run_without_dropout(tagger: Tagger, tokenizer: Tokenizer) -> None:
    before = logits(tagger, tokenizer, TEXTS, 20, 4)
    tagger.train()
    after = logits(tagger, tokenizer, TEXTS, 20, 4)
    assert not tagger.training
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_f1_tells_what_the_network_finds_from_what_is_there(
    tagger: Tagger, tokenizer: Tokenizer, recipe: Recipe
) -> None:
    decoder, encoded = Decoder(TAGS, "IOB2"), tokenizer.encode(TEXTS)
    found = [
        tuple(
            Span(int(text.starts[first]), int(text.ends[last]), label)
            for first, last, label, _ in decoder.decode(values)
        )
        for text, values in zip(encoded, logits(tagger, tokenizer, TEXTS, LONGEST, 0), strict=True)
    ]
    assert sum(map(len, found)) > 10
    same = [Document(text, text, spans) for text, spans in zip(TEXTS, found, strict=True)]
    others = {"PER": "LOC", "LOC": "ORG", "ORG": "PER"}
    renamed = [
        Document(one.id, one.text, tuple(span._replace(label=others[span.label]) for span in one.spans))
        for one in same
    ]
    assert f1_of(tagger, tokenizer, same, recipe) == pytest.approx(1.0)
    assert f1_of(tagger, tokenizer, renamed, recipe) == 0
    half = f1_of(tagger, tokenizer, [*same, *renamed], recipe)
    assert half == pytest.approx(0.5)
