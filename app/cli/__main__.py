"""Makes `python -m app.cli` run `nerve`."""

from app.cli.main import main

main()
