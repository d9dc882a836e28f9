"""Evaluation runs a version through the serving engine, so that the scores are those of the server."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from training.data.corpora import LoadedCorpus
from training.evaluation.answers import Answers, Finds, ask, ask_system
from training.evaluation.spans import Scores, score
from training.evaluation.tokens import token_table


def evaluate(
    folder: Path, corpora: Sequence[LoadedCorpus], variant: str = "auto", tokens: bool = False
) -> dict[str, Any]:
    """Compute the entity scores of a version on each corpus, in percent.

    Returns:
        `{"average_f1": …, "corpora": {name: {"precision", "recall", "f1", "support", "labels"}}}`;
        the average is the unweighted mean over the corpora. With `tokens` each corpus also has the
        token table.
    """
    loaded = load_version(folder, LoadOptions(variant=variant))
    try:
        answered = [ask(loaded.model, corpus) for corpus in corpora]
    finally:
        loaded.model.close()
    return _scores(answered, loaded.manifest.labels, tokens)


def evaluate_system(
    finds: Finds, corpora: Sequence[LoadedCorpus], labels: Sequence[str], tokens: bool = False
) -> dict[str, Any]:
    """Compute the scores of `evaluate` for any other system, such as another library's pipeline.

    Args:
        finds: the system; it must return entities of the corpora's labels alone.
        labels: the entity types that get separate rows.
    """
    return _scores([ask_system(finds, corpus) for corpus in corpora], labels, tokens)


def _scores(answered: Sequence[Answers], labels: Sequence[str], tokens: bool) -> dict[str, Any]:
    results = {answers.corpus: _corpus(answers, labels, tokens) for answers in answered}
    mean = sum(r["f1"] for r in results.values()) / len(results) if results else 0.0
    return {"average_f1": round(mean, 2), "corpora": results}


def _corpus(answers: Answers, labels: Sequence[str], tokens: bool) -> dict[str, Any]:
    documents, found = answers.documents, answers.spans
    scores: Scores = score(found, [document.spans for document in documents], labels)
    result = asdict(scores.overall.percentages) | {
        "labels": {label: asdict(one.percentages) for label, one in scores.labels.items()}
    }
    if tokens:
        table = token_table(documents, found, labels)
        result["tokens"] = {tag: asdict(row) for tag, row in table.items()}
    return result


def as_text(results: dict[str, Any]) -> str:
    """Format results as a Markdown table, which is also readable in a terminal."""
    lines = [
        "| corpus | label | precision | recall | F1 | entities |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, corpus in results["corpora"].items():
        for label, row in (("all", corpus), *corpus["labels"].items()):
            lines.append(
                f"| {name} | {label} | {row['precision']:.2f} | {row['recall']:.2f} "
                f"| {row['f1']:.2f} | {row['support']} |"
            )
    lines.append(f"| **average** | all | | | **{results['average_f1']:.2f}** | |")
    for name, corpus in results["corpora"].items():
        if "tokens" in corpus:
            lines += ["", f"Tokens of {name} (micro F1 counts O, so it is accuracy):", ""]
            lines += ["| tag | precision | recall | F1 | tokens |", "|---|---:|---:|---:|---:|"]
            lines += [
                f"| {tag} | {row['precision']:.2f} | {row['recall']:.2f} | {row['f1']:.2f} "
                f"| {row['support']} |"
                for tag, row in corpus["tokens"].items()
            ]
    return "\n".join(lines)
