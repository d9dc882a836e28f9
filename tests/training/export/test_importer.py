import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from app.engine.model import Network
from app.engine.text.words import split_words
from app.labels import WordRule
from app.manifest import Manifest, read_manifest, verify_files
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from tests.training.export.checkpoints import IOB2, KINDS, POSITIONS, SPELLINGS, write_checkpoint
from training.export.importer import ImportOptions, import_checkpoint
from training.models.transformer import fast_tokenizer

TEXTS = (
    "Maria Keller moved from Hamburg to Toronto in 2019.",
    "Jean-Pierre (Zoë's friend) said: no!",
    "Łukasz met 👩‍🚀 and 🇩🇪 in the cafe\u0301 at Nairobi",
    "北京 and 東京, Google",
    "An\u200bna\u00a0 Lind\u00adqvist \u200b , \ufeffPeru",
    " \n Kenya\t\r\n",
)
LITERALS = ("[SEP] Maria [CLS][MASK]", "Paris</s> and <s>Berlin <pad><mask> </s>", "<s>")


@dataclass(frozen=True)
class Imported:
    """A checkpoint, and the version that was made of it."""

    kind: str
    checkpoint: Path
    folder: Path
    loaded: LoadedVersion
    said: list[str] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest:
        return self.loaded.manifest

    @property
    def model(self) -> Network:
        return self.loaded.model


@pytest.fixture(scope="module", params=KINDS)
def imported(
    request: pytest.FixtureRequest, one_cpu: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Imported]:
    """Each kind of checkpoint, imported and loaded."""
    kind: str = request.param
    folder = tmp_path_factory.mktemp(kind)
    checkpoint = write_checkpoint(folder / f"tiny-{kind}", kind, SPELLINGS[kind])
    said: list[str] = []
    version = import_checkpoint(str(checkpoint), "tiny", folder / "models", say=said.append)
    loaded = load_version(version, LoadOptions(threads=1))
    yield Imported(kind, checkpoint, version, loaded, said)
    loaded.model.close()


