"""`nerve serve`: how many processes it becomes."""

from pathlib import Path

from tests.servers import nerve, serving, until


def test_the_option_wins_over_the_variable(models_dir: Path, tmp_path: Path) -> None:
    with serving(models_dir, tmp_path / "log", options=["--workers", "2"], workers=1) as server:
        until(lambda: server.metric("nerve_workers") == 2)
        assert len(server.pids) == 2
    done = nerve("serve", "--workers", "-1", models=models_dir)
    assert done.returncode != 0
    assert "--workers" in done.stderr
