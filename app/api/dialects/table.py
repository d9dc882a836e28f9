"""Table: lists the dialects that are served. A new one is a line here."""

from collections.abc import Sequence
from typing import Any

from app.api.dialects.dialect import Dialect
from app.api.dialects.native import Native

DIALECTS: Sequence[Dialect[Any]] = (Native(),)
