"""This module makes soups: it averages the weights of several runs into one network of the same size.

The method is that of Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models
improves accuracy without increasing inference time" (arXiv 2203.05482). The runs must start from the same
weights, such as fine-tunings of one encoder with several seeds or learning rates.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from app.engine.text.tokenizer import Tokenizer
from app.labels import tags_of
from training.data.corpora import LoadedCorpus, load_held_out
from training.folders import replaced_folder
from training.inference import f1_of
from training.models import load_tagger
from training.models.tagger import ConfiguredTagger, Tagger
from training.models.transformer import TransformerTagger
from training.progress import Say
from training.recipe import Recipe
from training.teacher import member_key

SOUP = "soup.json"
"""The file in a soup's folder that lists its members."""

_TOKENIZER = "tokenizer.json"

_Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Member:
    """Holds a checkpoint that may join the soup, and its dev F1 in percent, None if not measured."""

    folder: Path
    dev_f1: float | None


def soup(checkpoints: Sequence[Path], output: Path, recipe: Recipe | None, greedy: bool, say: Say) -> Path:
    """Average the weights of checkpoints into a new checkpoint folder.

    The folder also holds `soup.json`: the members with the hashes of their files, whether each was taken,
    and the dev F1 (percent, averaged over the recipe's dev corpora) of each member and of the soup.

    Args:
        output: the new folder; it replaces an older soup.
        recipe: names the dev corpora; without a recipe no F1 is measured.
        greedy: add members in the order of their dev F1, and keep each only if the soup's F1 does not
            fall; otherwise take all.

    Raises:
        ValueError: two checkpoints differ in more than weights, `greedy` has no recipe, or `output` is a
            folder without a soup.
    """
    _check_folders(checkpoints, output)
    if greedy and recipe is None:
        raise ValueError("a greedy soup is chosen on dev corpora; name a recipe that has them")
    base = load_tagger(checkpoints[0])
    _check_alike(checkpoints, base)
    measure = _measure(recipe, checkpoints[0], base) if recipe else None

    members = []
    for folder in checkpoints:
        member = _Member(folder, measure(load_tagger(folder)) if measure else None)
        if member.dev_f1 is not None:
            say(f"{folder}: dev F1 {member.dev_f1:.2f}")
        members.append(member)
    taken = members
    if greedy and measure:
        taken = _chosen(members, base, measure, say)
    base.load_state_dict(average([member.folder for member in taken]))
    dev_f1 = measure(base) if measure else None
    said = "" if dev_f1 is None else f", dev F1 {dev_f1:.2f}"
    say(f"{output}: the mean of {len(taken)} of {len(members)}{said}")

    with replaced_folder(output) as new:
        base.save(new)
        (new / _TOKENIZER).write_bytes((checkpoints[0] / _TOKENIZER).read_bytes())
        described: dict[str, Any] = {
            "method": "greedy" if greedy else "uniform",
            "dev_f1": dev_f1,
            "dev": [corpus.name for corpus in recipe.dev] if recipe else [],
            "members": [
                {
                    "folder": str(member.folder),
                    "sha256": member_key(member.folder),
                    "dev_f1": member.dev_f1,
                    "taken": member in taken,
                }
                for member in members
            ],
        }
        text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
        (new / SOUP).write_text(text, encoding="utf-8")
    return output


def average(checkpoints: Sequence[Path]) -> _Weights:
    """Return the mean of each weight over checkpoints of one architecture, summed in float64.

    Integer tensors, such as position ids, come from the first checkpoint.
    """
    first = load_tagger(checkpoints[0]).state_dict()
    sums = {name: value.double() for name, value in first.items() if value.is_floating_point()}
    for folder in checkpoints[1:]:
        more = load_tagger(folder).state_dict()
        for name, value in sums.items():
            value += more[name].double()
    return first | {name: (value / len(checkpoints)).to(first[name].dtype) for name, value in sums.items()}


