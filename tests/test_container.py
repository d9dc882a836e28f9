"""Dockerfile, .dockerignore, compose file and package: what must stay true. They are built elsewhere."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.server.process import uvicorn_config
from app.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
PROMETHEUS = SERVICES["prometheus"]["image"].partition("@")[0]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def dockerfile() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, after those before the first: (name, arguments)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    stages: list[list[tuple[str, str]]] = [[]]
    for name, _, arguments in (line.partition(" ") for line in lines if line.strip()):
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, " ".join(arguments.split())))
    return stages


FINAL = dockerfile()[-1]
_INSTALLS = r"\bpip (--python \S+ )?(install|wheel) "


def last(name: str) -> str:
    """The arguments of the final stage's last instruction of this name."""
    return [arguments for instruction, arguments in FINAL if instruction == name][-1]


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", last("USER"))


def test_the_command_gets_the_signals_itself() -> None:
    assert json.loads(last("CMD")) == ["nerve", "serve"]
    assert "ENTRYPOINT" not in dict(FINAL)


def test_the_healthcheck_asks_for_readiness_without_a_shell() -> None:
    command = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    compile(command[2], "healthcheck", "exec")
    assert "/readyz" in command[2]


def test_the_final_stage_installs_nothing() -> None:
    copied = [arguments for name, arguments in FINAL if name in ("COPY", "ADD")]
    assert copied
    assert all(arguments.startswith("--from=builder ") for arguments in copied)
    assert not [
        arguments
        for name, arguments in FINAL
        if name == "RUN" and re.search(rf"{_INSTALLS}|\bapt", arguments)
    ]


def test_no_pip_is_left_in_the_image() -> None:
    runs = [arguments for name, arguments in FINAL if name == "RUN"]
    assert any(
        re.search(r"pip uninstall .*\bpip\b.* && rm -rf .*ensurepip", arguments) for arguments in runs
    )
    made = [command for command in commands() if "venv" in command and "/opt/nerve" in command]
    assert made == ["python -m venv --without-pip /opt/nerve"]


def commands() -> list[str]:
    """Every command of every stage."""
    runs = [arguments for stage in dockerfile() for name, arguments in stage if name == "RUN"]
    return [command.strip() for arguments in runs for command in arguments.split("&&")]


def test_every_install_takes_locked_files_or_the_code_itself() -> None:
    installs = [command for command in commands() if re.search(_INSTALLS, command)]
    locked = [command for command in installs if "-r requirements/" in command]
    assert [re.findall(r"requirements/(\S+)", command) for command in locked] == [
        ["build.txt"],
        ["tools.txt"],
        ["${RUNTIME}.txt"],
    ]
    assert all("--require-hashes --no-deps --only-binary :all:" in command for command in locked)
    wheel, install = (command for command in installs if command not in locked)
    assert "--no-deps --no-build-isolation" in wheel
    assert "--no-deps --no-index" in install
    for runtime in ("cpu", "gpu"):
        assert (ROOT / "requirements" / f"{runtime}.txt").exists()


def test_the_image_says_what_it_is_made_of() -> None:
    (made,) = (command for command in commands() if "cyclonedx-py" in command)
    assert made.endswith("environment --output-reproducible --output-file /build/nerve.cdx.json /opt/nerve")
    assert ("COPY", "--from=builder /build/nerve.cdx.json /usr/share/nerve/nerve.cdx.json") in FINAL


def test_every_stage_has_one_base_that_can_be_pinned() -> None:
    before, *stages = dockerfile()
    assert before[0][0] == "ARG"
    assert re.fullmatch(r"PYTHON=3\.11-slim-bookworm(@sha256:[0-9a-f]{64})?", before[0][1])
    sources = [arguments for stage in stages for name, arguments in stage if name == "FROM"]
    assert sources == ["python:${PYTHON} AS base", "base AS builder", "base"]


def test_base_images_are_pinned_by_the_digests_that_the_registry_gives(tmp_path: Path) -> None:
    """The registry is out of reach of a test: a `docker` that knows two images stands in for it."""
    digests = {"python:3.11-slim-bookworm": "sha256:" + "1" * 64, PROMETHEUS: "sha256:" + "2" * 64}
    known = "\n".join(f"{image}) echo {digest} ;;" for image, digest in digests.items())
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\ncase "$6" in\n{known}\n*) echo "$6: unknown" >&2; exit 1 ;;\nesac\n')
    docker.chmod(0o755)
    files = [shutil.copy(ROOT / name, tmp_path) for name in ("Dockerfile", "docker-compose.yml")]
    for _ in range(2):  # what is pinned already is pinned anew
        subprocess.run(
            [ROOT / "deploy" / "pin-images.sh", *files],
            env={"PATH": f"{docker.parent}:{os.environ['PATH']}"},
            check=True,
        )
    pinned = [Path(file).read_text() for file in files]
    for (image, digest), text in zip(digests.items(), pinned, strict=True):
        assert f"{image.removeprefix('python:')}@{digest}\n" in text
    assert [len(text.splitlines()) for text in pinned] == [
        len((ROOT / name).read_text().splitlines()) for name in ("Dockerfile", "docker-compose.yml")
    ]


