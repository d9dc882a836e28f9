"""What is installed: constraints.txt, requirements/, pyproject.toml and the Makefile agree. All offline."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]
DIRECT: dict[str, list[str]] = {
    "build": GROUPS["build"],
    "cpu": PROJECT["project"]["dependencies"] + EXTRAS["cpu"],
    "gpu": PROJECT["project"]["dependencies"] + EXTRAS["gpu"],
    "dev": PROJECT["project"]["dependencies"] + EXTRAS["cpu"] + EXTRAS["train"] + EXTRAS["dev"],
    "encoder": GROUPS["encoder"],
    "tools": GROUPS["tools"],
}
"""The packages that each file of requirements/ is made for."""


def pins(path: str) -> Iterator[tuple[Requirement, str]]:
    """Each requirement of a file, and what follows it: hashes, a comment."""
    text = (ROOT / path).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith(("#", "-")):
            found = re.fullmatch(r"(.*?)\s*((?:\s#|--hash=).*)?", line)
            assert found, line
            yield Requirement(found[1]), found[2] or ""


def versions(path: str) -> dict[str, str]:
    """The one version of each package that a file pins."""
    found: dict[str, str] = {}
    for requirement, _ in pins(path):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        version = specifier.version.partition("+")[0]
        assert found.setdefault(canonicalize_name(requirement.name), version) == version
    return found


PINNED = versions("constraints.txt")
LOCKS = sorted(path.stem for path in (ROOT / "requirements").iterdir())


def test_there_is_a_lock_for_each_environment() -> None:
    assert sorted([*DIRECT, "torch"]) == LOCKS


@pytest.mark.parametrize("lock", LOCKS)
def test_every_file_that_is_installed_is_known_by_its_hash(lock: str) -> None:
    for requirement, rest in pins(f"requirements/{lock}.txt"):
        hashes = rest.split()
        assert hashes, requirement
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", part) for part in hashes), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_the_versions_of_the_constraints(lock: str) -> None:
    """`make lock` writes both."""
    for name, version in versions(f"requirements/{lock}.txt").items():
        assert (name, version) == (name, PINNED.get(name))


@pytest.mark.parametrize("lock", DIRECT)
def test_a_lock_holds_what_the_project_asks_for(lock: str) -> None:
    """A package that was added to pyproject.toml is installed after `make lock` only."""
    locked = versions(f"requirements/{lock}.txt") | versions("requirements/torch.txt")
    for wanted in map(Requirement, DIRECT[lock]):
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), wanted


def test_nothing_is_pinned_that_nothing_installs() -> None:
    optional = {canonicalize_name(Requirement(text).name) for text in EXTRAS["signing"] + EXTRAS["parquet"]}
    locked = {name for lock in LOCKS for name in versions(f"requirements/{lock}.txt")}
    assert set(PINNED) - optional == locked - optional


def test_the_server_is_made_of_what_the_tests_ran_with() -> None:
    assert set(versions("requirements/cpu.txt")) <= set(versions("requirements/dev.txt"))


def test_torch_is_the_build_for_cpus_everywhere() -> None:
    linux, other = (requirement for requirement, _ in pins("requirements/torch.txt"))
    assert str(linux.specifier).endswith("+cpu")
    assert linux.marker is not None
    assert other.marker is not None
    for platform in ("linux", "darwin"):
        fits = [
            bool(torch.marker and torch.marker.evaluate({"sys_platform": platform}))
            for torch in (linux, other)
        ]
        assert fits == [platform == "linux", platform != "linux"]
    (known,) = (known for known in PROJECT["tool"]["uv"]["dependency-metadata"] if known["name"] == "torch")
    assert known["version"] == PINNED["torch"]


def test_the_project_is_built_by_the_setuptools_that_is_locked() -> None:
    assert PROJECT["build-system"]["requires"] == [f"setuptools=={PINNED['setuptools']}"]


def test_make_installs_nothing_but_locked_files_and_the_project() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    definitions = dict(re.findall(r"^(\w+) = (.*)$", text, flags=re.MULTILINE))
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(definitions["LOCKED"].split())
    assert {"--no-deps", "--no-build-isolation"} <= set(definitions["OURSELVES"].split())
    assert text.count("pip --disable-pip-version-check install") == 1
    assert "$(PIP_INSTALL)" not in text.split("\n.PHONY", 1)[1]
    installed = re.findall(r"\$\(LOCKED\).* --requirement requirements/(\w+)\.txt", text)
    assert set(installed) == set(LOCKS) - {"gpu"}  # which the image installs
    made = re.findall(r"^\t\$\(LOCK\) .*--output-file requirements/(\w+)\.txt", text, flags=re.MULTILINE)
    assert set(made) == set(LOCKS) - {"torch"}  # which is written by hand


def test_every_advisory_that_is_let_pass_is_answered() -> None:
    let_pass = re.findall(r"^ANSWERED = (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    answered = re.findall(r"^\| (PYSEC-[\d-]+),", (ROOT / "SECURITY.md").read_text(), flags=re.MULTILINE)
    assert let_pass == [" ".join(answered)]
    # One answer is that a package is not there.
    assert "kernels" not in PINNED
