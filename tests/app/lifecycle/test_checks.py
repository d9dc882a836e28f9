from pathlib import Path

from app.engine.session import CPU, CUDA
from app.lifecycle.checks import fp16_hint
from app.manifest import Variant, read_manifest
from tests.tiny import write_tiny_version

MADE = {"recipe_file": "own.toml", "student": "ner-en"}


def test_a_gpu_without_an_fp16_file_says_which_command_makes_one(tmp_path: Path) -> None:
    manifest = read_manifest(write_tiny_version(tmp_path, lineage=MADE))
    hint = fp16_hint(manifest, CUDA)
    assert "nerve-train export own.toml --student ner-en --set export.fp16=true" in hint


def test_a_fine_tuned_version_is_no_student(tmp_path: Path) -> None:
    manifest = read_manifest(write_tiny_version(tmp_path, lineage={"recipe_file": "own.toml"}))
    assert "nerve-train export own.toml --set export.fp16=true" in fp16_hint(manifest, CUDA)


def test_nothing_is_said_on_a_cpu_or_where_there_is_one(tmp_path: Path) -> None:
    manifest = read_manifest(write_tiny_version(tmp_path, lineage=MADE))
    assert not fp16_hint(manifest, CPU)
    half = Variant(precision="fp16", file="model.fp32.onnx", providers=(CUDA,))
    assert not fp16_hint(manifest.model_copy(update={"variants": (*manifest.variants, half)}), CUDA)


def test_nothing_is_said_of_versions_that_no_recipe_made(tmp_path: Path) -> None:
    assert not fp16_hint(read_manifest(write_tiny_version(tmp_path)), CUDA)
