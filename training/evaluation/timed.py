"""This module prepares what a benchmark times: versions as the server runs them, encoders in PyTorch."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

from app.engine.batching.collation import Arrays, collate
from app.engine.decoding.spans import Decoder
from app.engine.runtimes.cpu import Cpu
from app.engine.runtimes.runtime import Contract
from app.engine.text.tokenizer import Tokenizer
from app.engine.text.windows import cut_windows, stitch
from app.labels import tags_of
from app.manifest import read_manifest
from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from app.versions.loading.variants import choose_variant
from training.data.encode import INPUTS, Piece
from training.evaluation.sentences import SENTENCES
from training.models.transformer import TransformerTagger, load_tokenizer
from training.recipe import Recipe

ROWS, LENGTH = 32, 32
"""Rows of a timed batch, and sub-tokens of each row, special tokens included."""


@dataclass(frozen=True)
class Timed:
    """Is a network that a benchmark times.

    Attributes:
        name, precision, runtime, threads, parameters, bytes: see `benchmark.Speed`.
        tokens: number of sub-tokens of the batch, special tokens included.
        batch: runs the network once on the batch.
        sentence: finds the entities of one text.
    """

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
    """Is one ONNX network; `batch` runs it once on `tokens` sub-tokens."""

    parameters: int
    bytes: int
    tokens: int
    batch: Callable[[], object]


def version_as_served(folder: Path, name: str, threads: int, variant: str, stack: ExitStack) -> Timed:
    """Load a version for timing; `stack` closes it.

    Raises:
        VersionRefused: the version fails its checks.
    """
    loaded = load_version(folder, LoadOptions(threads=threads, variant=variant))
    stack.callback(loaded.model.close)
    members = [folder.parent.parent / member for member in loaded.manifest.members] or [folder]
    networks = [_network(member, loaded.threads, variant) for member in members]
    return Timed(
        name=name,
        precision=loaded.variant.precision,
        runtime="onnxruntime",
        threads=loaded.threads,
        parameters=sum(network.parameters for network in networks),
        bytes=sum(network.bytes for network in networks),
        tokens=networks[0].tokens,
        batch=lambda: [network.batch() for network in networks],
        sentence=lambda text: loaded.model.predict([text]),
    )


def _network(folder: Path, threads: int, variant: str) -> _Network:
    manifest = read_manifest(folder)
    runtime = Cpu()
    path = folder / choose_variant(manifest, runtime, variant).file
    tokenizer = Tokenizer.from_file(folder / manifest.tokenizer, manifest.words)
    contract = Contract(frozenset(manifest.inputs), manifest.output, manifest.max_length)
    session = runtime.open(path, contract, threads)
    length = min(LENGTH, manifest.max_length)
    batch = collate(_rows(tokenizer, length), manifest.inputs, tokenizer.frame)
    return _Network(
        manifest.lineage.get("export", {}).get("parameters") or count_parameters(path),
        path.stat().st_size,
        ROWS * length,
        lambda: session.run(batch),
    )


def encoder_in_torch(recipe: Recipe, threads: int, stack: ExitStack) -> Timed:
    """Load a recipe's encoder in eager fp32; its untrained classifier takes as long as a trained one.

    PyTorch runs on `threads` threads until `stack` is closed.
    """
    encoder, tags = recipe.encoder, tags_of(recipe.labels, recipe.scheme)
    tokenizer = load_tokenizer(encoder.path, encoder.words, encoder.spaced_marks)
    generator = torch.Generator().manual_seed(0)
    tagger = TransformerTagger.from_pretrained(
        encoder.path, tags, encoder.word_shapes, encoder.dropout, generator
    )
    tagger = tagger.float().eval()
    stack.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(threads)
    device = next(tagger.parameters()).device
    decoder, frame = Decoder(tags, recipe.scheme), tokenizer.frame
    size = tagger.network.config.max_position_embeddings - 2 - frame.count  # RoBERTa skips two positions

    @torch.inference_mode()
    def logits_of(arrays: Arrays) -> npt.NDArray[np.float32]:
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        logits: npt.NDArray[np.float32] = tagger(**tensors).cpu().numpy()
        return logits

    def sentence(text: str) -> object:
        (encoded,) = tokenizer.encode([text])
        logits = np.zeros((len(encoded.firsts), len(tags)), np.float32)
        for window in cut_windows(len(encoded), size, size // 4):
            (row,) = logits_of(collate([Piece.of(encoded, window)], INPUTS, frame))
            stitch(logits, window, encoded.firsts, row, len(frame.prefix))
        return decoder.decode(logits)

    weights = list(tagger.parameters())
    batch = collate(_rows(tokenizer, LENGTH), INPUTS, frame)
    return Timed(
        name=f"a teacher of {recipe.name}",
        precision="fp32",
        runtime="torch",
        threads=threads,
        parameters=sum(weight.numel() for weight in weights),
        bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        tokens=ROWS * LENGTH,
        batch=lambda: logits_of(batch),
        sentence=sentence,
    )


def _rows(tokenizer: Tokenizer, length: int) -> list[Piece]:
    """Cut the sentences into `ROWS` rows of `length` sub-tokens, special tokens included."""
    encoded = tokenizer.encode(SENTENCES)
    shape = (ROWS, length - tokenizer.frame.count)
    ids = np.resize(np.concatenate([text.ids for text in encoded]), shape)
    shapes = np.resize(np.concatenate([text.shapes for text in encoded]), shape)
    return [Piece(*row) for row in zip(ids, shapes, strict=True)]


def count_parameters(path: Path) -> int:
    """Count the elements of an ONNX file's initializers and constants."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = (
        attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    )
    return sum(prod(tensor.dims) for tensor in (*graph.initializer, *constants))