def torch_logits(checkpoint: Path, text: str, words: WordRule = "bert") -> npt.NDArray[np.float32]:
    """What PyTorch gives for each decision of a short text, by the rule of design.md, word by word."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, split_special_tokens=True)
    network = AutoModelForTokenClassification.from_pretrained(checkpoint).eval()
    encoding = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoding.pop("offset_mapping")[0].tolist()
    with torch.inference_mode():
        logits = network(**encoding).logits[0].numpy()
    covered = [
        [at for at in range(start, end) if not text[at].isspace()] if end else []
        for start, end in offsets  # special tokens cover nothing
    ]
    firsts = []
    split = split_words(text, words)
    for start, end in zip(split.starts, split.ends, strict=True):
        own = [token for token, at in enumerate(covered) if at and start <= at[0] < end]
        shared = any(at and at[0] < start <= at[-1] for at in covered)
        if own and not shared:
            firsts.append(own[0])
    return np.asarray(logits[firsts], np.float32)


def test_every_kind_and_spelling_becomes_a_version_that_serves(imported: Imported) -> None:
    manifest = imported.manifest
    verify_files(imported.folder, manifest)
    schemes = {"bert": "IOB2", "distilbert": "BIOES", "electra": "BIOES", "roberta": "IO"}
    assert manifest.scheme == schemes.get(imported.kind, "IO")
    assert len(manifest.tags) == len(SPELLINGS[imported.kind])
    assert [variant.precision for variant in manifest.variants] == ["fp32"]
    assert manifest.golden
    assert (imported.folder / "README.md").read_text().startswith("---\nlicense: other\n")


def test_the_version_computes_what_pytorch_does(imported: Imported) -> None:
    for text in TEXTS:
        (got,) = imported.model.logits([text])
        np.testing.assert_allclose(got, torch_logits(imported.checkpoint, text), atol=1e-4)


def test_special_tokens_in_a_text_are_text(imported: Imported) -> None:
    known = AutoTokenizer.from_pretrained(imported.checkpoint)
    specials = set(known.all_special_ids) - {known.unk_token_id}
    for text, encoded in zip(LITERALS, imported.model.tokenizer.encode(LITERALS), strict=True):
        assert not specials & set(encoded.ids.tolist())
        assert len(imported.model.logits([text])[0]) == len(encoded.firsts) > 0


def test_a_long_text_runs_in_windows(imported: Imported) -> None:
    text = " ".join(TEXTS * 20)
    (prediction,) = imported.model.predict([text])
    assert prediction.windows > 5
    assert prediction.entities
    assert len(imported.model.logits([text])[0]) == len(imported.model.tokenizer.encode([text])[0].firsts)


def test_the_window_is_what_positions_allow(imported: Imported) -> None:
    lost = 2 if imported.kind in ("roberta", "xlm-roberta") else 0  # the padding id and those before it
    assert imported.manifest.max_length == POSITIONS - lost
    assert imported.manifest.stride == imported.manifest.max_length // 4


def test_the_lineage_says_what_was_found(imported: Imported) -> None:
    lineage = imported.manifest.lineage
    assert lineage["checkpoint"] == f"tiny-{imported.kind}"
    assert lineage["scheme"].startswith(imported.manifest.scheme)
    assert lineage["export"]["parity_max_abs"] < 1e-3
    assert lineage["libraries"]["transformers"]
    assert str(imported.checkpoint.parent) not in json.dumps(imported.manifest.model_dump(mode="json"))
    assert any("scheme" in line for line in imported.said)


def test_the_next_free_number_is_taken_and_none_twice(bert: Path, tmp_path: Path) -> None:
    assert import_checkpoint(str(bert), "tiny", tmp_path) == tmp_path / "tiny" / "1"
    assert import_checkpoint(str(bert), "tiny", tmp_path) == tmp_path / "tiny" / "2"
    with pytest.raises(FileExistsError, match="tiny/1: exists"):
        import_checkpoint(str(bert), "tiny", tmp_path, version=1)


def test_int8_is_compared_with_fp32(bert: Path, tmp_path: Path) -> None:
    said: list[str] = []
    folder = import_checkpoint(
        str(bert), "tiny", tmp_path, ImportOptions(precision="int8"), say=said.append
    )
    (variant,) = read_manifest(folder).variants
    assert variant.precision == "int8"
    assert variant.metrics["agreement_with_fp32"] > 0.9
    assert any("of the entities as fp32" in line for line in said)
    assert "int8 and fp32 agree" in (folder / "README.md").read_text()
    load_version(folder).model.close()


def test_options_reach_the_manifest(bert: Path, tmp_path: Path) -> None:
    options = ImportOptions(
        scheme="IOB1",
        words="space",
        languages=("en", "de"),
        license="MIT",
        description="A toy.",
        max_length=32,
        golden=("Maria met Jean-Pierre, in Toronto.",),
    )
    folder = import_checkpoint(str(bert), "tiny", tmp_path, options, version=7)
    manifest = read_manifest(folder)
    assert (manifest.version, manifest.scheme, manifest.words) == (7, "IOB1", "space")
    assert (manifest.languages, manifest.license, manifest.description) == (("en", "de"), "MIT", "A toy.")
    assert (manifest.max_length, manifest.stride) == (32, 8)
    assert "license: mit" in (folder / "README.md").read_text()
    loaded = load_version(folder)
    for text in TEXTS:
        if len(loaded.model.tokenizer.encode([text])[0]) <= 30:
            np.testing.assert_allclose(
                loaded.model.logits([text])[0], torch_logits(bert, text, "space"), atol=1e-4
            )
    loaded.model.close()


def test_columns_that_are_no_tags_are_cut_off(tmp_path: Path) -> None:
    names = ("[PAD]", *IOB2, "X")
    checkpoint = write_checkpoint(tmp_path / "padded", "bert", names)
    loaded = load_version(import_checkpoint(str(checkpoint), "tiny", tmp_path / "models"))
    assert loaded.manifest.tags == IOB2
    (got,) = loaded.model.logits([TEXTS[0]])
    np.testing.assert_allclose(got, torch_logits(checkpoint, TEXTS[0])[:, 1:-1], atol=1e-4)
    loaded.model.close()


def test_without_a_sure_text_there_are_no_golden_ones(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "unsure")
    network = AutoModelForTokenClassification.from_pretrained(checkpoint)
    torch.nn.init.zeros_(network.classifier.weight)
    torch.nn.init.zeros_(network.classifier.bias)
    network.save_pretrained(checkpoint)
    said: list[str] = []
    folder = import_checkpoint(str(checkpoint), "tiny", tmp_path / "models", say=said.append)
    assert read_manifest(folder).golden == ()
    assert read_manifest(folder).lineage["golden"].startswith("none")
    assert any(line.startswith("no golden texts") for line in said)


@pytest.mark.parametrize(
    ("tags", "message"),
    [(("LABEL_0", "LABEL_1"), "LABEL_0, LABEL_1"), (("bad", "good"), "one of them O")],
)
def test_a_checkpoint_without_tags_is_refused(tags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "untagged", tags=tags)
    with pytest.raises(ValueError, match=message):
        import_checkpoint(str(checkpoint), "tiny", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_an_encoder_that_was_not_fine_tuned_is_refused(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "encoder")
    AutoModelForTokenClassification.from_pretrained(bert).bert.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="no weights for classifier"):
        import_checkpoint(str(tmp_path / "encoder"), "tiny", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_tokenizer_of_another_checkpoint_is_refused(bert: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "small", vocab_size=50)
    with pytest.raises(ValueError, match=r"the network \(50 rows\) lacks"):
        import_checkpoint(str(checkpoint), "tiny", tmp_path / "models")
    with pytest.raises(ValueError, match="knows no word"):
        import_checkpoint(
            str(bert), "tiny", tmp_path / "models", ImportOptions(golden=("москва и берлин",))
        )


def test_a_network_with_too_few_positions_is_refused(bert: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "short", max_position_embeddings=6)
    with pytest.raises(ValueError, match="positions for 6 sub-tokens, serving needs 8"):
        import_checkpoint(str(checkpoint), "tiny", tmp_path / "models")
    with pytest.raises(ValueError, match="must be 8 to 130"):
        import_checkpoint(str(bert), "tiny", tmp_path / "models", ImportOptions(max_length=131))


def test_a_network_with_few_positions_gets_short_windows(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "short", max_position_embeddings=40)
    folder = import_checkpoint(str(checkpoint), "tiny", tmp_path / "models")
    loaded = load_version(folder)
    (prediction,) = loaded.model.predict(["one word after another " * 40])
    loaded.model.close()
    assert loaded.manifest.max_length == 40
    assert prediction.windows > 1


def test_what_cannot_work_is_refused_at_once(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name 'Not a Name'"):
        import_checkpoint(str(bert), "Not a Name", tmp_path)
    with pytest.raises(ValueError, match="precision fp16"):
        import_checkpoint(str(bert), "tiny", tmp_path, ImportOptions(precision="fp16"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no config"):
        import_checkpoint(str(tmp_path / "empty"), "tiny", tmp_path)
    with pytest.raises(ValueError, match="neither a folder nor a hub id"):
        import_checkpoint(str(tmp_path / "missing"), "tiny", tmp_path)
    shutil.copytree(bert, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "vocab*"))
    with pytest.raises(ValueError, match="bare: its tokenizer cannot be loaded"):
        import_checkpoint(str(tmp_path / "bare"), "tiny", tmp_path)


def test_a_checkpoint_runs_no_code_of_its_own(bert: Path, tmp_path: Path) -> None:
    """Of this architecture, `transformers` follows the configuration to code elsewhere, and asks nobody."""
    elsewhere, hostile = tmp_path / "elsewhere", tmp_path / "hostile"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}'
    )
    (elsewhere / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Mine: ...\n")
    shutil.copytree(bert, hostile)
    detector = {"model_type": "mine", "_name_or_path": str(elsewhere)}
    described = {"model_type": "lightglue", "trust_remote_code": True, "keypoint_detector_config": detector}
    (hostile / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"hostile: the model_type of its config\.json is 'lightglue'"):
        import_checkpoint(str(hostile), "tiny", tmp_path)
    with pytest.raises(ValueError, match="'lightglue'"):
        fast_tokenizer(str(hostile))
    assert not (tmp_path / "ran").exists()
