import json
from pathlib import Path

import pytest

from app.labels import Scheme
from tests.training.data.tagging import Tagged, spell
from training.data.check import CorpusCheck, Report, as_text, check
from training.recipe import Corpus, Encoder, Recipe, load_recipe

PEOPLE = Tagged(["Ada", "Lund", "met", "Bo"], [(0, 1, "PER"), (3, 3, "PER")])
PLACES = Tagged(["near", "Kestrel", "Bay"], [(1, 2, "LOC")])


Sentence = tuple[Tagged, Scheme]


def times(count: int, tagged: Tagged, scheme: Scheme) -> list[Sentence]:
    return [(tagged, scheme)] * count


def conll(folder: Path, name: str, *sentences: Sentence) -> None:
    blocks = []
    for number, (tagged, scheme) in enumerate(sentences):
        rows = [*zip(tagged.tokens, spell(tagged, scheme), strict=True), (f"n{number}", "O")]
        blocks.append("".join(f"{token}\t{tag}\n" for token, tag in rows))
    (folder / name).write_text("\n".join(blocks), encoding="utf-8")


def jsonl(folder: Path, name: str, *records: tuple[str, list[tuple[int, int, str]]]) -> None:
    lines = (json.dumps({"text": text, "entities": spans}) for text, spans in records)
    (folder / name).write_text("\n".join(lines), encoding="utf-8")


def corpus(*paths: str, **more: object) -> Corpus:
    reader = "conll" if paths[0].endswith("conll") else "jsonl"
    return Corpus.model_validate({"name": "own", "paths": paths, "reader": reader, **more})


def report(folder: Path, *train: Corpus) -> Report:
    recipe = Recipe(
        name="own",
        labels=("PER", "LOC"),
        data_root=str(folder),
        encoder=Encoder(path="nowhere"),
        train=train,
        dev=(corpus("dev.jsonl").model_copy(update={"name": "dev"}),),
    )
    return check(recipe)


def first(found: Report) -> CorpusCheck:
    return found.corpora[0]


