"""Room: bounds what all requests of a process hold together, of memory or of disk."""

from types import TracebackType


class Room:
    """Counts how many bytes are free for the requests of one event loop.

    Args:
        size: most bytes that they may hold together.
    """

    __slots__ = ("free", "size")

    def __init__(self, size: int):
        self.size = self.free = size


class Share:
    """The bytes of a room that one request holds; they are given back at the end: `with Share(room)`."""

    __slots__ = ("_room", "size")

    def __init__(self, room: Room):
        self._room = room
        self.size = 0

    def __enter__(self) -> "Share":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resize(0)

    def resize(self, size: int) -> bool:
        """Hold `size` bytes from now on; return False, and change nothing, if there is no room for them."""
        more = size - self.size
        if more > self._room.free:
            return False
        self._room.free -= more
        self.size = size
        return True
