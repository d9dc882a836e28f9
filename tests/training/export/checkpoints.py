"""Tiny checkpoints with random weights, written to disk as `transformers` writes them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from transformers import (
    AutoModelForTokenClassification,
    BertConfig,
    BertTokenizerFast,
    DebertaV2Config,
    DistilBertConfig,
    DistilBertTokenizerFast,
    ElectraConfig,
    ElectraTokenizerFast,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaTokenizerFast,
)

from training.export.golden import CANDIDATES

KINDS = ("bert", "distilbert", "electra", "roberta", "xlm-roberta")

IOB2 = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SPELLINGS: dict[str, Sequence[str]] = {
    "bert": IOB2,
    "distilbert": ("B-PER", "I-PER", "L-PER", "U-PER", "O", "B-LOC", "I-LOC", "L-LOC", "U-LOC"),
    "electra": ("o", "b-per", "i-per", "e-per", "s-per"),
    "roberta": ("O", "I-PER", "I-LOC"),
    "xlm-roberta": ("LOC", "PER", "O"),
}
"""A way to spell tags for each kind, so that all are tried."""

POSITIONS = 130

_CORPUS = (
    *CANDIDATES,
    "Zoë, Łukasz and Jean-Pierre met at 9:30 (again!) in the café; 5 < 7 > [a] _b_ / * \\",
)


def write_checkpoint(folder: Path, kind: str = "bert", tags: Sequence[str] = IOB2, **changes: Any) -> Path:
    """Write a checkpoint of this kind, whose columns are `tags`, and return its folder.

    It is sure of most words, and finds single words to be entities here and there.

    Args:
        changes: values of the configuration.
    """
    tokenizer = _tokenizer(kind, folder)
    config = _config(kind, len(tokenizer), changes)
    config.id2label = dict(enumerate(tags))
    config.label2id = {tag: column for column, tag in enumerate(tags)}
    torch.manual_seed(7)
    network = AutoModelForTokenClassification.from_config(config)
    head = network.classifier
    with torch.no_grad():
        head.weight.normal_(std=3.0)
        for column, tag in enumerate(tags):
            single = len(tag) < 3 or tag[1] != "-" or tag[0].upper() in "BSU" or kind == "roberta"
            head.bias[column] = 14.0 if tag in ("O", "o") else 0.0 if single else -40.0
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind == "xlm-roberta":
        (folder / "tokenizer.json").unlink()  # what is left is SentencePiece's own file
    return folder


def _config(kind: str, size: int, changes: dict[str, Any]) -> Any:
    if kind == "distilbert":
        return DistilBertConfig(
            vocab_size=size,
            dim=32,
            n_layers=2,
            n_heads=2,
            hidden_dim=64,
            max_position_embeddings=POSITIONS,
            **changes,
        )
    values: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": POSITIONS,
    }
    if kind == "deberta":
        values |= {
            "relative_attention": True,
            "position_biased_input": False,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 32,
            "type_vocab_size": 0,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        }
    if kind in ("roberta", "xlm-roberta"):
        values |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
    if kind == "electra":
        values["embedding_size"] = 16
    kinds = {
        "bert": BertConfig,
        "deberta": DebertaV2Config,
        "electra": ElectraConfig,
        "roberta": RobertaConfig,
        "xlm-roberta": XLMRobertaConfig,
    }
    return kinds[kind](**values | changes)


def _tokenizer(kind: str, folder: Path) -> PreTrainedTokenizerFast:
    folder.mkdir(parents=True)
    if kind == "roberta":
        bpe = ByteLevelBPETokenizer()
        specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        bpe.train_from_iterator(_CORPUS, vocab_size=500, special_tokens=specials, show_progress=False)
        files = bpe.save_model(str(folder))
        return RobertaTokenizerFast(*files, add_prefix_space=True)
    if kind == "xlm-roberta":
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_CORPUS),
            model_writer=model,
            vocab_size=200,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        file = folder / "sentencepiece.bpe.model"
        file.write_bytes(model.getvalue())
        return XLMRobertaTokenizerFast(str(file))
    cased = kind != "electra"
    pieces = BertWordPieceTokenizer(lowercase=not cased, strip_accents=not cased)
    pieces.train_from_iterator(_CORPUS, vocab_size=400, min_frequency=1, show_progress=False)
    (file_name,) = pieces.save_model(str(folder))
    makers = {"distilbert": DistilBertTokenizerFast, "electra": ElectraTokenizerFast}
    return makers.get(kind, BertTokenizerFast)(file_name, do_lower_case=not cased)
