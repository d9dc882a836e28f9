"""What the tests of README and docs/ read out of Markdown."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Block:
    """A block of code; its language is empty where it is indented or names none."""

    language: str
    body: str


def read(name: str) -> str:
    """A page of the repository, by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced and the indented blocks of a page, in order."""
    found: list[Block] = []
    lines = iter(page.splitlines())
    indented: list[str] = []
    after_blank = True
    for line in lines:
        if line.startswith("    ") and (indented or after_blank):
            indented.append(line[4:])
            continue
        if indented:
            found.append(Block("", "\n".join(indented)))
            indented = []
        if fence := re.fullmatch(r"```(\w*)", line):
            body = []
            for inside in lines:
                if inside == "```":
                    break
                body.append(inside)
            found.append(Block(fence[1], "\n".join(body)))
        after_blank = not line.strip()
    return [*found, Block("", "\n".join(indented))] if indented else found


def rows(page: str) -> list[list[str]]:
    """The cells of every line of every table of a page."""
    lines = re.findall(r"^\|(.*)\|$", page, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def commands(page: str) -> Iterator[list[str]]:
    """The shell commands in the blocks of a page, as lists of words, answers among them."""
    for block in blocks(page):
        if block.language in ("", "sh"):
            body = block.body.replace("\\\n", " ")
            for line in body.splitlines():
                yield from _of_line(line.removeprefix("$ "))


def _of_line(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # an answer, and no command: quotes do not end
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word and set(word) <= set("|&;"):
            while command and re.fullmatch(r"[A-Z_]+=\S*", command[0]):  # variables before a command
                command = command[1:]
            if command:
                yield command
            command = []
        else:
            command.append(word)


def links(page: str) -> list[str]:
    """Where links and pictures of a page lead, those to other sites left out."""
    found = re.findall(r"\]\(([^)\s]+)\)", page)
    return [target for target in found if "://" not in target]


def anchors(page: str) -> set[str]:
    """What links to a part of a page may name, made of its headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
