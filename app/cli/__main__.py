"""`python -m app.cli` is `nerve`."""

from app.cli.main import main

main()
