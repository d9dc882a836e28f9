"""Loaded: what a version says of what it runs on."""

from app.engine.runtimes.session import CPU
from app.manifest import Variant
from app.versions.loading.loaded import MemberVariants


def test_each_precision_of_the_members_is_named() -> None:
    variants = [Variant(precision=p, file="x", providers=(CPU,)) for p in ("int8", "fp32", "int8")]
    assert MemberVariants(tuple(variants)).precision == "fp32+int8"
