"""A BERT of a version's shape and tokenizer: `python -m tests.bench.peers.network VERSION TARGET`.

Its weights are random, which changes nothing of its speed. The bias of `O` is raised until one sub-token in
eight is part of an entity, so that the peers have no more to write than they would for real.
"""

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from app.manifest import read_manifest
from tests.bench.texts import news
from training.export.onnx_file import export_onnx

INSIDE = 1 / 8
"""Sub-tokens that are part of an entity."""


def main(version: Path, target: Path) -> None:
    """Write a checkpoint, with `model.onnx` (fp32) and `model_int8.onnx` (int8 per tensor) beside it."""
    manifest = read_manifest(version)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(version / manifest.tokenizer),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )
    tags = ["O", *(f"{kind}-{label}" for label in manifest.labels for kind in "BI")]
    torch.manual_seed(0)
    network = BertForTokenClassification(
        BertConfig(
            **shape_of(onnx.load(str(version / manifest.variants[0].file))),
            id2label=dict(enumerate(tags)),
            label2id={tag: number for number, tag in enumerate(tags)},
        )
    ).eval()
    with torch.inference_mode():
        batch = tokenizer(news(64), padding=True, truncation=True, return_tensors="pt")
        logits = network(**batch).logits[batch["attention_mask"] == 1]
        lead = logits[:, 1:].max(1).values - logits[:, 0]
        network.classifier.bias[0] += torch.quantile(lead, 1 - INSIDE)
    target.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)
    export_onnx(str(target), target / "model.onnx")
    _quantize(target, network.config)


def shape_of(model: onnx.ModelProto) -> Mapping[str, int]:
    """The sizes of a BERT, read from its graph.

    Raises:
        ValueError: it is none.
    """
    arrays = {item.name: tuple(item.dims) for item in model.graph.initializer}
    words = [dims for name, dims in arrays.items() if "word_embeddings.weight" in name and dims[-1:] > (1,)]
    places = [dims for name, dims in arrays.items() if "position_embeddings.weight" in name]
    layers = sum(node.op_type == "Softmax" for node in model.graph.node)
    layers = layers or sum("Attention" in node.op_type for node in model.graph.node)
    if not (words and places and layers):
        raise ValueError("this graph is no BERT, and the peers need one to be compared with; name another")
    vocabulary, width = words[0]
    wide = max(dims[1] for dims in arrays.values() if len(dims) == 2 and dims[0] == width)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // (32 if width < 768 else 64),
        "intermediate_size": wide,
        "max_position_embeddings": places[0][0],
    }


def _quantize(folder: Path, config: BertConfig) -> None:
    """Per-tensor int8, of the plain graph or of the fused one, whichever is faster here."""
    source, plain, fused = folder / "model.onnx", folder / "plain.onnx", folder / "fused.onnx"
    quantize_dynamic(source, plain, weight_type=QuantType.QInt8)
    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False
    optimize_model(
        str(source),
        "bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        optimization_options=options,
    ).save_model_to_file(str(folder / "fused32.onnx"))
    types = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # of the fused operators' results
    quantize_dynamic(folder / "fused32.onnx", fused, weight_type=QuantType.QInt8, extra_options=types)
    seconds = {path: _seconds(path) for path in (plain, fused)}
    best = min(seconds, key=seconds.__getitem__)
    print(
        "  per-tensor int8, milliseconds of 4 rows of 32: "
        + ", ".join(f"{path.stem} {1e3 * value:.1f}" for path, value in seconds.items())
        + f"; the peers get {best.stem}",
        flush=True,
    )
    best.rename(folder / "model_int8.onnx")
    for path in (plain, fused, folder / "fused32.onnx"):
        path.unlink(missing_ok=True)


def _seconds(path: Path) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    batch = {item.name: np.ones((4, 32), np.int64) for item in session.get_inputs()}
    seconds = []
    for _ in range(12):
        started = time.perf_counter()
        session.run(None, batch)
        seconds.append(time.perf_counter() - started)
    return median(seconds[2:])


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
