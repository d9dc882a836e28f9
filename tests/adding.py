"""Versions that are added: from folders, archives and a server, with the checks of `nerve models add`."""

import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from app.manifest import MANIFEST, Manifest
from app.versions.loading.options import LoadOptions
from app.versions.loading.sandbox import new_version_check
from app.versions.storage.adding import INCOMING, add_version
from app.versions.storage.repository import Repository

ONE_THREAD = LoadOptions(threads=1)


LISTED = {MANIFEST, "model.fp32.onnx", "tokenizer.json"}


def added(source: str, models: Path, options: LoadOptions) -> Manifest:
    """Add a version that passes the checks which `nerve models add` makes."""
    return add_version(source, models, new_version_check(options, models))


def pack(folder: Path, archive: Path, top: str) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=top)
    return archive


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_nothing_left(models: Path) -> None:
    """No version, and no staging folder."""
    assert Repository(models).names() == []
    assert names(models / INCOMING) <= {".lock"}


class Files(SimpleHTTPRequestHandler):
    """The files of a folder."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def http(handler: "type[BaseHTTPRequestHandler] | partial[Files]") -> Iterator[str]:
    """A server on a free port of the loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
