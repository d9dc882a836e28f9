"""`nerve`: serve, annotate, and look after the versions that are served.

A command is imported without what it needs, which it imports when it runs: `nerve --help` is there at once.
"""

import sys

import typer

from app import __version__
from app.cli.annotate import annotate
from app.cli.models import models
from app.cli.serve import serve
from app.errors import NerveError, SettingsError

cli = typer.Typer(help="Named entities: text in, entities out.", no_args_is_help=True, add_completion=False)
cli.command()(serve)
cli.command()(annotate)
cli.add_typer(models, name="models")


@cli.command()
def version() -> None:
    """Print the version of Nerve."""
    typer.echo(__version__)


def main() -> None:
    """Entry point: an error of ours is a message, not a traceback."""
    try:
        cli()
    except SettingsError as error:
        sys.exit(f"nerve: cannot start: {error.message}")
    except NerveError as error:
        sys.exit(f"nerve: {error.message}")
