"""Confinement: what a crafted file could do with the process that loads it first."""

import ctypes
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, socket, subprocess, sys
import app.versions.loading.sandbox  # all that is imported before a version is loaded
from app.versions.loading.confinement import confine
folder, server = sys.argv[1], os.getppid()
confine(2**30, 100, False)

def write():
    with open(f"{folder}/new", "w") as file:
        file.write("x")

tries = {
    "write": write,
    "memory": lambda: bytearray(2**30),
    "remove": lambda: os.unlink(f"{folder}/there"),
    "program": lambda: subprocess.run(["/bin/true"]),
    "signal": lambda: os.kill(server, 0),
    "connect": lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), 5),
}
with open(f"{folder}/there") as file:
    assert file.read() == "there"
for name, call in tries.items():
    try:
        call()
    except (OSError, MemoryError):
        print(name, flush=True)
"""


def landlock() -> int:
    """The version of Landlock that this system has; below 1 if it has none."""
    if sys.platform != "linux":
        return 0
    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))


def test_a_confined_process_reads_and_can_do_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("there")
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(server.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused = set(done.stdout.split())
    assert not (tmp_path / "new").exists() or (tmp_path / "new").read_text() == ""
    assert refused >= {"write", "memory"}
    if landlock() >= 6:
        assert refused >= {"write", "memory", "remove", "program", "signal", "connect"}
    assert (tmp_path / "there").exists() == ("remove" in refused)


@pytest.mark.skipif(landlock() < 1, reason="this system has no Landlock")
def test_with_a_gpu_its_devices_may_be_written_and_no_other_file(tmp_path: Path) -> None:
    program = (
        "import sys; from app.versions.loading.confinement import confine; confine(0, 100, True)\n"
        "open('/dev/null', 'w').write('x')\n"
        "try: open(sys.argv[1], 'w')\n"
        "except PermissionError: print('refused')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "new")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "refused\n"
