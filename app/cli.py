"""`nerve`: serve, and look after the versions that are served."""

import logging
import signal
import socket
import sys
from types import FrameType
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI

from app import __version__
from app.engine.session import check_installation, choose_provider
from app.errors import NerveError, SettingsError
from app.lifecycle.manager import ModelManager
from app.logs import configure_logging
from app.main import create_app, make_manager
from app.metrics import Metrics
from app.settings import Settings, read_settings

cli = typer.Typer(help="Named entities: text in, entities out.", no_args_is_help=True, add_completion=False)
models = typer.Typer(help="The versions that are served.", no_args_is_help=True)
cli.add_typer(models, name="models")

log = logging.getLogger("nerve")


class _Server(uvicorn.Server):
    """A server that is unready at the first signal and exits with 0 when the last request is done."""

    def __init__(self, config: uvicorn.Config, app: FastAPI):
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.draining.set()
        log.info("%s: finishing requests", signal.Signals(sig).name)
        # The base class would raise the signal again at the end, and the exit code be its number.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for sock in server.sockets:
                host, port = sock.getsockname()[:2]
                log.info("listening on http://%s:%d", host, port)


@cli.command()
def serve() -> None:
    """Serve the models of NERVE_MODELS_DIR. Settings are NERVE_* environment variables."""
    settings = _settings()
    configure_logging(settings.log_level, settings.log_format)
    check_installation()
    if settings.provider == "cuda":
        choose_provider("cuda", settings.allow_cpu_fallback)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        lifespan="on",
    )
    server = _Server(config, app)
    server.run()
    if not server.started:
        raise typer.Exit(1)


@models.command("list")
def list_versions() -> None:
    """Every version in the models folder, and which should serve."""
    manager = _manager(_settings())
    for name in manager.repository.names():
        deployment = manager.deployment(name)
        for version in manager.repository.versions(name):
            note = {deployment.stable: "stable", deployment.previous: "previous"}.get(version, "")
            typer.echo(f"{name}/{version}\t{note}".rstrip())


@models.command()
def activate(
    name: Annotated[str, typer.Argument(help="model, such as ner-en")],
    version: Annotated[int, typer.Argument(help="version, such as 2")],
) -> None:
    """Make a version the one that serves, if it passes its checks. Servers follow within seconds."""
    deployment = _manager(_settings()).activate(name, version)
    typer.echo(f"{name}: stable {deployment.stable}, previous {deployment.previous}")


@models.command()
def rollback(name: Annotated[str, typer.Argument(help="model, such as ner-en")]) -> None:
    """Go back to the version that served before."""
    deployment = _manager(_settings()).rollback(name)
    typer.echo(f"{name}: stable {deployment.stable}, previous {deployment.previous}")


@cli.command()
def version() -> None:
    """Print the version of Nerve."""
    typer.echo(__version__)


def _settings() -> Settings:
    return read_settings()


def _manager(settings: Settings) -> ModelManager:
    return make_manager(settings, Metrics())


def main() -> None:
    """Entry point: an error of ours is a message, not a traceback."""
    try:
        cli()
    except SettingsError as error:
        sys.exit(f"nerve: cannot start: {error.message}")
    except NerveError as error:
        sys.exit(f"nerve: {error.message}")


if __name__ == "__main__":
    main()
