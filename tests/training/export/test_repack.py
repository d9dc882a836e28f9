import json
from pathlib import Path

import onnx
import pytest

from app.errors import VersionRefused
from app.manifest import read_manifest, verify_files
from app.versions.loading.loader import load_version
from tests.training.export.checkpoints import write_checkpoint
from training.export.importer import ImportOptions, import_checkpoint
from training.export.repack import repack

TEXTS = ["Maria Keller moved from Hamburg to Toronto in 2019.", "Nobody.", "Anna met Paul in Rome. " * 40]


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An int8 version with a card, whose rows are not packed."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")
    with monkeypatch.context() as patched:
        patched.setattr("training.export.quantize.pack_rows", lambda model: False)
        options = ImportOptions(precision="int8")
        return import_checkpoint(str(checkpoint), "tiny", tmp_path / "models", options)


def test_a_version_is_published_again_with_the_same_answers(unpacked: Path) -> None:
    (unpacked / "manifest.json.sig").write_text("of the old manifest")
    packed = repack(unpacked)
    assert packed == unpacked.parent / "2"
    assert not (packed / "manifest.json.sig").exists()
    manifests = [read_manifest(folder) for folder in (unpacked, packed)]
    verify_files(packed, manifests[1])
    assert manifests[1].lineage["packed"].startswith("Its graph is that of tiny/1, packed")
    assert manifests[1].golden == manifests[0].golden
    (variant,) = manifests[1].variants
    assert variant.metrics["bytes"] == (packed / variant.file).stat().st_size
    assert "tokens_per_second" not in variant.metrics
    assert any(node.op_type == "NonZero" for node in onnx.load(packed / "model.int8.onnx").graph.node)
    assert "tiny/1" not in (packed / "README.md").read_text().replace("that of tiny/1", "")
    loaded = [load_version(folder) for folder in (unpacked, packed)]
    try:
        answers = [one.model.predict(TEXTS) for one in loaded]
        assert answers[0] == answers[1]
    finally:
        for one in loaded:
            one.model.close()


def test_what_is_packed_or_cannot_be_is_refused_and_nothing_is_written(unpacked: Path) -> None:
    packed = repack(unpacked, 7)
    with pytest.raises(
        ValueError, match=r"model\.int8\.onnx of tiny/7: there is no attention .*packed already"
    ):
        repack(packed)
    with pytest.raises(FileExistsError, match="versions never change"):
        repack(unpacked, 7)
    assert sorted(path.name for path in unpacked.parent.iterdir()) == ["1", "7"]


def test_a_damaged_version_is_refused(unpacked: Path) -> None:
    path = unpacked / "model.int8.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VersionRefused, match=r"model\.int8\.onnx has"):
        repack(unpacked)


def test_a_version_without_int8_is_refused(unpacked: Path) -> None:
    content = json.loads((unpacked / "manifest.json").read_text())
    content["variants"][0]["precision"] = "fp32"
    (unpacked / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has no int8 graph"):
        repack(unpacked)
