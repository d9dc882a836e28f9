import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.text.words import split_words
from tests.texts import texts
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span, text_key
from training.data.transfer import TransferSet, build_transfer_set, read_raw
from training.recipe import Augmentation, Corpus, Encoder, Recipe, Transfer

LABELLED = [
    "Ada Lund left Kestrel Bay in the rain.",
    "Bela met Carl at Gull and Co",
    "It rained all day long",
]
HELD_OUT = ["The tern flew over the old grey harbour.", "Dora waited", "Emil , however , did n't come home"]
RAW = Path(__file__).parents[3] / "../shared/data/unlabelled"


def corpus(name: str, several: Sequence[str]) -> LoadedCorpus:
    """A corpus in which every word that starts with a capital letter is a person."""
    documents = []
    for number, text in enumerate(several):
        words = split_words(text)
        spans = zip(words.starts.tolist(), words.ends.tolist(), strict=True)
        people = tuple(Span(start, end, "PER") for start, end in spans if text[start].isupper())
        documents.append(Document(f"{name}:{number}", text, people))
    return LoadedCorpus(name, tuple(documents))


def recipe(root: Path, **transfer: object) -> Recipe:
    nothing = Corpus(name="own", paths=("own.jsonl",), reader="jsonl")
    return Recipe(
        name="own",
        labels=("PER",),
        encoder=Encoder(path="nowhere"),
        train=(nothing,),
        dev=(nothing,),
        transfer=Transfer.model_validate({"root": str(root), **transfer}),
    )


def build(root: Path, **transfer: object) -> TransferSet:
    train, held_out = corpus("train", LABELLED), corpus("dev", HELD_OUT)
    return build_transfer_set(recipe(root, **transfer), [train], [held_out])


def raw(root: Path, *lines: str) -> TransferSet:
    """The set with these raw lines."""
    (root / "raw.txt").write_text("\n".join(lines), encoding="utf-8")
    return build(root, texts=["raw.txt"])


EVERYTHING = Augmentation(mentions=3, words=3, masks=3, ngrams=3)


