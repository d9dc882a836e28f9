import json
from pathlib import Path

import pytest

from training.data.corpora import load_corpus, load_held_out, load_train
from training.data.documents import Document, Span
from training.recipe import Corpus, Encoder, Recipe


def entry(name: str, **more: object) -> Corpus:
    return Corpus.model_validate({"name": name, "paths": (f"{name}.jsonl",), "reader": "jsonl", **more})


def write(folder: Path, name: str, *records: tuple[str, list[tuple[int, int, str]]]) -> None:
    lines = (json.dumps({"text": text, "entities": spans}) for text, spans in records)
    (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def recipe(folder: Path, *train: Corpus) -> Recipe:
    return Recipe(
        name="own",
        labels=("PER", "LOC"),
        data_root=str(folder),
        encoder=Encoder(path="nowhere"),
        train=train,
        dev=(entry("dev"),),
        test=(entry("test"),),
    )


def texts(documents: tuple[Document, ...]) -> list[str]:
    return [document.text for document in documents]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "dev", ("Ada left", [(0, 3, "PER")]))
    write(tmp_path, "test", ("Bay rose", [(0, 3, "LOC")]), ("Bay rose", [(0, 3, "LOC")]))
    return tmp_path


def test_labels_are_mapped_and_others_are_o(tmp_path: Path) -> None:
    spans = [(0, 3, "person"), (4, 8, "LOC"), (9, 13, "ship"), (14, 17, "day")]
    write(tmp_path, "own", ("Ada Lund Gull Mon", spans))
    corpus = entry("own", labels={"person": "PER", "day": "O"}, repeat=3)
    loaded = load_corpus(corpus, tmp_path, ("PER", "LOC"))
    assert loaded.documents == (
        Document("own:own.jsonl:1", "Ada Lund Gull Mon", (Span(0, 3, "PER"), Span(4, 8, "LOC"))),
    )
    assert loaded.repeat == 3


def test_cleaning_runs_in_order_after_mapping(tmp_path: Path) -> None:
    write(tmp_path, "own", ("the Germans", [(0, 11, "place")]))
    corpus = entry("own", labels={"place": "LOC"}, clean=("articles", "demonyms"))
    assert load_corpus(corpus, tmp_path, ("LOC",)).documents[0].spans == ()
    backwards = entry("own", labels={"place": "LOC"}, clean=("demonyms", "articles"))
    assert load_corpus(backwards, tmp_path, ("LOC",)).documents[0].spans == (Span(4, 11, "LOC"),)


def test_a_text_is_trained_on_once(folder: Path) -> None:
    write(folder, "a", ("Ada, rose!", [(0, 3, "PER")]), ("Lund", []), ("ada rose", []))
    write(folder, "b", ("Ada rose", []), ("Gull", []))
    first, second = load_train(recipe(folder, entry("a"), entry("b")))
    assert texts(first.documents) == ["Ada, rose!", "Lund"]
    assert texts(second.documents) == ["Gull"]
    assert (first.duplicates, second.duplicates) == (1, 1)
    (dropped,) = second.dropped
    assert (dropped.document.text, dropped.original.text, dropped.corpus) == ("Ada rose", "Ada, rose!", "a")


def test_what_stands_in_dev_or_test_is_not_trained_on(folder: Path) -> None:
    write(folder, "a", ("Ada  left .", []), ("Gull", []), ("BAY ROSE", []), ("Bay rose", []))
    (loaded,) = load_train(recipe(folder, entry("a")))
    assert texts(loaded.documents) == ["Gull"]
    assert (loaded.leaks, loaded.duplicates) == (3, 0)
    assert [dropped.corpus for dropped in loaded.dropped] == ["dev", "test", "test"]


def test_held_out_texts_are_all_kept(folder: Path) -> None:
    (loaded,) = load_held_out((entry("test"),), recipe(folder, entry("a")))
    assert len(loaded.documents) == 2


def test_texts_of_marks_alone_are_told_apart(folder: Path) -> None:
    write(folder, "a", (":-)", []), (":-(", []), (" :-) ", []))
    (loaded,) = load_train(recipe(folder, entry("a")))
    assert texts(loaded.documents) == [":-)", ":-("]


def test_several_paths_are_one_corpus(folder: Path) -> None:
    write(folder, "a", ("Gull", []))
    write(folder, "b", ("Tern", []))
    corpus = entry("both", paths=("a.jsonl", "b.jsonl"))
    assert texts(load_corpus(corpus, folder, ("PER",)).documents) == ["Gull", "Tern"]