def some(found: tuple[str, ...], *words: str) -> list[str]:
    return [text for text in found if all(word in text for word in words)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    jsonl(tmp_path, "dev.jsonl", ("Cy in Tern", [(0, 2, "PER"), (6, 10, "LOC")]))
    return tmp_path


def test_clean_data_has_no_problems_and_nothing_to_note(folder: Path) -> None:
    conll(folder, "a.conll", (PEOPLE, "IOB2"), (PLACES, "IOB2"))
    found = report(folder, corpus("a.conll"))
    assert (found.problems, found.notes) == ((), ())
    assert [(one.split, one.name, one.documents) for one in found.corpora] == [
        ("train", "own", 2),
        ("dev", "dev", 1),
    ]
    assert first(found).after == {"PER": 2, "LOC": 1}


def test_labels_are_counted_before_and_after(folder: Path) -> None:
    spans = [(0, 3, "person"), (4, 7, "place"), (8, 12, "ship"), (13, 19, "person")]
    jsonl(folder, "a.jsonl", ("Ada Bay Gull German", spans))
    labels = {"person": "PER", "place": "LOC"}
    found = report(folder, corpus("a.jsonl", labels=labels, clean=("demonyms",)))
    assert first(found).before == {"person": 2, "place": 1, "ship": 1}
    assert first(found).after == {"PER": 1, "LOC": 1}
    assert first(found).unmapped == {"ship": 1}
    assert some(found.notes, "train own: labels that become O: ship 1")
    assert not found.problems


def test_labels_that_match_nothing_are_problems(folder: Path) -> None:
    jsonl(folder, "a.jsonl", ("Ada", [(0, 3, "person")]))
    found = report(folder, corpus("a.jsonl", labels={"place": "LOK", "day": "O"}))
    assert some(found.problems, "own: labels maps place to LOK, which is no label of the recipe")
    assert not some(found.problems, "day")
    assert some(found.problems, "train own: has none of the recipe's labels, only person 1")
    assert some(found.problems, "no training corpus has a PER")


def test_an_empty_corpus_is_a_problem(folder: Path) -> None:
    (folder / "a.conll").write_text("\n\n")
    assert some(report(folder, corpus("a.conll")).problems, "train own: holds no text")


def test_a_slip_is_a_note_with_its_line(folder: Path) -> None:
    conll(folder, "a.conll", *times(40, PEOPLE, "IOB2"), (PLACES, "IO"))
    found = report(folder, corpus("a.conll"))
    assert not found.problems
    (note,) = some(found.notes, "1 of 122 tags are illegal in IOB2")
    assert f"({folder / 'a.conll'}:242: I-LOC after O)" in note
    assert "legal in another scheme: IO 1 sentences" in note


def test_many_illegal_tags_are_a_problem(folder: Path) -> None:
    conll(folder, "a.conll", *times(9, PEOPLE, "IOB2"))
    found = report(folder, corpus("a.conll", options={"scheme": "IOB1"}))
    (problem,) = some(found.problems, "18 of 27 tags are illegal in IOB1")
    assert "a.conll:1: B-PER at the start" in problem
    assert "the file looks like IOB2; legal in another scheme: IOB2 9 sentences" in problem


def test_a_file_of_two_schemes_is_a_problem(folder: Path) -> None:
    conll(folder, "a.conll", (PEOPLE, "BIOES"), (PEOPLE, "IOB2"), (PLACES, "BIOES"))
    found = report(folder, corpus("a.conll"))
    assert first(found).tags[0].foreign == {"IOB2": 1}
    assert some(found.problems, "illegal in BIOES", "legal in another scheme: IOB2 1 sentences")


def test_files_of_two_schemes_are_a_problem(folder: Path) -> None:
    conll(folder, "a.conll", (PEOPLE, "IOB2"))
    conll(folder, "b.conll", (PEOPLE, "BIOES"))
    found = report(folder, corpus("a.conll", "b.conll"))
    assert some(found.problems, "look like 2 schemes (a.conll IOB2, b.conll BIOES)")


def test_a_file_that_fits_the_others_scheme_is_not_mixed(folder: Path) -> None:
    neighbours = Tagged(["Ada", "Bo", "left"], [(0, 0, "PER"), (1, 1, "PER")])
    nothing = Tagged(["it", "rained"], [])
    conll(folder, "a.conll", (neighbours, "IOB1"), (PLACES, "IOB1"))
    conll(folder, "b.conll", (PEOPLE, "IOB1"))  # looks like IO: no two neighbours in it
    conll(folder, "c.conll", (nothing, "IOB1"))
    found = report(folder, corpus("a.conll", "b.conll", "c.conll"))
    assert [file.detected for file in first(found).tags] == ["IOB1", "IO", "IOB2"]
    assert not found.problems


def test_repeats_are_noted_with_where_they_stand(folder: Path) -> None:
    jsonl(
        folder,
        "a.jsonl",
        ("Ada left", [(0, 3, "PER")]),
        ("ada left!", [(0, 3, "PER")]),
        ("cy in tern", []),
        ("Bay", [(0, 3, "LOC")]),
    )
    jsonl(folder, "b.jsonl", ("Ada left", []), ("Bay", [(0, 3, "LOC")]))
    other = corpus("b.jsonl").model_copy(update={"name": "other"})
    found = report(folder, corpus("a.jsonl"), other)
    assert some(found.notes, "train own: 1 texts dropped, which stand in training before: own 1")
    assert some(found.notes, "train own: 1 texts dropped, which stand in held-out files: dev 1")
    assert some(found.notes, "train other: 2 texts dropped", "own 2")
    (note,) = some(found.notes, "1 of the duplicates are labelled unlike what stays")
    assert note.startswith("train other")
    assert "(other:b.jsonl:1 and own:a.jsonl:1)" in note
    assert not found.problems


def test_texts_that_two_held_out_files_share_are_noted(folder: Path) -> None:
    jsonl(folder, "a.jsonl", ("Ada in Bay", [(0, 3, "PER"), (7, 10, "LOC")]))
    dev = corpus("dev.jsonl")
    recipe = Recipe(
        name="own",
        labels=("PER", "LOC"),
        data_root=str(folder),
        encoder=Encoder(path="nowhere"),
        train=(corpus("a.jsonl"),),
        dev=(dev.model_copy(update={"name": "dev"}),),
        test=(dev.model_copy(update={"name": "test"}),),
    )
    assert check(recipe).notes == ("1 texts of test also stand in dev; both are kept",)


@pytest.mark.parametrize(
    ("span", "noted"), [((0, 4), 0), ((0, 3), 1), ((6, 8), 1), ((4, 9), 1), ((5, 9), 0), ((6, 9), 0)]
)
def test_entities_off_their_words_are_noted(folder: Path, span: tuple[int, int], noted: int) -> None:
    spans = [(*span, "PER"), (10, 13, "LOC")]
    jsonl(folder, "a.jsonl", ("Lund -Gul Bay", spans))
    found = report(folder, corpus("a.jsonl"))
    assert len(first(found).off_words) == noted
    assert len(some(found.notes, "1 of 2 entities do not start and end where words do")) == noted


def test_spans_that_overlap_are_a_problem(folder: Path) -> None:
    records = [
        {"begin": 3, "end": 3, "type": "PER", "documentId": "A1"},
        {"begin": 4, "end": 7, "type": "LOC", "documentId": "A1"},
    ]
    (folder / "ships").mkdir()
    (folder / "ships/entities.json").write_text("\n".join(map(json.dumps, records)))
    (folder / "ships/documents.json").write_text(json.dumps({"_id": "A1", "text": "Ada Bay"}))
    found = report(folder, Corpus(name="own", paths=("ships",), reader="re3d"))
    assert some(found.problems, "1 texts have empty or overlapping entities (own:ships:A1:0)")


def test_the_report_is_a_table_with_findings(folder: Path) -> None:
    conll(folder, "a.conll", (PEOPLE, "IOB2"), (PLACES, "IOB2"))
    text = as_text(report(folder, corpus("a.conll", labels={"LOC": "LOK"})))
    head, own, dev, *_ = text.splitlines()
    assert head.split() == [
        "corpus",
        "texts",
        "duplicates",
        "leaks",
        "tags",
        "PER",
        "LOC",
        "in",
        "the",
        "files",
    ]
    assert " ".join(own.split()) == "train own 2 0 0 IOB2 2 0 PER 2, LOC 1"
    assert " ".join(dev.split()) == "dev dev 1 0 0 - 1 1 PER 1, LOC 1"
    assert "Problems: 2\n- own: labels maps LOC to LOK" in text
    assert text.endswith("Notes: none")


def test_the_shipped_recipe_has_no_problems(labelled: Path) -> None:
    recipe = load_recipe(
        Path(__file__).parents[3] / "training/recipes/ner-en.toml", [f'data_root="{labelled}"']
    )
    found = check(recipe)
    assert found.problems == ()
    assert [one.documents for one in found.corpora if one.split != "train"] == [
        *(2001, 1000, 1009),
        *(2077, 2001, 1287, 1000),
    ]
    leaks = {one.name: sum(dropped.leak for dropped in one.dropped) for one in found.corpora}
    assert leaks["ewt"] == 511  # "Thanks!" and the like
    assert not any(file.illegal for one in found.corpora for file in one.tags)
