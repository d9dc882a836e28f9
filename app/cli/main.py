"""Main is the command `nerve`: serve, annotate, and manage the versions that are served.

Each command imports what it needs when it runs, so that `nerve --help` is fast.
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
    """Run the command line; show errors of Nerve as a message, without a traceback."""
    try:
        cli()
    except SettingsError as error:
        sys.exit(f"nerve: cannot start: {error.message}")
    except NerveError as error:
        sys.exit(f"nerve: {error.message}")
