"""`nerve serve`: how many processes it becomes."""

import socket
from pathlib import Path

import pytest

from tests.servers import nerve, serving, until


def test_the_option_wins_over_the_variable(models_dir: Path, tmp_path: Path) -> None:
    with serving(models_dir, tmp_path / "log", options=["--workers", "2"], workers=1) as server:
        until(lambda: server.metric("nerve_workers") == 2)
        assert len(server.pids) == 2
    done = nerve("serve", "--workers", "-1", models=models_dir)
    assert done.returncode != 0
    assert "--workers" in done.stderr


@pytest.mark.parametrize(
    ("workers", "host", "why"),
    [
        (1, "127.0.0.1", "Address already in use"),
        (2, "127.0.0.1", "Address already in use"),
        (1, "192.0.2.1", "Cannot assign requested address"),
    ],
)
def test_an_address_that_cannot_be_had_is_told_in_one_line(
    models_dir: Path, workers: int, host: str, why: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = nerve("serve", models=models_dir, host=host, port=port, workers=workers)
    assert done.returncode != 0
    (said,) = done.stderr.splitlines()
    assert f"cannot listen on {host} port {port}: " in said
    assert why in said
    assert "NERVE_PORT" in said
