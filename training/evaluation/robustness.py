"""Robustness is the F1 on documents that are rewritten as people might also have typed them.

A text is cut at the ends of its entities and each piece is rewritten separately, so that the entities'
offsets stay right when a piece changes its length.
"""

import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from app.engine.text.words import PUNCTUATION, character_classes
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span

Perturbation = Callable[[Document, random.Random], Document]

TYPO_RATE = 0.1
"""The share of words of four or more letters that get a typo."""

_LETTER = r"[^\W\d_]"
_LONG_WORD = re.compile(_LETTER + "{4,}")
_JOINING_MARK = re.compile(rf"(?<=\b{_LETTER})\.(?={_LETTER})|(?<={_LETTER})['\u2019](?={_LETTER})")
_KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    key: row[max(0, at - 1) : at] + row[at + 1 : at + 2] for row in _KEY_ROWS for at, key in enumerate(row)
}

_NAMES = {
    "West African": (
        "Kwame Abena Chinedu Ngozi Babatunde Adwoa Ifeoma Sekou Aminata Kofi Folake Mamadou Yaa Obinna",
        "Okafor Mensah Adeyemi Diallo Boateng Traoré Eze Asante Balogun Keita Owusu Nwosu Cissé Ogunleye",
    ),
    "South Asian": (
        "Arjun Priya Rohan Lakshmi Imran Ananya Sanjay Nasreen Vikram Meera Tariq Kavita Harish Divya",
        "Chatterjee Iyer Rahman Patel Banerjee Reddy Siddiqui Nair Gupta Perera Joshi Chaudhry Menon",
    ),
    "East Asian": (
        "Wei Haruto Min-jun Xiuying Sakura Seo-yeon Jianguo Kenji Ji-woo Meiling Yuki Hyun-woo Lan Takeshi",
        "Zhang Tanaka Kim Nguyen Liu Watanabe Park Huang Kobayashi Choi Tran Zhao Nakamura Xu",
    ),
    "Arabic": (
        "Omar Layla Khalid Fatima Youssef Mariam Hassan Zaynab Tarek Salma Bilal Noura Karim Huda",
        "Haddad Mansour Khoury Saleh Nasser Hamdan Qasim Darwish Shaheen Farouk Sabbagh Barakat Zidan",
    ),
    "Slavic": (
        "Dmitri Katarzyna Bogdan Svetlana Miloš Zdenka Wojciech Oksana Tihomir Ludmila Jaroslav Milena",
        "Kowalczyk Petrović Novák Shevchenko Volkov Dvořák Horvat Wiśniewska Ivanov Marchuk Kovač Todorov",
    ),
    "Latin American": (
        "Joaquín Ximena Thiago Lupe Marina Alejandro Valentina Facundo Marisol Rodrigo Camila Esteban",
        "Quispe Gutiérrez Oliveira Mamani Ramírez Cardoso Villanueva Souza Huamán Cisneros Ibarra Barbosa",
    ),
}

ORIGINS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    origin: (tuple(first_names.split()), tuple(surnames.split()))
    for origin, (first_names, surnames) in _NAMES.items()
}
"""First names and surnames by origin."""


def lower(document: Document, rng: random.Random) -> Document:
    """Write everything in lower case."""
    return _rewritten(document, lambda piece, _: piece.lower())


def upper(document: Document, rng: random.Random) -> Document:
    """Write everything in capitals; "ß" becomes "SS"."""
    return _rewritten(document, lambda piece, _: piece.upper())


def typos(document: Document, rng: random.Random, rate: float = TYPO_RATE) -> Document:
    """Put one typo into a share `rate` of the words of four or more letters, after the first letter.

    Two letters are swapped, or one is left out, doubled, or replaced by the key beside it.
    """

    def mistype(match: re.Match[str]) -> str:
        return _mistyped(match[0], rng) if rng.random() < rate else match[0]

    return _rewritten(document, lambda piece, _: _LONG_WORD.sub(mistype, piece))


def _mistyped(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(word))
    letter = word[at]
    beside = _NEIGHBOURS.get(letter.lower())
    how = rng.choice(["swap", "drop", "double", *(["replace"] if beside else [])])
    if how == "swap":
        at = min(at, len(word) - 2)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if how == "replace" and beside:
        key = rng.choice(beside)
        return word[:at] + (key.upper() if letter.isupper() else key) + word[at + 1 :]
    return word[:at] + ("" if how == "drop" else letter * 2) + word[at + 1 :]


def no_punctuation(document: Document, rng: random.Random) -> Document:
    """Remove marks: "U.S." becomes "US", "don't" becomes "dont", any other mark becomes a blank.

    Entities of marks alone are dropped.
    """
    marks = character_classes(document.text) == PUNCTUATION
    blanks = {ord(char): " " for char, mark in zip(document.text, marks, strict=True) if mark}

    def strip(piece: str, label: str | None) -> str:
        bare = _JOINING_MARK.sub("", piece).translate(blanks)
        return bare.strip() if label is not None and bare != piece else bare

    return _rewritten(document, strip)


def names(document: Document, rng: random.Random, person: str = "PER") -> Document:
    """Give persons names of other origins, all origins being equally likely.

    In a name of several words the first becomes a first name, the last a surname, and the others are
    removed. One word always becomes the same name in a document. Names in lower case or in capitals keep
    their case. Mentions that do not start with a letter, such as handles, stay unchanged.

    Args:
        person: the label of persons.
    """
    renamed: dict[str, str] = {}

    def rename(mention: str, label: str | None) -> str:
        if label != person or not mention[:1].isalpha():
            return mention
        first_names, surnames = ORIGINS[rng.choice(list(ORIGINS))]
        words = mention.lower().split()
        if len(words) == 1:
            name = renamed.setdefault(words[0], rng.choice(first_names + surnames))
        else:
            first = renamed.setdefault(words[0], rng.choice(first_names))
            name = f"{first} {renamed.setdefault(words[-1], rng.choice(surnames))}"
        if mention.islower():
            return name.lower()
        return name.upper() if mention.isupper() else name

    return _rewritten(document, rename)


def _rewritten(document: Document, change: Callable[[str, str | None], str]) -> Document:
    """Apply `change` to each entity, with its label, and to each text between entities, with None.

    An entity that becomes empty is dropped.
    """
    text, at = "", 0
    spans: list[Span] = []
    for start, end, label in document.spans:
        text += change(document.text[at:start], None)
        mention = change(document.text[start:end], label)
        if mention:
            spans.append(Span(len(text), len(text) + len(mention), label))
        text += mention
        at = end
    return replace(document, text=text + change(document.text[at:], None), spans=tuple(spans))


PERTURBATIONS: dict[str, Perturbation] = {
    "lower": lower,
    "upper": upper,
    "typos": typos,
    "no_punctuation": no_punctuation,
    "names": names,
}


def perturbed(corpus: LoadedCorpus, name: str, seed: int = 0, person: str = "PER") -> LoadedCorpus:
    """Return a corpus of the same name with every document perturbed.

    The result for a document depends on `seed` and the document's id, not on the other documents.

    Args:
        name: one of `PERTURBATIONS`.
        person: the label of persons, for `names`.

    Raises:
        ValueError: the perturbation is unknown.
    """
    if name not in PERTURBATIONS:
        raise ValueError(f"no perturbation {name!r}; there are {', '.join(PERTURBATIONS)}")
    change = partial(names, person=person) if name == "names" else PERTURBATIONS[name]
    documents = (change(one, random.Random(f"{seed}:{one.id}")) for one in corpus.documents)
    return replace(corpus, documents=tuple(documents))
