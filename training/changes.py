"""This module applies changes, such as `--set table.key=value`, to the tables of a TOML file."""

import tomllib
from typing import Any


def apply_change(tables: dict[str, Any], change: str) -> None:
    """Set one value of nested tables in place.

    Args:
        change: `table.key=value`, with the value in TOML; a bare word is a string. In a list of tables,
            a table is addressed by its `name`: `students.ner-en.seed=2`.

    Raises:
        ValueError: the change does not have that form, or its key names no table.
    """
    key, equals, value = change.partition("=")
    if not equals:
        raise ValueError(f"--set {change}: must be table.key=value")
    table, leaf = _place(tables, key.strip(), change)
    table[leaf] = _value(value.strip())


def _place(table: dict[str, Any], key: str, change: str) -> tuple[dict[str, Any], str]:
    """Return the table that a dotted key leads to, and the last part of the key."""
    while "." in key:
        parent, _, key = key.partition(".")
        found = table.setdefault(parent, {})
        if isinstance(found, list):
            entries = {str(entry.get("name")): entry for entry in found if isinstance(entry, dict)}
            name = next((name for name in entries if key.startswith(f"{name}.")), None)
            if name is None:
                raise ValueError(
                    f"--set {change}: {parent} is no table of the recipe but several; say "
                    f"{parent}.NAME.key, NAME being {' or '.join(entries)}"
                )
            found, key = entries[name], key.removeprefix(f"{name}.")
        elif not isinstance(found, dict):
            raise ValueError(f"--set {change}: {parent} is no table of the recipe")
        table = found
    return table, key


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
