"""A toy encoder and toy corpora: small enough to train in seconds, real in every other way."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span

PEOPLE = ["Anna", "Bela", "Carl", "Dora", "Emil", "Fritz", "Greta", "Hugo", "Ida", "Jonas"]
SURNAMES = ["Adler", "Busch", "Conrad", "Dietz", "Ebert", "Frank", "Graf", "Huber"]
PLACES = ["Aachen", "Bremen", "Celle", "Dresden", "Essen", "Fulda", "Gotha", "Halle"]
FIRMS = ["Acme", "Borealis", "Cortex", "Dynamo", "Electra", "Fabrix"]
PATTERNS = (
    "{person} moved to {place} .",
    "{person} works for {firm} in {place} .",
    "{firm} hired {person} .",
    "the mayor of {place} met {person} , who left {firm} .",
    "it rained all day and nobody came .",
)
LABELS = {"person": "PER", "place": "LOC", "firm": "ORG"}


def toy_documents(count: int, seed: int) -> list[dict[str, Any]]:
    """JSON-lines records: sentences of our own making with their entities."""
    rng = random.Random(seed)
    records = []
    for _ in range(count):
        text, entities = "", []
        for word in rng.choice(PATTERNS).split():
            kind = word.strip("{}")
            if word != kind:
                word = {
                    "person": f"{rng.choice(PEOPLE)} {rng.choice(SURNAMES)}",
                    "place": rng.choice(PLACES),
                    "firm": rng.choice(FIRMS),
                }[kind]
                start = len(text)
                entities.append({"start": start, "end": start + len(word), "label": LABELS[kind]})
            text += f"{word} "
        records.append({"text": text.strip(), "entities": entities})
    return records


def toy_corpus(count: int, seed: int) -> LoadedCorpus:
    """The same as a corpus that was read."""
    documents = [
        Document(
            f"toy:{number}",
            str(record["text"]),
            tuple(Span(e["start"], e["end"], e["label"]) for e in record["entities"]),
        )
        for number, record in enumerate(toy_documents(count, seed))
    ]
    return LoadedCorpus("toy", tuple(documents))


def write_corpus(path: Path, count: int, seed: int) -> None:
    lines = (json.dumps(record) for record in toy_documents(count, seed))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_encoder(folder: Path, syllable: int = 0) -> Path:
    """A BERT of two layers, 32 wide, with random weights and a word-level WordPiece vocabulary.

    Args:
        syllable: letters of a piece; 0 makes every word one piece.
    """
    words = sorted(
        {word.lower() for group in (PEOPLE, SURNAMES, PLACES, FIRMS) for word in group}
        | {word for pattern in PATTERNS for word in pattern.split() if word[0] != "{"}
    )
    if syllable:
        words = [
            f"{'##' if at else ''}{word[at : at + syllable]}"
            for word in words
            for at in range(0, len(word), syllable)
        ]
    letters = [prefix + chr(code) for code in range(97, 123) for prefix in ("", "##")]
    pieces = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters]))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    rust = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    rust.normalizer = normalizers.BertNormalizer(lowercase=True)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=rust, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


STUDENTS = """
[[students]]
name = "toy-cnn"
description = "A small toy."
architecture = "cnn"
size = { embedding = 16, width = 32, dilations = [1, 2], dropout = 0.0 }

[students.transfer]
epochs = 3
lr = 5e-3
head_lr = 5e-3
batch_tokens = 128
max_length = 32
losses = { mse = 1.0 }

[students.labelled]
epochs = 1
lr = 1e-3
batch_tokens = 128
max_length = 32
losses = { mse = 0.5, cross_entropy = 0.5 }

[students.alone]
epochs = 1
lr = 5e-3
batch_tokens = 128
max_length = 32

[[students]]
name = "toy-short"
description = "A shallow toy."
architecture = "transformer"
size = { layers = 1 }

[students.transfer]
epochs = 1
lr = 2e-3
batch_tokens = 128
max_length = 32
losses = { kl = 1.0, hidden = 0.1 }
temperature = 2.0
"""


def write_recipe(folder: Path, seeds: tuple[int, ...] = (1,), students: str = "") -> Path:
    """A recipe with its corpora, raw text and encoder, in `folder`.

    Args:
        seeds: of the fine-tuning.
        students: tables to append, such as `STUDENTS`.
    """
    for name, count, seed in (("train", 600, 1), ("dev", 60, 2), ("test", 60, 3)):
        write_corpus(folder / f"{name}.jsonl", count, seed)
    raw = [str(record["text"]) for record in toy_documents(300, seed=4)]
    (folder / "raw.txt").write_text("\n".join(raw) + "\n", encoding="utf-8")
    write_encoder(folder / "encoder")
    recipe = folder / "toy.toml"
    recipe.write_text(
        f"""
name = "toy"
description = "A toy."
languages = ["en"]
license = "CC0-1.0"
labels = ["PER", "ORG", "LOC"]
data_root = "{folder}"
output = "{folder}/run"

[encoder]
path = "{folder}/encoder"
dropout = 0.1

[finetune]
epochs = 2
lr = 5e-3
head_lr = 5e-3
batch_tokens = 128
max_length = 32
average = 0.5
save_steps = 15
seeds = {list(seeds)}

[transfer]
root = "{folder}"
texts = ["raw.txt"]
augment = {{ mentions = 0.2 }}

[export]
max_length = 32
stride = 8
gate = 5.0
golden = ["Anna Adler moved to Aachen .", "Acme hired Carl Busch ."]

[[train]]
name = "toy-train"
paths = ["train.jsonl"]
reader = "jsonl"

[[dev]]
name = "toy-dev"
paths = ["dev.jsonl"]
reader = "jsonl"

[[test]]
name = "toy-test"
paths = ["test.jsonl"]
reader = "jsonl"
{students}""",
        encoding="utf-8",
    )
    return recipe
