"""The self-test checks that a loaded version computes what its manifest says, before it serves."""

import hashlib
from pathlib import Path

from app.engine.ensemble.model import check_members
from app.engine.model import Model
from app.engine.text.tokenizer import Tokenizer
from app.errors import VersionRefused
from app.manifest import MANIFEST, Manifest, manifest_bytes, parse_manifest
from app.versions.loading.refusals import refusing


def self_test(where: str, model: Model) -> None:
    """Check a version against its golden texts, and close it if it fails.

    Raises:
        VersionRefused: the version failed.
    """
    try:
        with refusing(where, "a golden text fails"):
            check_golden(where, model)
    except BaseException:
        model.close()
        raise


def check_golden(where: str, model: Model) -> None:
    """Run each golden text by itself, and compare its spans and labels with the manifest's.

    Raises:
        VersionRefused: a text gave other spans or labels.
    """
    for golden in model.manifest.golden:
        (prediction,) = model.predict([golden.text])
        found = [(e.start, e.end, e.label) for e in prediction.entities]
        meant = [(e.start, e.end, e.label) for e in golden.entities]
        if found != meant:
            raise VersionRefused(
                f"{where}: golden text {golden.text!r} gave {found}, must give {meant}; the file "
                "or this machine computes something else than what was exported"
            )


def check_tokenizer(where: str, manifest: Manifest, tokenizer: Tokenizer) -> None:
    """Check that a tokenizer tells words apart: those of the golden texts, or else of its vocabulary.

    A tokenizer that maps all words to one sub-token, its unknown one, is damaged or another model's. Texts
    with fewer than two different words show nothing, and pass.

    Raises:
        VersionRefused: the tokenizer maps every word to one sub-token, or to none.
    """
    texts = [golden.text for golden in manifest.golden] or tokenizer.samples()
    words, seen = set[str](), set[int]()
    for text, encoded in zip(texts, tokenizer.encode(texts), strict=True):
        words |= {word for word in text.split() if any(map(str.isalnum, word))}
        for first, start, end in zip(encoded.firsts, encoded.starts, encoded.ends, strict=True):
            if any(map(str.isalnum, text[start:end])):
                seen.add(int(encoded.ids[first]))
    if len(words) > 1 and len(seen) < 2:
        onto = f"its sub-token {tokenizer.token(seen.pop())!r}" if seen else "no sub-token"
        of = "the golden texts" if manifest.golden else "its own vocabulary"
        raise VersionRefused(
            f"{where}: {manifest.tokenizer} maps every word of {of} to {onto}; it is damaged or another "
            "model's, restore it or export the version again"
        )


def check_ensemble(where: str, ensemble: Manifest, models: Path) -> None:
    """Check that all members exist, can be combined, and are those that the ensemble was made with.

    Raises:
        VersionRefused: a member is missing, cannot be combined, or differs from the one of that time.
    """
    members = {member: _read_member(where, models, member) for member in ensemble.members}
    try:
        check_members(ensemble, [manifest for manifest, _ in members.values()])
    except VersionRefused as error:
        raise VersionRefused(f"{where}: {error.message}") from error
    for member, (_, sha256) in members.items():
        check_member_hash(where, ensemble, member, sha256)


def check_member_hash(where: str, ensemble: Manifest, member: str, found: str) -> None:
    """Check that a member is the one that the ensemble was made with, by the SHA-256 of its manifest.

    Raises:
        VersionRefused: it is another one.
    """
    meant = ensemble.member_hashes[member]
    if found != meant:
        raise VersionRefused(
            f"{where}: member {member} is not the one it was made with: sha256 of {MANIFEST} differs "
            f"(got {found[:8]}…, want {meant[:8]}…); restore it, or package the ensemble again under a "
            "new version"
        )


def _read_member(where: str, models: Path, member: str) -> tuple[Manifest, str]:
    """Return the manifest of a member, and the SHA-256 of its file."""
    folder = models / member
    if not folder.is_dir():
        raise VersionRefused(
            f"{where}: member {member} is not there; copy its folder to {folder}, then it is tried again"
        )
    try:
        content = manifest_bytes(folder)
        return parse_manifest(folder, content), hashlib.sha256(content).hexdigest()
    except VersionRefused as error:
        raise VersionRefused(f"{where}: member {error.message}") from error
