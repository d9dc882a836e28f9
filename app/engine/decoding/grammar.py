"""A grammar says, as tables, which tag may follow which."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.labels import Scheme, joins, legal


@dataclass(frozen=True)
class Grammar:
    """Holds which tags may follow each tag, and which of them continue its entity.

    Attributes:
        legal: whether the second tag may follow the first, shape (tags, tags).
        joins: whether the second tag continues the first tag's entity, shape (tags, tags).
        first: whether the tag may begin a text, shape (tags,).
        final: whether the tag may end a text, shape (tags,).
    """

    legal: npt.NDArray[np.bool_]
    joins: npt.NDArray[np.bool_]
    first: npt.NDArray[np.bool_]
    final: npt.NDArray[np.bool_]


def grammar(tags: Sequence[str], scheme: Scheme) -> Grammar:
    """Make the grammar of `tags` under `scheme`."""
    return Grammar(
        np.array([[legal(a, b, scheme) for b in tags] for a in tags]),
        np.array([[joins(a, b, scheme) for b in tags] for a in tags]),
        np.array([legal("O", tag, scheme) for tag in tags]),
        np.array([legal(tag, "O", scheme) for tag in tags]),
    )
