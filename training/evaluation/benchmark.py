"""Benchmark: how large and how fast versions are, measured side by side on this machine.

Versions take turns, round by round, so that a noisy machine hurts all alike. Each runs once untimed
before its turn, so that what ran before it has left its threads and caches.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch

from app.engine.decoding.spans import Decoder
from app.engine.runtimes.cpu import Cpu
from app.engine.runtimes.session import CPU, OnnxSession
from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.engine.text.windows import cut_windows
from app.engine.text.words import Ints
from app.labels import tags_of
from app.machine import available_cpus
from app.manifest import Feature, read_manifest
from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from app.versions.loading.variants import choose_variant
from training.models.columns import read_columns
from training.models.transformer import TransformerTagger, load_tokenizer
from training.recipe import Recipe

ROWS, LENGTH = 32, 32
"""Rows and sub-tokens a row, special tokens included, of the batches that are timed."""

SENTENCES = (
    "The harbour master of Dunmore told Radio Estuary that no ferry to Saint Brendan would leave "
    "before the storm had passed over the bay.",
    "After nine years at Halden Instruments, Marta Kowalczyk moved to Lisbon, where she now runs a "
    "small school for people who repair old clocks.",
    "Shares of Pelican Freight fell by four percent on Monday because two of its largest customers "
    "had signed contracts with a rival from Rotterdam.",
    "In the second half Tomas Berg scored twice, and United Rovers held on to win their first match "
    "in Aberdeen since the spring of 1998.",
    "Nobody at the town hall could say who had ordered the new benches, how much they had cost, or "
    "why all of them faced the wall.",
    "The Ministry of Transport in Nairobi has asked Lakeside Rail to explain why the night train to "
    "Kisumu was late on eleven days in June.",
    "Professor Ana Lúcia Ferraz of the University of Recife will receive the prize for her work on "
    "mangroves at a ceremony in Geneva next autumn.",
    "A court in Osaka ordered Minato Foods to pay its former suppliers, although the company says "
    "that it never received the letters they had sent.",
    "When the bridge at Novy Most was closed, drivers had to go through three villages, and the "
    "bakery in the second one sold out by eight.",
    "Mr. Okonkwo, who chairs the Harbour Trust, said the museum would open on time even if the roof "
    "of its east wing was not yet finished.",
    "According to a survey by Brightwater Bank, most shops in northern Wales expect prices to rise "
    "more slowly this winter than they did a year ago.",
    "The orchestra will play in Vienna, Graz and Ljubljana before it returns to Sydney, where Helen "
    "Park takes over as its conductor early in March.",
    "It rained for so long that the lower fields turned into a lake, and the children rowed across it "
    "to school every morning for a week.",
    "Engineers from Voltaic Systems spent the night in the tunnel under Mount Ida, looking for the "
    "fault that had stopped every lift in the station.",
    "Senator Ruiz and Governor Lindqvist met in Santa Fe to talk about water, and both left without "
    "answering a single question from the reporters outside.",
    "The letters that Captain James Whitlock wrote from Cape Town to his sister in Cork were found in "
    "a tin box under the floor last summer.",
    "Northwind Energy plans to build sixty turbines off the coast of Jutland, but fishermen from "
    "Esbjerg say that the best grounds lie exactly there.",
    "She had read every book in the library of Port Ellis twice, so her uncle Samuel sent her more of "
    "them from Montreal with each ship.",
    "The Red Lantern Theatre has cancelled its tour of South Korea after Jin Watanabe, who plays the "
    "old king, broke his arm during a rehearsal.",
    "Two goats escaped from a farm near Ballymore on Tuesday, walked four miles along the motorway, "
    "and were found asleep in front of a bank.",
)
"""Sentences of 20 to 30 words, made up for this, as those of news are."""


@dataclass(frozen=True)
class Speed:
    """The size of a network and its speed on this machine.

    Attributes:
        precision: of the weights, `int8`, `fp16` or `fp32`.
        runtime: `onnxruntime` or `torch`.
        threads: that it ran on.
        parameters: as the version's lineage says, or the numbers its file holds.
        bytes: of the ONNX file (an ensemble's together), or of PyTorch's parameters.
        tokens_per_second: sub-tokens, network alone, in batches of 32 rows of 32 sub-tokens; median.
            An ensemble's networks run one after the other.
        milliseconds_per_sentence: from text to entities, one sentence at a time; median.
    """

    name: str
    precision: str
    runtime: str
    threads: int
    parameters: int
    bytes: int
    tokens_per_second: float
    milliseconds_per_sentence: float


@dataclass(frozen=True)
class _Runner:
    """Something to time: `batch` runs once over the timed batch, `sentence` over one text."""

    name: str
    precision: str
    runtime: str
    threads: int
    parameters: int
    bytes: int
    tokens: int
    batch: Callable[[], object]
    sentence: Callable[[str], object]


@dataclass(frozen=True)
class _Network:
    """An ONNX file and a batch for it: how many sub-tokens it has, and what runs it once."""

    parameters: int
    bytes: int
    tokens: int
    run: Callable[[], object]


def measure(folder: Path, threads: int = 0, rounds: int = 7) -> Speed:
    """The size and speed of a version; see `measure_together`."""
    return measure_together([folder], rounds, threads)[0]


def measure_torch(
    checkpoint: Path | TransformerTagger,
    tokenizer: Tokenizer | None = None,
    threads: int = 0,
    rounds: int = 7,
) -> Speed:
    """The size and speed of a Transformer tagger in PyTorch (eager, fp32), in the same units.

    Args:
        checkpoint: its folder, or the tagger itself, which then needs its `tokenizer`.

    Raises:
        ValueError: a tagger without a tokenizer, or a checkpoint whose tags are none.
    """
    if isinstance(checkpoint, Path):
        return measure_together([], rounds, threads, checkpoints=[checkpoint])[0]
    if tokenizer is None:
        raise ValueError("a tagger is measured from text on: give its tokenizer too, or its folder")
    with ExitStack() as stack:
        runner = _torch_runner(checkpoint, tokenizer, "PyTorch", threads or available_cpus(), stack)
        return _race([runner], rounds)[0]


def measure_together(
    folders: Sequence[Path],
    rounds: int = 7,
    threads: int = 0,
    checkpoints: Sequence[Path] = (),
    names: Sequence[str] = (),
    variants: Sequence[str] = (),
    teacher: Recipe | None = None,
) -> list[Speed]:
    """The size and speed of versions, in their order, then of networks in PyTorch.

    Args:
        rounds: how often each has its turn; medians over all rounds count.
        threads: of each session; 0 takes `available_cpus()`.
        checkpoints: folders of fine-tuned Transformer taggers.
        names: what to call the versions; by default `<name>/<version>`.
        variants: the precision of each version; by default what the server would load.
        teacher: a recipe whose teachers are timed in PyTorch, eager and in fp32: its encoder with an
            untrained classification layer, which takes as long.

    Raises:
        ValueError: no rounds, or a checkpoint whose tags are none.
        VersionRefused: a version fails its checks.
    """
    names = names or [f"{folder.parent.name}/{folder.name}" for folder in folders]
    with ExitStack() as stack:
        runners = [
            _version_runner(folder, name, threads, variant, stack)
            for folder, name, variant in zip(folders, names, variants or ["auto"] * len(names), strict=True)
        ]
        for path in checkpoints:
            tagger, tokenizer = TransformerTagger.load(path), load_tokenizer(str(path))
            runners.append(_torch_runner(tagger, tokenizer, str(path), threads or available_cpus(), stack))
        if teacher:
            tagger, tokenizer = _untrained(teacher)
            name = f"a teacher of {teacher.name}"
            runners.append(_torch_runner(tagger, tokenizer, name, threads or available_cpus(), stack))
        return _race(runners, rounds)


def _race(runners: Sequence[_Runner], rounds: int) -> list[Speed]:
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least one is needed to measure anything")
    batches: list[list[float]] = [[] for _ in runners]
    sentences: list[list[float]] = [[] for _ in runners]
    for number in range(rounds):
        order = range(len(runners)) if number % 2 == 0 else range(len(runners) - 1, -1, -1)
        for at in order:
            runner = runners[at]
            runner.batch()
            batches[at].append(_seconds(runner.batch))
            runner.sentence(SENTENCES[0])
            sentences[at] += [_seconds(runner.sentence, text) for text in SENTENCES]
    return [
        Speed(
            runner.name,
            runner.precision,
            runner.runtime,
            runner.threads,
            runner.parameters,
            runner.bytes,
            round(runner.tokens / median(batches[at]), 1),
            round(1000 * median(sentences[at]), 3),
        )
        for at, runner in enumerate(runners)
    ]


def _seconds(call: Callable[..., object], *arguments: str) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def _version_runner(folder: Path, name: str, threads: int, variant: str, stack: ExitStack) -> _Runner:
    loaded = load_version(folder, LoadOptions(threads=threads, variant=variant))
    stack.callback(loaded.model.close)
    members = [folder.parent.parent / member for member in loaded.manifest.members] or [folder]
    networks = [_network(member, loaded.threads, variant) for member in members]
    return _Runner(
        name=name,
        precision=loaded.variant.precision,
        runtime="onnxruntime",
        threads=loaded.threads,
        parameters=sum(network.parameters for network in networks),
        bytes=sum(network.bytes for network in networks),
        tokens=networks[0].tokens,
        batch=lambda: [network.run() for network in networks],
        sentence=lambda text: loaded.model.predict([text]),
    )


def _network(folder: Path, threads: int, variant: str) -> _Network:
    manifest = read_manifest(folder)
    path = folder / choose_variant(manifest, Cpu(), variant).file
    tokenizer = Tokenizer.from_file(folder / manifest.tokenizer, manifest.words)
    session = OnnxSession(path, CPU, threads, manifest.output)
    batch = _batch(tokenizer, min(LENGTH, manifest.max_length))
    fed = {name: batch[feature] for name, feature in manifest.inputs.items()}
    return _Network(
        manifest.lineage.get("export", {}).get("parameters") or count_parameters(path),
        path.stat().st_size,
        batch["ids"].size,
        lambda: session.run(fed),
    )


def _untrained(recipe: Recipe) -> tuple[TransformerTagger, Tokenizer]:
    encoder, tags = recipe.encoder, tags_of(recipe.labels, recipe.scheme)
    tagger = TransformerTagger.from_pretrained(
        encoder.path, tags, encoder.word_shapes, encoder.dropout, torch.Generator().manual_seed(0)
    )
    return tagger, load_tokenizer(encoder.path, encoder.words, encoder.spaced_marks)


def recorded_f1(folders: Sequence[Path]) -> dict[str, float]:
    """The average test F1 that each version's manifest has, by `<name>/<version>`."""
    manifests = {f"{folder.parent.name}/{folder.name}": read_manifest(folder) for folder in folders}
    return {
        name: manifest.metrics["test"]["average_f1"]
        for name, manifest in manifests.items()
        if "average_f1" in manifest.metrics.get("test", {})
    }


def _torch_runner(
    tagger: TransformerTagger, tokenizer: Tokenizer, name: str, threads: int, stack: ExitStack
) -> _Runner:
    tagger = tagger.float().eval()
    before = torch.get_num_threads()
    stack.callback(torch.set_num_threads, before)
    torch.set_num_threads(threads)
    device = next(tagger.parameters()).device
    meaning = read_columns(tagger.tags)
    decoder, columns = Decoder(meaning.tags, meaning.scheme), list(meaning.numbers)
    size = tagger.network.config.max_position_embeddings - 2 - tokenizer.specials  # RoBERTa skips two
    batch = _batch(tokenizer, LENGTH)

    @torch.inference_mode()
    def run(features: Mapping[Feature, Ints]) -> Any:
        tensors = (torch.from_numpy(features[name]).to(device) for name in ("ids", "mask", "word_shape"))
        return tagger(*tensors).cpu().numpy()

    def sentence(text: str) -> object:
        (encoded,) = tokenizer.encode([text])
        logits = np.zeros((len(encoded), len(tagger.tags)), np.float32)
        for window in cut_windows(len(encoded), size, size // 4):
            inside = slice(window.start, window.end)
            values = run(_rows(tokenizer, [encoded.ids[inside]], [encoded.shapes[inside]]))[0]
            at = len(tokenizer.prefix) - window.start
            logits[window.keep_from : window.keep_to] = values[window.keep_from + at : window.keep_to + at]
        return decoder.decode(logits[encoded.firsts][:, columns])

    weights = list(tagger.parameters())
    return _Runner(
        name=name,
        precision="fp32",
        runtime="torch",
        threads=threads,
        parameters=sum(weight.numel() for weight in weights),
        bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        tokens=batch["ids"].size,
        batch=lambda: run(batch),
        sentence=sentence,
    )


def _batch(tokenizer: Tokenizer, length: int) -> dict[Feature, Ints]:
    """`ROWS` rows of `length` sub-tokens, cut from the sentences one after the other."""
    encoded: list[EncodedText] = tokenizer.encode(SENTENCES)
    shape = (ROWS, length - tokenizer.specials)
    ids = np.resize(np.concatenate([text.ids for text in encoded]), shape)
    shapes = np.resize(np.concatenate([text.shapes for text in encoded]), shape)
    return _rows(tokenizer, list(ids), list(shapes))


def _rows(tokenizer: Tokenizer, ids: Sequence[Ints], shapes: Sequence[Ints]) -> dict[Feature, Ints]:
    """What a network is fed, of shape (rows, sub-tokens); all rows are of one length."""
    left, right = len(tokenizer.prefix), len(tokenizer.suffix)
    whole = np.array([[*tokenizer.prefix, *row, *tokenizer.suffix] for row in ids], np.int64)
    return {
        "ids": whole,
        "mask": np.ones_like(whole),
        "word_shape": np.pad(np.array(shapes, np.int64), ((0, 0), (left, right))),
        "zeros": np.zeros_like(whole),
    }


def count_parameters(path: Path) -> int:
    """Numbers an ONNX file holds: the elements of its initializers and constants."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = (
        attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    )
    return sum(prod(tensor.dims) for tensor in (*graph.initializer, *constants))


def machine() -> dict[str, Any]:
    """What was measured on: processor, cores this process may use, how busy it was, libraries."""
    libraries = ("numpy", "onnxruntime", "tokenizers", "torch", "transformers")
    return {
        "processor": _processor(),
        "cores": available_cpus(),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": {"Python": platform.python_version()} | {name: version(name) for name in libraries},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def family_table(rows: Sequence[Speed], f1: Mapping[str, float] | None = None) -> str:
    """Sizes and speeds as a Markdown table; how many times smaller and faster is against the first row.

    Args:
        f1: average F1 in percent by name, for a column of its own.
    """
    head = [
        "network",
        "runs in",
        "parameters",
        "MB",
        "times smaller",
        "sub-tokens/s",
        "ms a sentence",
        "faster in batches",
        "faster alone",
    ]
    marks = ["---", "---", *["---:"] * 7]
    if f1 is not None:
        head.insert(1, "F1")
        marks.insert(1, "---:")
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(marks)}|"]
    for row in rows:
        first = rows[0]
        cells = [
            row.name,
            f"{row.runtime} {row.precision}",
            f"{row.parameters / 1e6:.2f}M",
            f"{row.bytes / 1e6:.1f}",
            f"{first.bytes / row.bytes:.1f}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.milliseconds_per_sentence:.2f}",
            f"{row.tokens_per_second / first.tokens_per_second:.1f}",
            f"{first.milliseconds_per_sentence / row.milliseconds_per_sentence:.1f}",
        ]
        if f1 is not None:
            cells.insert(1, f"{f1[row.name]:.2f}" if row.name in f1 else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