def test_labelled_texts_then_raw_ones_then_variations(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Hugo slept.\nIda woke.\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("Jonas ran.\n", encoding="utf-8")
    made = build(tmp_path, texts=["*.txt"], augment={"masks": 1.0})
    assert made.texts[:6] == (*LABELLED, "Jonas ran.", "Hugo slept.", "Ida woke.")
    assert made.counts == {"labelled": 3, "a.txt": 1, "b.txt": 2, "masks": 3}
    assert all("_" in text for text in made.texts[6:])
    assert made.dropped == {"blank": 0, "duplicates": 0, "held out": 0, "over the limit": 0}


def test_every_text_is_counted_or_dropped(tmp_path: Path) -> None:
    made = raw(
        tmp_path, "Hugo  slept.", "", " \t", "hugo slept", "DORA WAITED!", "Bela met Carl at Gull and Co."
    )
    assert made.texts == (*LABELLED, "Hugo  slept.")
    assert made.counts == {"labelled": 3, "raw.txt": 1}
    assert made.dropped == {"blank": 2, "duplicates": 2, "held out": 1, "over the limit": 0}


def test_labelled_texts_that_hold_a_held_out_one_are_left_out_and_not_varied(tmp_path: Path) -> None:
    train = corpus("train", [f"Ida wrote: {HELD_OUT[0]}", "Hugo Ada met Jonas Bela there"])
    table = recipe(tmp_path, augment={"masks": 5.0, "mentions": 5.0})
    made = build_transfer_set(table, [train], [corpus("test", HELD_OUT)])
    assert made.counts["labelled"] == 1
    assert not any("wrote" in text or "tern" in text for text in made.texts)


def test_a_variation_that_becomes_a_held_out_text_is_left_out(tmp_path: Path) -> None:
    train = corpus("train", ["Ida slept", "Hugo woke"])
    held_out = corpus("dev", ["Hugo slept", "_ woke"])
    table = recipe(tmp_path, augment={"mentions": 20.0, "masks": 20.0})
    made = build_transfer_set(table, [train], [held_out])
    assert {"Ida slept", "Hugo woke", "Ida woke", "_ slept"} <= set(made.texts)
    assert not {"Hugo slept", "_ woke"} & set(made.texts)
    assert made.dropped["held out"] >= 2


@settings(max_examples=25)
@given(data=st.data(), several=st.lists(texts, max_size=6), away=st.lists(texts, max_size=6))
def test_no_text_is_a_held_out_one_and_none_is_there_twice(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, several: list[str], away: list[str]
) -> None:
    shared = data.draw(st.lists(st.sampled_from([*several, *away]), max_size=3)) if several or away else []
    lines = [f"Ida {text}" for text in away] + away + shared
    root = tmp_path_factory.mktemp("raw")
    lines = [line.replace("\n", " ") for line in lines]
    (root / "raw.txt").write_bytes("\n".join(lines).encode("utf-8", "ignore"))
    table = recipe(root, texts=["raw.txt"], augment=EVERYTHING)
    made = build_transfer_set(table, [corpus("train", [*several, *shared])], [corpus("dev", away)])
    keys = [text_key(text) for text in made.texts]
    assert not {text_key(text) for text in away} & set(keys)
    assert len(keys) == len(set(keys))
    assert all(keys)
    assert sum(made.counts.values()) == len(made.texts)
    assert made.words == sum(len(split_words(text)) for text in made.texts)


def many(root: Path) -> None:
    lines = (f"Number {number} of the terns rose over the bay" for number in range(200))
    (root / "raw.txt").write_text("\n".join(lines), encoding="utf-8")


def test_the_limit_leaves_labelled_texts_whole_and_samples_the_others(tmp_path: Path) -> None:
    many(tmp_path)
    table = {"texts": ["raw.txt"], "augment": EVERYTHING}
    whole, made = build(tmp_path, **table), build(tmp_path, words=400, **table)
    assert 380 < made.words <= 400 < whole.words
    assert made.texts[:3] == tuple(LABELLED)
    assert made.counts["labelled"] == 3
    assert made.counts["raw.txt"] > 20
    assert made.dropped["over the limit"] == len(whole.texts) - len(made.texts)
    places = [whole.texts.index(text) for text in made.texts]
    assert places == sorted(places)
    assert places[-1] > len(places)


def test_no_limit_is_below_the_labelled_texts(tmp_path: Path) -> None:
    many(tmp_path)
    made = build(tmp_path, texts=["raw.txt"], words=1)
    assert made.texts == tuple(LABELLED)
    assert made.counts == {"labelled": 3, "raw.txt": 0}


def test_the_seed_decides(tmp_path: Path) -> None:
    many(tmp_path)
    table = {"texts": ["raw.txt"], "augment": EVERYTHING, "words": 300}
    first, second, other = (build(tmp_path, seed=seed, **table) for seed in (1, 1, 2))
    assert first == second
    assert first.key == second.key != other.key


def test_more_of_one_way_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    few, more = (build(tmp_path, augment={"mentions": n, "ngrams": 1.0}) for n in (0.0, 3.0))
    assert few.counts["ngrams"] == 3
    assert few.texts[3:] == more.texts[-3:]


def test_the_key_is_of_the_texts_in_their_order() -> None:
    keys = {
        TransferSet(several, {}, {}).key for several in [("a", "b"), ("b", "a"), ("a b",), ("a\nb",), ()]
    }
    assert len(keys) == 5
    assert TransferSet(("a",), {"labelled": 1}, {}).key == TransferSet(("a",), {}, {"blank": 1}).key


def test_raw_lines_lose_ends_and_surrounding_blanks_only(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_bytes("\ufeff  Ida ,  slept \r\nHugo\twoke\n".encode())
    long = "Jonas ran " * 400
    (tmp_path / "inner").mkdir()
    with gzip.open(tmp_path / "inner" / "raw.txt.gz", "wt", encoding="utf-8") as lines:
        lines.write(long)
    made = list(read_raw(tmp_path, ["raw.txt", "*.txt", "inner/*.gz"]))
    assert made == [
        ("raw.txt", "Ida ,  slept"),
        ("raw.txt", "Hugo\twoke"),
        ("inner/raw.txt.gz", long.strip()),
    ]


def test_a_pattern_without_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for pattern in ("*.text", "folder"):
        with pytest.raises(ValueError, match=r"no file matches .*set transfer.root") as caught:
            build(tmp_path, texts=[pattern])
        assert str(tmp_path) in str(caught.value)
        assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize("pattern", ["/raw.txt", "../raw.txt", ""])
def test_a_pattern_stays_under_the_root(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match="must be a path under"):
        build(tmp_path, texts=[pattern])


def test_what_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_bytes("Ida\nZoë\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"raw\.txt:2: not UTF-8 \(byte 3 of the line is 0xeb\); convert"):
        build(tmp_path, texts=["raw.txt"])


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(b"Ida slept\n" * 50)
    for broken in (whole[:-9], b"Ida slept\n"):
        (tmp_path / "raw.gz").write_bytes(broken)
        with pytest.raises(ValueError, match=r"raw\.gz: damaged after line \d+ .*again"):
            build(tmp_path, texts=["raw.gz"])


@settings(max_examples=10)  # each is flushed to disk
@given(several=st.lists(texts))
def test_a_loaded_set_is_the_saved_one(tmp_path: Path, several: list[str]) -> None:
    saved = TransferSet((*several, "a\ud800"), {"labelled": len(several)}, {"blank": 2})
    saved.save(tmp_path / "set")
    loaded = TransferSet.load(tmp_path / "set")
    assert loaded == saved
    assert loaded.key == saved.key


def test_the_same_texts_are_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        TransferSet(("a", "b"), {}, {}).save(tmp_path / name)
    first, second = ((tmp_path / name / "texts.jsonl.gz").read_bytes() for name in ("one", "two"))
    assert first == second


def test_a_set_that_is_not_there_or_not_whole_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(FileNotFoundError, match="no transfer set"):
        TransferSet.load(folder)
    TransferSet(("a", "b"), {}, {}).save(folder)
    file = folder / "texts.jsonl.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"not a transfer set.*delete the folder"):
        TransferSet.load(folder)
    file.write_bytes(gzip.compress(json.dumps("a").encode()))
    with pytest.raises(ValueError, match=r"holds other texts than transfer\.json says"):
        TransferSet.load(folder)


@pytest.mark.skipif(not RAW.is_dir(), reason="the real raw text is not here (../shared/data/unlabelled)")
def test_real_raw_text_is_read_whole() -> None:
    made = list(
        read_raw(RAW, ["speeches.txt", "fiction.txt", "newswire.txt", "wikipedia.txt", "speeches.txt"])
    )
    assert len(made) == 135748
    assert list(dict(made)) == ["speeches.txt", "fiction.txt", "newswire.txt", "wikipedia.txt"]
