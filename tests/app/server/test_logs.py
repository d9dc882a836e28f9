import json
import logging
import subprocess
import sys

from app.server.logs import JsonFormatter


def record(message: str, *values: object, **extra: object) -> logging.LogRecord:
    logger = logging.getLogger("nerve.test")
    return logger.makeRecord(logger.name, logging.INFO, "f", 1, message, values, None, extra=extra)


def test_a_line_is_one_json_object() -> None:
    line = JsonFormatter().format(record("hello %s\nand more", "you", status=200, model=None))
    assert "\n" not in line
    fields = json.loads(line)
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "info",
        "logger": "nerve.test",
        "message": "hello you\nand more",
        "status": 200,
        "model": None,
    }


def test_an_exception_is_a_field() -> None:
    made = record("failed")
    try:
        raise ValueError("why")
    except ValueError:
        made.exc_info = sys.exc_info()
    fields = json.loads(JsonFormatter().format(made))
    assert "ValueError: why" in fields["exception"]


def test_what_json_does_not_know_is_written_as_text() -> None:
    assert json.loads(JsonFormatter().format(record("x", value={1, 2}.__class__)))["value"]


def logged(style: str, level: str = "info") -> str:
    program = f"""
import logging
from app.server.logs import configure_logging
configure_logging({level!r}, {style!r})
logging.getLogger("nerve").info("ours %d", 1)
logging.getLogger("nerve").debug("detail")
logging.getLogger("uvicorn.error").warning("theirs")
logging.getLogger("uvicorn.error").info("chatter")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not run.stdout
    return run.stderr


def test_a_terminal_gets_one_line_each_on_standard_error() -> None:
    lines = logged("text").splitlines()
    assert [line.split(None, 2)[1:] for line in lines] == [["INFO", "ours 1"], ["WARNING", "theirs"]]


def test_machines_get_json() -> None:
    lines = [json.loads(line) for line in logged("json").splitlines()]
    assert [line["message"] for line in lines] == ["ours 1", "theirs"]


def test_the_level_is_the_least_severe_that_is_logged() -> None:
    assert "detail" in logged("text", "debug")
    assert logged("text", "error") == ""


def test_a_line_stays_one_line_whatever_is_logged() -> None:
    program = """
import logging
from app.server.logs import configure_logging
configure_logging("info", "text")
logging.getLogger("nerve").info("%s", "/a\\r\\n12:00:00 INFO forged\\x1b[2J")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(run.stderr.splitlines()) == 1
    assert "\x1b" not in run.stderr
