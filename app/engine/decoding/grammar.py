"""Grammar: which tag may follow which, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.labels import Scheme, joins, legal


@dataclass(frozen=True)
class Grammar:
    """The tags that may follow each tag, and whether they continue its entity.

    Attributes:
        legal: (tags, tags) whether the second may follow the first.
        joins: (tags, tags) whether the second continues the entity that the first is in.
        first: (tags,) may open a text.
        final: (tags,) may end one.
    """

    legal: npt.NDArray[np.bool_]
    joins: npt.NDArray[np.bool_]
    first: npt.NDArray[np.bool_]
    final: npt.NDArray[np.bool_]


def grammar(tags: Sequence[str], scheme: Scheme) -> Grammar:
    """The grammar of `tags` under `scheme`."""
    return Grammar(
        np.array([[legal(a, b, scheme) for b in tags] for a in tags]),
        np.array([[joins(a, b, scheme) for b in tags] for a in tags]),
        np.array([legal("O", tag, scheme) for tag in tags]),
        np.array([legal(tag, "O", scheme) for tag in tags]),
    )
