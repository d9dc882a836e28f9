import pytest

from app.errors import VersionRefused
from app.manifest import Golden, Manifest, read_manifest
from app.versions.loading.self_test import check_tokenizer
from tests.tiny import write_tiny_version
from tests.tokenizer_kinds import TOKENIZERS


@pytest.fixture
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(write_tiny_version(tmp_path_factory.mktemp("models")))


def with_golden(manifest: Manifest, *texts: str) -> Manifest:
    golden = tuple(Golden(text=text, entities=()) for text in texts)
    return manifest.model_copy(update={"golden": golden})


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level", "sentence-piece"])
def test_a_tokenizer_that_tells_words_apart_passes(manifest: Manifest, kind: str) -> None:
    # All that it does is to raise of others, as the tests below show.
    check_tokenizer("ner-en/1", manifest, TOKENIZERS[kind])
    check_tokenizer("ner-en/1", with_golden(manifest), TOKENIZERS[kind])


def test_punctuation_alone_is_not_knowing_words(manifest: Manifest) -> None:
    unknown = with_golden(manifest, "Ünïcorn, Ünïform.", "Öl - Ähre")
    strange = with_golden(manifest, "ϗϗ, ϖϖ.", "ϰ - ϴ")
    check_tokenizer("ner-en/1", unknown, TOKENIZERS["wordpiece"])
    with pytest.raises(VersionRefused, match=r"ner-en/1: tokenizer\.json maps every word .*'\[UNK\]'"):
        check_tokenizer("ner-en/1", strange, TOKENIZERS["wordpiece"])


@pytest.mark.parametrize("texts", [("IBM",), ("IBM", "IBM IBM"), ("", " "), ("?! ... ,",)])
def test_a_single_word_shows_nothing(manifest: Manifest, texts: tuple[str, ...]) -> None:
    # It must not raise, as it does in the next test of texts with more words.
    check_tokenizer("ner-en/1", with_golden(manifest, *texts), TOKENIZERS["blank-separated"])


def test_two_words_show_that_all_are_one(manifest: Manifest) -> None:
    with pytest.raises(VersionRefused, match="of the golden texts"):
        check_tokenizer("ner-en/1", manifest, TOKENIZERS["blank-separated"])
