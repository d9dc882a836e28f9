import random
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from app.engine.text.tokenizer import Tokenizer
from app.engine.text.words import split_words
from tests.texts import texts
from training.data.augmentation import MASK, VARIATIONS, augment, masks, mentions, ngrams, words
from training.data.documents import Document, Span
from training.recipe import Augmentation


def document(text: str, *names: tuple[str, str], id: str = "d") -> Document:
    spans = tuple(Span(text.index(name), text.index(name) + len(name), label) for name, label in names)
    return Document(id, text, spans, "article")


def surfaces(document: Document) -> list[tuple[str, str]]:
    return [(document.text[start:end], label) for start, end, label in document.spans]


DOCUMENTS = [
    document(
        "Ada Lund left Kestrel Bay, and nobody knew why.", ("Ada Lund", "PER"), ("Kestrel Bay", "LOC")
    ),
    document(
        "In Tern  (a town) Bela met the U.S. envoy.", ("Tern", "LOC"), ("Bela", "PER"), ("U.S.", "LOC")
    ),
    document("Gull-Co hired Jean-Pierre; it didn't last.", ("Gull-Co", "ORG"), ("Jean-Pierre", "PER")),
    document("Nothing happened all day, so we went home early."),
    document("Tern", ("Tern", "LOC")),
]
NAMES = {pair for one in DOCUMENTS for pair in surfaces(one)}


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Any text, with spans anywhere in it."""
    text = draw(texts)
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    labels = draw(st.lists(st.sampled_from(["PER", "LOC", ""]), min_size=len(cuts), max_size=len(cuts)))
    spans = zip(pairwise(cuts), labels, strict=False)
    return Document("d", text, tuple(Span(start, end, label) for (start, end), label in spans if label))


@pytest.mark.parametrize("way", VARIATIONS)
@settings(max_examples=25)  # of each
@given(
    several=st.lists(documents(), max_size=4), copies=st.sampled_from([0.5, 1.0, 2.0]), seed=st.integers()
)
def test_variations_of_any_documents_are_documents(
    way: str, several: list[Document], copies: float, seed: int
) -> None:
    names = {surface for one in several for surface, _ in surfaces(one)}
    originals = [one.text for one in several]
    several = [replace(one, id=str(number)) for number, one in enumerate(several)]
    for one in VARIATIONS[way](several, copies, random.Random(seed)):
        last = 0
        for span in one.spans:
            assert last <= span.start < span.end <= len(one.text)
            last = span.end
        number, _, name = one.id.partition(":")
        assert one.text != originals[int(number)]
        assert (name, one.group) == (way, "")
        if way in ("mentions", "ngrams"):
            assert {surface for surface, _ in surfaces(one)} <= names


@pytest.mark.parametrize("way", VARIATIONS)
def test_the_same_chance_makes_the_same_documents(way: str) -> None:
    first, second, other = (
        list(VARIATIONS[way](DOCUMENTS, 3.0, random.Random(seed))) for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_names_are_replaced_by_names_of_their_label() -> None:
    made = list(mentions(DOCUMENTS, 20.0, random.Random(1)))
    assert {pair for one in made for pair in surfaces(one)} <= NAMES
    frames = {re.sub("|".join(re.escape(name) for name, _ in NAMES), "*", one.text) for one in made}
    assert frames == {  # the ORG has no other, and the text without names none at all
        "* left *, and nobody knew why.",
        "In *  (a town) * met the * envoy.",
        "* hired *; it didn't last.",
        "*",
    }
    both = [one for one in made if one.text.endswith("knew why.")]
    kept = sum(one.text.startswith("Ada Lund left") for one in both)
    assert 0 < kept < len(both) / 2  # some names stay beside a new one


def test_names_come_as_often_as_the_documents_have_them() -> None:
    common = [document("Ada", ("Ada", "PER"), id=str(number)) for number in range(9)]
    rare = [document("Bela", ("Bela", "PER"))]
    asking = [document("Carl", ("Carl", "PER"), id="asking")]
    made = mentions(common + rare + asking, 200.0, random.Random(1))
    drawn = Counter(one.text for one in made if one.id == "asking:mentions")
    assert set(drawn) == {"Ada", "Bela"}
    assert 0.8 < drawn["Ada"] / drawn.total() < 0.98


def test_a_handle_is_replaced_by_a_handle_and_a_mark_stays() -> None:
    text = "@ bay_lea met Ada"
    handle = Document("d", text, (Span(0, 1, "PER"), Span(2, 9, "PER"), Span(14, 17, "PER")))
    other = Document("d", "@ gull met Bela", (Span(0, 1, "PER"), Span(2, 6, "PER"), Span(11, 15, "PER")))
    made = {one.text for one in mentions([handle, other], 20.0, random.Random(1))}
    assert made == {
        "@ gull met Ada",
        "@ bay_lea met Bela",
        text,  # from the other one
        "@ gull met Bela",
    }


def test_words_are_replaced_by_words_of_their_tag_and_capitals() -> None:
    several = [
        document("Ada Lund left a Bay in 1999", ("Ada Lund", "PER"), ("Bay", "LOC")),
        document("Bela Busch saw a Tern on 7", ("Bela Busch", "PER"), ("Tern", "LOC")),
    ]
    made = list(words(several, 50.0, random.Random(1)))
    assert len(made) == 100
    for one in made:
        first, second, *rest = one.text.split()
        assert {first} <= {"Ada", "Bela"}
        assert {second} <= {"Lund", "Busch"}
        assert {rest[0], rest[1], rest[3]} <= {"left", "saw", "a", "in", "on"}
        assert {rest[2]} <= {"Bay", "Tern"}
        assert {rest[4]} <= {"1999", "7"}
        assert surfaces(one) == [(f"{first} {second}", "PER"), (rest[2], "LOC")]
    assert len({one.text for one in made}) > 20


@pytest.mark.parametrize("way", ["words", "masks"])
def test_parts_of_joined_words_are_not_replaced(way: str) -> None:
    fixed = ["U.S.", "didn't", "Jean-Pierre", "http://bay.example/a", "'s", "—"]
    several = [document(f"We saw {word} there today", id=word) for word in fixed]
    for one in VARIATIONS[way](several, 20.0, random.Random(1)):
        assert one.id.removesuffix(f":{way}") in one.text.split()


def test_spacing_and_marks_survive() -> None:
    text = 'He said:  "Go,\tnow!"'
    made = {one.text for one in masks([document(text)], 30.0, random.Random(1))}
    assert '_ said:  "Go,\tnow!"' in made
    assert 'He said:  "Go,\t_!"' in made
    assert {re.sub(r"\w+", "*", one) for one in made} == {re.sub(r"\w+", "*", text)}


def test_han_characters_are_words() -> None:
    made = {one.text for one in masks([document("北京很大。")], 30.0, random.Random(1))}
    assert {"_京很大。", "北京_大。"} <= made


def test_a_tenth_of_the_words_is_masked() -> None:
    text = " ".join(["tern"] * 1000)
    (made,) = masks([document(text)], 1.0, random.Random(1))
    assert 60 < made.text.split().count(MASK) < 140


def test_a_name_of_which_a_word_is_left_stays_a_name() -> None:
    made = masks([document("Ada Lund", ("Ada Lund", "PER"))], 200.0, random.Random(1))
    found = {one.text: surfaces(one) for one in made}
    assert found == {"_ Lund": [("_ Lund", "PER")], "Ada _": [("Ada _", "PER")], "_ _": []}


def tokenizers() -> list[RustTokenizer]:
    """A WordPiece, a byte-level BPE and a SentencePiece-like one, of text with a "_" now and then."""
    sentences = ["the tern left_behind the _ bay and nobody knew _ why"] * 8
    wordpiece = RustTokenizer(models.WordPiece(unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[MASK]"]
    wordpiece.train_from_iterator(sentences, trainers.WordPieceTrainer(special_tokens=special))
    bpe = RustTokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        sentences, trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    unigram = RustTokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.train_from_iterator(
        sentences, trainers.UnigramTrainer(unk_token="<unk>", special_tokens=["<unk>"])
    )
    return [wordpiece, bpe, unigram]


@pytest.mark.parametrize("rust", tokenizers(), ids=["wordpiece", "bpe", "unigram"])
def test_the_mask_is_a_word_of_every_tokenizer(rust: RustTokenizer) -> None:
    text = f"tern {MASK} bay"
    assert len(split_words(text)) == 3
    (encoded,) = Tokenizer(rust).encode([text])
    assert [text[a:b] for a, b in zip(encoded.starts, encoded.ends, strict=True)] == ["tern", MASK, "bay"]
    assert len(split_words("tern [MASK] bay")) == 5  # why a tokenizer's own mask is none


def test_ngrams_are_runs_of_three_to_ten_words() -> None:
    text = "Ada Lund , who left Kestrel Bay in 1999 , did n't  say where she would go , or why ."
    one = document(text, ("Ada Lund", "PER"), ("Kestrel Bay", "LOC"))
    made = list(ngrams([one], 300.0, random.Random(1)))
    assert {len(part.text.split()) for part in made} == set(range(3, 11))
    for part in made:
        assert f" {part.text} " in f" {text} "
        assert surfaces(part) == [pair for pair in surfaces(one) if pair[0] in part.text]
    assert any(part.text.startswith("Lund ,") for part in made)
    assert any(len(part.spans) == 2 for part in made)


def test_a_short_text_has_no_ngrams() -> None:
    assert list(ngrams([document("Ada left us")], 10.0, random.Random(1))) == []
    assert {part.text for part in ngrams([document("Ada left us .")], 20.0, random.Random(1))} == {
        "Ada left us",
        "left us .",
    }


@pytest.mark.parametrize(("copies", "least", "most"), [(0.5, 0, 1), (1.0, 1, 1), (2.5, 2, 3)])
def test_copies_are_of_all_documents(copies: float, least: int, most: int) -> None:
    several = [document("Tern rose and nobody saw it", id=str(number)) for number in range(40)]
    made = Counter(one.id for one in augment(several, Augmentation(masks=copies), random.Random(1)))
    counts = [made[f"{number}:masks"] for number in range(40)]
    assert sum(counts) == 40 * copies
    assert (min(counts), max(counts)) == (least, most)


def test_the_table_says_which_ways_are_taken() -> None:
    table = Augmentation(mentions=1.0, ngrams=2.0)
    made = Counter(one.id for one in augment(DOCUMENTS, table, random.Random(1)))
    assert set(made) == {"d:mentions", "d:ngrams"}
    assert list(augment(DOCUMENTS, Augmentation(), random.Random(1))) == []
    assert set(Augmentation.model_fields) == set(VARIATIONS)
