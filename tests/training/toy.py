"""A toy encoder and toy corpora: small enough to train in seconds, real in every other way."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

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


def toy_documents(count: int, seed: int) -> list[dict[str, object]]:
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


def write_corpus(path: Path, count: int, seed: int) -> None:
    lines = (json.dumps(record) for record in toy_documents(count, seed))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_encoder(folder: Path) -> Path:
    """A BERT of two layers, 32 wide, with random weights and a word-level WordPiece vocabulary."""
    words = sorted(
        {word.lower() for group in (PEOPLE, SURNAMES, PLACES, FIRMS) for word in group}
        | {word for pattern in PATTERNS for word in pattern.split() if word[0] != "{"}
    )
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


def write_recipe(folder: Path) -> Path:
    """A recipe with its corpora and encoder, in `folder`."""
    for name, count, seed in (("train", 1200, 1), ("dev", 60, 2), ("test", 60, 3)):
        write_corpus(folder / f"{name}.jsonl", count, seed)
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
dropout = 0.0

[finetune]
epochs = 3
lr = 5e-3
head_lr = 5e-3
batch_tokens = 128
max_length = 32
average = 0.5

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
""",
        encoding="utf-8",
    )
    return recipe
