"""Toy test files, a recipe of them and a run, for the tests of reports."""

import json
from pathlib import Path
from typing import Any

from tests.tiny import LABELS
from training.recipe import Recipe, load_recipe

QUICK: dict[str, Any] = {"resamples": 200, "robustness": False, "say": lambda _: None}

SENTENCES = {
    "train": [("Angela Merkel left IBM.", [(0, 13, "PER"), (19, 22, "ORG")])],
    "dev": [("Nobody left New York.", [(12, 20, "LOC")])],
    "news": [
        ("Angela Merkel visited IBM in New York.", [(0, 13, "PER"), (22, 25, "ORG"), (29, 37, "LOC")]),
        ("<script>alert(1)</script> says Karl & co", [(31, 35, "PER")]),
        ("Perhaps they went to York | Leeds.", [(21, 25, "LOC"), (28, 33, "LOC")]),
        ("Then IBM, she said.", [(5, 8, "ORG")]),
    ],
    "web": [("angela went home", [(0, 6, "PER")]), ("it is late", []), ("ibm", [(0, 3, "ORG")])],
}


def write_recipe(folder: Path, test: tuple[str, ...] = ("news", "web")) -> Recipe:
    lines = [
        'name = "tiny"',
        f'labels = ["{LABELS[0]}", "{LABELS[1]}", "{LABELS[2]}"]',
        f'data_root = "{folder}"',
        "[encoder]",
        'path = "none"',
    ]
    for kind, name in (("train", "train"), ("dev", "dev"), *(("test", name) for name in test)):
        records = (
            {"text": text, "entities": [{"start": s, "end": e, "label": label} for s, e, label in spans]}
            for text, spans in SENTENCES[name]
        )
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
        lines += [f"[[{kind}]]", f'name = "{name}"', f'paths = ["{name}.jsonl"]', 'reader = "jsonl"']
    (folder / "tiny.toml").write_text("\n".join(lines))
    return load_recipe(folder / "tiny.toml")


def write_run(folder: Path) -> Path:
    """What training leaves behind: two stages, one of them half written, and a learning curve."""
    epochs = [{"number": n, "loss": 1 / n, "dev": {"dev": 60.0 + n}, "average": 60.0 + n} for n in (1, 2)]
    for stage in ("teachers/seed-1/state", "student/transfer/state", "student/.state.new"):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "history.json").write_text(json.dumps(epochs))
    curve = {"sizes": [10, 100], "alone": [40.0, 60.0], "distilled": [55.0, 66.0]}
    (folder / "learning_curve.json").write_text(json.dumps(curve))
    (folder / "recipe.json").write_text("{}")
    return folder
