"""`python -m tests.bench.gpu`: networks on a GPU, through our session and through PyTorch.

The networks have random weights and the sizes of a BERT-base and of the committed models; speed does
not depend on weights. Each is exported as training exports it, and a Transformer fused to fp16. A
sequence is ids on the host to logits on the host. All ways take turns, so that they meet the same
machine. The share of the roofline counts the multiplications that the network needs, padding included.
"""

import argparse
import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from transformers import BertConfig, BertForTokenClassification
from transformers.utils import logging

from app.engine.runtimes.runtime import Arrays, Contract, Runtime
from app.engine.runtimes.table import check_installation, choose_runtime
from app.engine.runtimes.tuning import find_token_budget
from app.errors import SettingsError
from training.export.fusion import fuse_fp16
from training.export.onnx_file import export_onnx
from training.models import student_of
from training.models.tagger import Size as TaggerSize
from training.models.transformer import TransformerTagger

LENGTHS = (32, 128)
LONGEST = 512
TAGS = ("O", *(f"{kind}-{label}" for label in ("PER", "ORG", "LOC") for kind in "BIES"))
SHAPES = 6

PEAKS = {
    "B200": 2_250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "T4": 65,
    "V100": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Tera-operations a second of dense half-precision matrix units, summed in float32, as the makers
state them. The longest name that is part of the device's counts."""


@dataclass(frozen=True)
class Size:
    """A BERT's measures, or those of a CNN where it has dilations (then `width` is a layer's)."""

    layers: int
    width: int
    heads: int
    intermediate: int
    dilations: tuple[int, ...] = ()
    embedding: int = 0
    vocabulary: int = 30_522

    def operations(self, length: int) -> float:
        """Multiplications and additions in the matrices of one sequence."""
        out = 2 * self.width * len(TAGS)
        if self.dilations:  # three columns beside each other become one
            return length * (
                2 * self.embedding * self.width + len(self.dilations) * 6 * self.width**2 + out
            )
        layer = 8 * self.width**2 + 4 * self.width * self.intermediate + 4 * length * self.width
        return length * (self.layers * layer + out)


NETWORKS = {
    "bert-base": Size(12, 768, 12, 3072),
    "ner-en": Size(6, 384, 12, 1536),
    "ner-en-small": Size(3, 384, 12, 1152),
    "ner-en-fast": Size(7, 256, 0, 0, (1, 2, 4, 8, 1, 2, 4), 160),
}
SMALL = {
    "bert": Size(2, 64, 2, 128, vocabulary=500),
    "cnn": Size(3, 32, 0, 0, (1, 2, 4), 16, vocabulary=500),
}
"""What `--device cpu` runs: it tries the code, and its numbers mean nothing."""

Run = Callable[[Arrays], np.ndarray[Any, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gpu",
        description=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: small networks")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128], help="rows of a batch")
    parser.add_argument("--runs", type=int, default=200, help="runs of each measurement")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args()
    networks = NETWORKS if arguments.device == "cuda" else SMALL
    if unknown := set(arguments.networks) - set(networks):
        parser.error(f"no network {', '.join(sorted(unknown))}; there are {', '.join(networks)}")
    try:
        check_installation()
        runtime = choose_runtime(arguments.device)
    except SettingsError as error:
        parser.exit(2, f"{parser.prog}: no CUDA here: {error.message}. Or try the code with --device cpu\n")
    logging.set_verbosity_error()
    torch._dynamo.config.recompile_limit = 64  # each shape and precision counts
    peak = _peak(arguments.device)
    for name in arguments.networks or networks:
        with tempfile.TemporaryDirectory() as folder:
            _measure(name, networks[name], runtime, peak, Path(folder), arguments)


def _peak(device: str) -> float:
    """Operations a second that a share is of, and the machine, printed."""
    measured = _matmul_rate(device)
    name, stated = "CPU", None
    if device == "cuda" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        known = [key for key in PEAKS if f" {key}" in f" {name}"]
        stated = PEAKS[max(known, key=len)] * 1e12 if known else None
    print(f"{name}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
    known_rate = f"{stated / 1e12:.0f}" if stated else "unknown"
    print(f"peak in T/s: {known_rate} as stated, {measured / 1e12:.2f} by a large product\n")
    return stated or measured


def _matmul_rate(device: str) -> float:
    """Operations a second of a large square product: half precision on a GPU, single on the CPU."""
    if device == "cuda" and not torch.cuda.is_available():
        return float("nan")
    size, dtype = (8192, torch.float16) if device == "cuda" else (1024, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def product() -> None:
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()

    product()
    return 2 * float(size) ** 3 / median(_seconds(product) for _ in range(10))


def _measure(
    name: str, size: Size, runtime: Runtime, peak: float, folder: Path, arguments: argparse.Namespace
) -> None:
    network, fp32 = _exported(size, folder)
    graph, precision = fp32, "fp32"
    if runtime.prefers_fp16 and not size.dilations:
        graph, precision = folder / "fp16.onnx", "fp16"
        fuse_fp16(fp32, graph, size.heads, size.width, size.layers)
    inputs = tuple(item.name for item in onnx.load(graph, load_external_data=False).graph.input)
    session = runtime.open(graph, Contract(frozenset(inputs), "logits", LONGEST), 0)
    ways: dict[str, Run] = {f"our session, {precision}": session.run}
    _add(ways, f"InferenceSession.run, {precision}", partial(_unbound, graph, runtime.provider))
    _add_torch(ways, network, arguments)

    def time_of(rows: int, length: int) -> float:
        batch = _batch(inputs, size, *session.shape(rows, length))
        session.run(batch)
        return median(_seconds(partial(session.run, batch)) for _ in range(5))

    budget = find_token_budget(time_of, LONGEST, 1 << 17 if arguments.device == "cuda" else 1 << 12)
    print(f"{name}: token budget {budget:,}")
    for length in LENGTHS:
        for rows in arguments.rows:
            padded = session.shape(rows, length)
            batch = _batch(inputs, size, *padded)
            operations = size.operations(padded[1])
            _show(f"{rows} x {length}", rows, ways, batch, operations / peak, arguments.runs)
    print()


def _exported(size: Size, folder: Path) -> tuple[torch.nn.Module, Path]:
    """A network with random weights, and its fp32 graph."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads or 1,
        intermediate_size=size.intermediate or size.width,
        type_vocab_size=SHAPES,
        id2label=dict(enumerate(TAGS)),
        label2id={tag: number for number, tag in enumerate(TAGS)},
    )
    network: Any = BertForTokenClassification(config).eval()
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    if size.dilations:
        measures: TaggerSize = {
            "embedding": size.embedding,
            "width": size.width,
            "dilations": size.dilations,
        }
        tagger = student_of("cnn", TransformerTagger(network), TAGS, measures, torch.Generator())
        network = tagger.eval()
        tagger.save(checkpoint)
    else:
        network.save_pretrained(checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter compares logits with PyTorch's itself
        export_onnx(str(checkpoint), folder / "fp32.onnx")
    return network, folder / "fp32.onnx"


def _add(ways: dict[str, Run], name: str, make: Callable[[], Run]) -> None:
    """Add a way to run, or say why there is none."""
    try:
        ways[name] = make()
    except Exception as error:  # of either runtime; the others are still measured
        print(f"{name}: cannot be made: {_first_line(error)}")


def _add_torch(ways: dict[str, Run], network: torch.nn.Module, arguments: argparse.Namespace) -> None:
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        print(f"PyTorch is left out: torch {torch.__version__} finds no CUDA")
        return
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device == "cuda":
        dtypes["fp16"] = torch.float16
    for precision, dtype in dtypes.items():
        cast = copy.deepcopy(network).to(device, dtype)
        ways[f"PyTorch eager, {precision}"] = partial(_torch_run, cast, device)
        if not arguments.no_compile and precision != "fp32":
            compiled = torch.compile(cast, dynamic=False)
            ways[f"PyTorch compiled, {precision}"] = partial(_torch_run, compiled, device)


def _torch_run(network: Callable[..., Any], device: str, batch: Arrays) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        found = network(**{name: torch.from_numpy(array).to(device) for name, array in batch.items()})
        logits: np.ndarray[Any, Any] = getattr(found, "logits", found).float().cpu().numpy()
        return logits


def _unbound(graph: Path, provider: str) -> Run:
    """The runtime's own `run`, to tell whether binding inputs pays."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or it slows who is next
    plain = onnxruntime.InferenceSession(str(graph), options, providers=[provider])
    return lambda batch: np.asarray(plain.run(["logits"], dict(batch))[0])


def _batch(inputs: tuple[str, ...], size: Size, rows: int, length: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    largest = {"input_ids": size.vocabulary, "attention_mask": 1}
    batch = {name: rng.integers(0, largest.get(name, SHAPES), (rows, length)) for name in inputs}
    return batch | {"attention_mask": np.ones((rows, length), np.int64)}


def _show(title: str, rows: int, ways: Mapping[str, Run], batch: Arrays, least: float, runs: int) -> None:
    """Print what each way makes of a batch.

    Args:
        least: seconds of a sequence at the peak.
    """
    times: dict[str, list[float]] = {}
    for name, way in ways.items():
        try:
            for _ in range(3):  # compiles, records, allocates
                way(batch)
        except Exception as error:  # of either runtime
            print(f"  {title}, {name}: {_first_line(error)}")
        else:
            times[name] = []
    block = 10
    for turn in range(max(1, runs // block)):
        for name in list(times) if turn % 2 else list(times)[::-1]:
            ways[name](batch)
            times[name] += [_seconds(partial(ways[name], batch)) for _ in range(block)]
    width = max(map(len, ways))
    print(f"  {title:{width}}  {'sequences/s':>12}  {'p50 ms':>8}  {'p99 ms':>8}  {'of peak':>8}")
    for name, seconds in times.items():
        rate, high = rows / median(seconds), quantiles(seconds, n=100)[98]
        print(
            f"  {name:{width}}  {rate:12.0f}  {1e3 * median(seconds):8.3f}  {1e3 * high:8.3f}  "
            f"{rate * least:8.1%}"
        )


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:160]}"


if __name__ == "__main__":
    main()
