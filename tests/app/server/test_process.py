"""How uvicorn runs in a process of ours, and what such a process sets for itself."""

import subprocess
import sys
from pathlib import Path

from app.server.process import uvicorn_config
from app.server.supervisor import WORKER
from app.settings import Settings
from tests.servers import environment


def test_a_replacement_has_the_time_that_loading_may_take(tmp_path: Path) -> None:
    for loading in (0.5, 300):
        settings = Settings(models_dir=tmp_path, load_timeout=loading)
        given = uvicorn_config(WORKER, settings).timeout_worker_healthcheck
        assert given >= loading + 60  # it starts before it loads


SET_UP = """
import asyncio, gc, sys
from app.server.process import make_app
from app.settings import read_settings

async def start(app):
    async with app.router.lifespan_context(app):
        print(sys.getswitchinterval() < 0.001, gc.get_freeze_count() > 0, gc.get_threshold()[0] > 10_000)

asyncio.run(start(make_app(read_settings())))
"""


def test_a_process_that_serves_is_set_up_for_it(models_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SET_UP],
        env=environment(models_dir),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True"] * 3
