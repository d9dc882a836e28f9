"""From logits to entities, as one writes it by hand: the best tag of each sub-token, joined by B and I."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from pydantic import BaseModel
from tokenizers import Encoding, Tokenizer


class Body(BaseModel):
    """What a client sends."""

    text: str


class Model:
    """A tokenizer and a session of per-tensor int8.

    Args:
        threads: of the session.
    """

    def __init__(self, folder: Path, threads: int):
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(512)
        self._tokenizer.enable_padding()
        tags = json.loads((folder / "config.json").read_text())["id2label"]
        self._tags = [tags[str(number)] for number in range(len(tags))]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "model_int8.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [item.name for item in self._session.get_inputs()]

    def find(self, texts: Sequence[str]) -> list[list[dict[str, object]]]:
        """The entities of each text; the texts are run as one batch."""
        encodings = self._tokenizer.encode_batch(list(texts))
        arrays = {
            "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
            "token_type_ids": np.array([encoding.type_ids for encoding in encodings], np.int64),
        }
        (logits,) = self._session.run(["logits"], {name: arrays[name] for name in self._inputs})
        exp = np.exp(logits - logits.max(-1, keepdims=True))
        scores = exp / exp.sum(-1, keepdims=True)
        return [
            self._entities(encoding, *best)
            for encoding, *best in zip(encodings, scores.argmax(-1), scores.max(-1), strict=True)
        ]

    def _entities(
        self, encoding: Encoding, best: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
    ) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        parts: list[float] = []
        for number, score, special, (start, end) in zip(
            best.tolist(), scores.tolist(), encoding.special_tokens_mask, encoding.offsets, strict=True
        ):
            tag = self._tags[number]
            if special or tag == "O":
                parts = []
                continue
            kind, label = tag.split("-")
            if parts and kind == "I" and found[-1]["label"] == label:
                parts.append(score)
                found[-1] |= {"end": end, "score": sum(parts) / len(parts)}
            else:
                parts = [score]
                found.append({"start": start, "end": end, "label": label, "score": score})
        return found
