"""Single runs the server as one process."""

import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.server.process import drain, listen, log_address, make_app, uvicorn_config
from app.settings import Settings


class _Server(uvicorn.Server):
    """Answers that it is not ready from the first signal on, and exits with 0 after the last request."""

    def __init__(self, config: uvicorn.Config, app: FastAPI):
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # The base class would raise the signal again at the end, and so set the exit code to its number.
        drain(self._app, sig)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._app.state.metrics.workers.set(1)
        for sock in sockets or ():
            log_address(sock)


def run_single(settings: Settings, listening: socket.socket) -> int:
    """Serve in this process; return the exit code."""
    app = make_app(settings, impatient=True)
    server = _Server(uvicorn_config(app, settings), app)
    listen(listening, settings)
    server.run([listening])
    return 0 if server.started else 1
