"""Serve is the command `nerve serve`."""

import os
from typing import Annotated

import typer


def serve(
    workers: Annotated[
        int | None, typer.Option(min=0, help="processes that share the port; wins over NERVE_WORKERS")
    ] = None,
) -> None:
    """Serve the models of NERVE_MODELS_DIR. Settings are NERVE_* environment variables."""
    from app.server.serve import run
    from app.settings import read_settings

    if workers is not None:
        os.environ["NERVE_WORKERS"] = str(workers)  # workers read their settings from the environment
    raise typer.Exit(run(read_settings()))
