"""Networks of tiny versions, opened without the loader's checks."""

from pathlib import Path
from typing import Any

from app.engine.model import Network
from app.engine.runtimes.runtime import Running, Session
from app.engine.runtimes.session import CPU, OnnxSession
from app.engine.text.tokenizer import Tokenizer
from app.manifest import read_manifest


def running_on(
    session: Session, runs: int = 1, single: Session | None = None, max_batch_tokens: int = 8_192
) -> Running:
    """A session as the CPU runs it."""
    return Running(session, single or session, runs, CPU, runs, max_batch_tokens)


def open_network(
    folder: Path,
    runs: int = 1,
    max_batch_tokens: int = 8_192,
    tokenizer: Tokenizer | None = None,
    **options: Any,
) -> Network:
    """The network of a version's folder.

    Args:
        options: further arguments of `Network`.
    """
    manifest = read_manifest(folder)
    tokenizer = tokenizer or Tokenizer.from_file(folder / "tokenizer.json", manifest.words)
    session = OnnxSession(folder / "model.fp32.onnx", threads=1)
    running = running_on(session, runs, max_batch_tokens=max_batch_tokens)
    return Network(manifest, tokenizer, running, **options)
