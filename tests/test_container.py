"""Dockerfile, .dockerignore, compose file and package: what must stay true. They are built elsewhere."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def dockerfile() -> list[list[tuple[str, str]]]:
    """The instructions of each stage: (name, arguments)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    stages: list[list[tuple[str, str]]] = []
    for name, _, arguments in (line.partition(" ") for line in lines if line.strip()):
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, " ".join(arguments.split())))
    return stages


FINAL = dockerfile()[-1]


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
        arguments for name, arguments in FINAL if name == "RUN" and re.search(r"\b(pip|apt)", arguments)
    ]


def test_every_install_takes_the_exact_versions_and_a_copy_of_the_code() -> None:
    installs = [
        arguments
        for stage in dockerfile()
        for name, arguments in stage
        if name == "RUN" and " install " in arguments and "pip" in arguments
    ]
    assert installs
    for arguments in installs:
        assert "--constraint constraints.txt" in arguments
        assert not re.search(r" (-e|--editable) ", arguments)


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
    assert allowed == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "app", "models"}
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


def test_state_is_on_a_named_volume() -> None:
    volumes = dict(volume.split(":")[:2] for volume in SERVICES["nerve"]["volumes"])
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
    assert set(discovery["names"]) == {name for name, service in SERVICES.items() if "build" in service}
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
