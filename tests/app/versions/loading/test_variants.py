"""Variants: the file that a runtime loads, and a hint where a better one is missing."""

from pathlib import Path

import pytest

from app.engine.runtimes.cpu import Cpu
from app.engine.runtimes.cuda import CUDA, Cuda
from app.engine.runtimes.runtime import Runtime
from app.engine.runtimes.session import CPU
from app.errors import VersionRefused
from app.manifest import Variant, read_manifest
from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from app.versions.loading.variants import choose_variant, fp16_hint
from tests.tiny import write_tiny_version

MADE = {"recipe_file": "own.toml", "student": "ner-en"}


@pytest.mark.parametrize(
    ("runtime", "wanted", "precision"),
    [
        (Cpu(), "auto", "int8"),
        (Cuda(), "auto", "fp16"),
        (Cpu(), "fp32", "fp32"),
        (Cuda(), "int8", "int8"),
        (Cpu(), "fp16", "fp16"),
    ],
)
def test_the_variant_is_the_first_for_the_runtime_or_the_one_asked_for(
    models_dir: Path, runtime: Runtime, wanted: str, precision: str
) -> None:
    variants = (
        Variant(precision="int8", file="model.int8.onnx", providers=(CPU,)),
        Variant(precision="fp16", file="model.fp16.onnx", providers=(CUDA,)),
        Variant(precision="fp32", file="model.fp32.onnx", providers=(CPU, CUDA)),
    )
    manifest = read_manifest(models_dir / "ner-en/1").model_copy(update={"variants": variants})
    assert choose_variant(manifest, runtime, wanted).precision == precision


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(models_dir: Path) -> None:
    options = LoadOptions(variant="int8", threads=1)
    with pytest.raises(VersionRefused, match=r"ner-en/1: no variant 'int8'.*fp32 for CPU.*NERVE_VARIANT"):
        load_version(models_dir / "ner-en/1", options)


def test_a_gpu_runs_a_file_that_is_not_meant_for_it(models_dir: Path) -> None:
    variants = (Variant(precision="int8", file="model.int8.onnx", providers=(CPU,)),)
    manifest = read_manifest(models_dir / "ner-en/1").model_copy(update={"variants": variants})
    assert choose_variant(manifest, Cuda()).precision == "int8"


def test_the_cpu_runs_no_file_that_is_not_meant_for_it(models_dir: Path) -> None:
    variants = (Variant(precision="fp16", file="model.fp16.onnx", providers=(CUDA,)),)
    manifest = read_manifest(models_dir / "ner-en/1").model_copy(update={"variants": variants})
    with pytest.raises(VersionRefused, match="no variant 'auto' for CPUExecutionProvider"):
        choose_variant(manifest, Cpu())


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