def test_the_image_sets_only_settings_there_are() -> None:
    environment = dict(re.findall(r"(NERVE_\w+)=(\S+)", last("ENV")))
    assert environment["NERVE_HOST"] == "0.0.0.0"
    assert {key.removeprefix("NERVE_").lower() for key in environment} <= set(Settings.model_fields)


def test_models_and_state_are_volumes_where_the_server_looks() -> None:
    environment = dict(re.findall(r"(NERVE_\w+)=(\S+)", last("ENV")))
    assert set(json.loads(last("VOLUME"))) == {
        environment["NERVE_MODELS_DIR"],
        environment["NERVE_STATE_DIR"],
    }


def test_nothing_goes_to_the_builder_but_what_the_image_is_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert allowed == {"pyproject.toml", "requirements", "README.md", "LICENSE", "app", "models"}
    assert "**/.state" in rules


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_published_on_the_loopback_only(name: str) -> None:
    ports = SERVICES[name]["ports"]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)


def test_no_two_services_want_one_port() -> None:
    published = [str(port).split(":")[1] for service in SERVICES.values() for port in service["ports"]]
    assert len(published) == len(set(published))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_takes_no_more_of_the_host_than_is_said(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"(\$\{\w+:-)?[0-9]+g\}?", service["mem_limit"])
    assert service["pids_limit"] <= 512
    assert service["ulimits"]["nofile"] >= 4096
    assert service["logging"]["driver"] == "local"  # which rotates
    for tmpfs in service.get("tmpfs", []):
        assert "size=" in tmpfs


@pytest.mark.parametrize("name", OURS)
def test_what_waits_for_slow_readers_is_on_a_disk_and_bounded(name: str) -> None:
    """A tmpfs would count as the container's memory."""
    service = SERVICES[name]
    assert "tmpfs" not in service
    assert "/tmp" in service["volumes"]
    assert re.fullmatch(r"\$\{\w+:-\d+\}", service["environment"]["NERVE_STREAM_SPOOLS_BYTES"])


@pytest.mark.parametrize("name", OURS)
def test_a_container_is_given_longer_to_end_than_its_server_takes(name: str) -> None:
    grace = SERVICES[name]["stop_grace_period"]
    assert grace.endswith("s")
    server = uvicorn_config("app.server.worker:make_app", Settings()).timeout_graceful_shutdown
    assert server is not None
    assert int(grace.removesuffix("s")) >= server + 15


def test_state_is_on_a_named_volume() -> None:
    volumes = dict(volume.split(":")[:2] for volume in SERVICES["nerve"]["volumes"] if ":" in volume)
    assert volumes["state"] == "/srv/nerve/state"
    assert "state" in COMPOSE["volumes"]


def test_the_gpu_is_a_profile() -> None:
    gpu = SERVICES["nerve-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["build"]["args"] == {"RUNTIME": "gpu"}
    assert gpu["environment"]["NERVE_PROVIDER"] == "cuda"
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_prometheus_scrapes_every_service_of_ours() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    (discovery,) = config["scrape_configs"][0]["dns_sd_configs"]
    assert set(discovery["names"]) == set(OURS)
    assert discovery["port"] == 8000


@pytest.mark.parametrize("package", ["app", "training"])
def test_every_folder_with_modules_is_a_package(package: str) -> None:
    """setuptools leaves out a folder without `__init__.py`, and says nothing."""
    assert f"{package}*" in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_files_of_the_server_that_are_no_modules_are_packaged() -> None:
    packaged = PROJECT["tool"]["setuptools"]["package-data"]
    for path in (ROOT / "app").rglob("*.*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            patterns = packaged.get(".".join(path.parent.relative_to(ROOT).parts), [])
            assert any(path.match(pattern) for pattern in patterns), path


def test_the_commands_are_where_the_project_says() -> None:
    for where in PROJECT["project"]["scripts"].values():
        module, _, function = where.partition(":")
        assert f"def {function}(" in (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