def _chosen(
    members: Sequence[_Member], network: Tagger, measure: Callable[[Tagger], float], say: Say
) -> list[_Member]:
    """Return the greedy soup's members, best first; no member lowers the soup's F1."""
    best, *others = sorted(members, key=lambda member: -(member.dev_f1 or 0.0))
    taken, reached = [best], best.dev_f1 or 0.0
    for member in others:
        network.load_state_dict(average([one.folder for one in (*taken, member)]))
        found = measure(network)
        say(f"with {member.folder}: dev F1 {found:.2f}{'' if found >= reached else ', left out'}")
        if found >= reached:
            taken, reached = [*taken, member], found
    return taken


def _measure(recipe: Recipe, folder: Path, network: Tagger) -> Callable[[Tagger], float]:
    """Return a function that measures the dev F1, in percent, of a network like this one."""
    tags = tuple(tags_of(recipe.labels, recipe.scheme))
    if (found := network.tags) != tags:
        raise ValueError(
            f"{folder}: its tags are {', '.join(found)}, the recipe's {', '.join(tags)}; "
            "name the recipe it was trained with"
        )
    tokenizer = Tokenizer.from_file(folder / _TOKENIZER, recipe.encoder.words)
    dev: list[LoadedCorpus] = load_held_out(recipe.dev, recipe)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def dev_f1(tagger: Tagger) -> float:
        tagger.to(device)
        return mean(round(100 * f1_of(tagger, tokenizer, one.documents, recipe), 3) for one in dev)

    return dev_f1


def _check_folders(checkpoints: Sequence[Path], output: Path) -> None:
    if not checkpoints:
        raise ValueError("a soup needs a checkpoint at least; name the checkpoint folders of some runs")
    for folder in checkpoints:
        if not (folder / _TOKENIZER).exists() or not list(folder.glob("*.safetensors")):
            raise ValueError(
                f"{folder}: no checkpoint, which has {_TOKENIZER} and *.safetensors; "
                "name a run's checkpoint folder"
            )
    if len({folder.resolve() for folder in checkpoints}) < len(checkpoints):
        raise ValueError(f"{', '.join(map(str, checkpoints))}: a checkpoint is named twice; name each once")
    if output.exists() and not (output / SOUP).exists():
        raise ValueError(f"{output}: exists and is no soup; name another folder, or delete it")
    if output.resolve() in {folder.resolve() for folder in checkpoints}:
        raise ValueError(f"{output}: is a member of the soup; name another folder")


def _check_alike(checkpoints: Sequence[Path], base: Tagger) -> None:
    """Raise ValueError, naming each difference, if checkpoints differ in more than their weights."""
    first, wanted = checkpoints[0], _described(base)
    tokenizer = json.loads((first / _TOKENIZER).read_text(encoding="utf-8"))
    for folder in checkpoints[1:]:
        found = _described(load_tagger(folder))
        if differ := sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k)):
            said = "; ".join(f"{key} {found.get(key)!r}, not {wanted.get(key)!r}" for key in differ)
            raise ValueError(f"{folder}: differs from {first}: {said}; average runs of one network")
        if json.loads((folder / _TOKENIZER).read_text(encoding="utf-8")) != tokenizer:
            raise ValueError(
                f"{folder}: has another {_TOKENIZER} than {first}; average runs of one network"
            )


def _described(tagger: Tagger) -> dict[str, Any]:
    """Return what a soup's members share: architecture, tags, config without dropout, shapes of weights."""
    config: dict[str, Any] = {}
    if isinstance(tagger, ConfiguredTagger):
        config = vars(tagger.config)
    if isinstance(tagger, TransformerTagger):
        config = tagger.network.config.to_dict()
    described: dict[str, Any] = {"architecture": tagger.architecture, "tags": tagger.tags}
    described |= {k: v for k, v in config.items() if k not in _INCIDENTAL and "dropout" not in k}
    sizes = {name: tuple(value.shape) for name, value in tagger.state_dict().items()}
    return described | {f"shape of {name}": size for name, size in sizes.items()}


_INCIDENTAL = ("_name_or_path", "transformers_version", "id2label", "label2id", "torch_dtype", "dtype")
"""Keys of a Hugging Face config that do not describe the network."""
