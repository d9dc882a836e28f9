"""Tokenizers of every kind that we read."""

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from app.engine.text.tokenizer import Tokenizer
from tests.texts import AWKWARD
from tests.tiny import TEXT, tiny_tokenizer


def byte_level() -> RustTokenizer:
    tokenizer = RustTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [TEXT, *AWKWARD],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "<pad>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def sentence_piece() -> RustTokenizer:
    tokenizer = RustTokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        [TEXT, *AWKWARD],
        trainers.UnigramTrainer(
            vocab_size=200, special_tokens=["<pad>", "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    return tokenizer


def blank_separated() -> RustTokenizer:
    """One sub-token a blank-separated word, whatever is in it."""
    tokenizer = RustTokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


TOKENIZERS = {
    "wordpiece": Tokenizer(tiny_tokenizer()),
    "byte-level": Tokenizer(byte_level()),
    "sentence-piece": Tokenizer(sentence_piece()),
    "blank-separated": Tokenizer(blank_separated()),
}
