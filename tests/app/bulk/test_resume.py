"""A run that is killed, stopped or begun otherwise: real processes, real signals."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.bulk.errors import BulkError, JournalDiffers, OutputExists
from app.bulk.groups import GROUP_TEXTS
from app.bulk.journal import Journal
from app.bulk.outputs import OutputFiles
from app.bulk.run import annotate
from tests.app.bulk.corpora import job, read_corpus, rejected, texts, write_corpus
from tests.servers import NERVE, environment, until

COUNT = 20_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return texts(COUNT)


def command(source: str | Path, output: Path, *more: str) -> Sequence[str | Path]:
    return (NERVE, "annotate", source, "-o", output, "--checkpoint-seconds", "0.05", *more)


@contextmanager
def running(
    models: Path, source: str | Path, output: Path, *more: str, stdin: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`nerve annotate` on its way, with at least one checkpoint made and some more done."""
    with (stdin or Path(os.devnull)).open("rb") as read:
        process = subprocess.Popen(
            command(source, output, *more),
            env=environment(models),
            stdin=read,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until(lambda: process.poll() is not None or (records(output) or 0) > 0)
            assert process.poll() is None, process.stderr and process.stderr.read()
            first = records(output) or 0
            until(lambda: process.poll() is not None or (records(output) or 0) > first)
            yield process
        finally:
            process.kill()
            process.communicate()


def records(output: Path) -> int | None:
    """How many the journal has; None where there is none."""
    try:
        found: int = json.loads(OutputFiles(output).journal.read_text())["records"]
    except FileNotFoundError:
        return None
    return found


def go_on(models: Path, source: str | Path, output: Path, *more: str, **changes: Any) -> str:
    done = subprocess.run(
        command(source, output, *more),
        env=environment(models),
        stderr=subprocess.PIPE,
        check=False,
        **changes,
    )
    said = str(done.stderr, "utf-8")
    assert done.returncode == 0, said
    return said


def with_bad_lines(path: Path, every: int = 1_000) -> None:
    """Put what is no record among the lines."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        b"".join(b"{bad\n" + line if at % every == 3 else line for at, line in enumerate(lines))
    )


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("in.jsonl", "out.jsonl"),
        ("in.txt.gz", "out.jsonl.gz"),
        ("in.csv", "out.csv"),
        ("in.parquet", "out.parquet"),
    ],
)
def test_after_kills_nothing_is_lost_or_doubled(
    models_dir: Path, tmp_path: Path, corpus: list[str], source: str, output: str
) -> None:
    read, written, whole = (write_corpus(tmp_path / source, corpus), tmp_path / output, tmp_path / "whole")
    if source == "in.jsonl":
        with_bad_lines(read)
    whole.mkdir()
    annotate(job(models_dir, read, whole / output))
    done = []
    for _ in range(2):
        with running(models_dir, read, written) as process:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        done.append(records(written) or 0)
        assert not written.exists()
    assert 0 < done[0] < done[1] < COUNT
    said = go_on(models_dir, read, written)
    assert f"{COUNT:,} records" in said
    if written.suffix in (".jsonl", ".csv"):
        assert written.read_bytes() == (whole / output).read_bytes()
    assert read_corpus(written) == read_corpus(whole / output)
    assert [record["text"] for record in read_corpus(written)] == corpus
    if source == "in.jsonl":
        assert rejected(written) == rejected(whole / output)
        assert len(rejected(written)) == COUNT // 1_000
    left = {path.name for path in tmp_path.iterdir()} - {"models", "whole", source, output}
    assert left == ({"out.jsonl.rejected.jsonl"} if source == "in.jsonl" else set())


def test_standard_input_goes_on_where_it_was(models_dir: Path, tmp_path: Path, corpus: list[str]) -> None:
    read, output = write_corpus(tmp_path / "in.txt", corpus), tmp_path / "out.jsonl"
    with running(models_dir, "-", output, "--format", "text", stdin=read) as process:
        process.kill()
    other = write_corpus(tmp_path / "other.txt", ["another text", *corpus])
    with other.open() as stdin:
        refused = subprocess.run(
            command("-", output, "--format", "text"),
            env=environment(models_dir),
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
    assert refused.returncode == 1
    assert "-: begins otherwise than what was annotated before" in refused.stderr
    with read.open() as stdin:
        go_on(models_dir, "-", output, "--format", "text", stdin=stdin)
    assert [record["text"] for record in read_corpus(output)] == corpus


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_makes_safe_what_is_done(
    models_dir: Path, tmp_path: Path, corpus: list[str], number: signal.Signals
) -> None:
    read, output = write_corpus(tmp_path / "in.jsonl", corpus), tmp_path / "out.jsonl"
    with running(models_dir, read, output, "--checkpoint-seconds", "0.5") as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        done = records(output) or 0
        assert f"nerve: stopped by {number.name} after {done:,} records; the same command goes on" in said
    lines = OutputFiles(output).part.read_bytes().splitlines()
    assert len(lines) == done
    go_on(models_dir, read, output)
    assert [record["text"] for record in read_corpus(output)] == corpus


def test_a_signal_ends_a_wait_for_more_input(models_dir: Path) -> None:
    process = subprocess.Popen(
        [NERVE, "annotate", "-", "--format", "text", "-o", "-"],
        env=environment(models_dir),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"IBM\n" * GROUP_TEXTS * 5)
    process.stdin.flush()
    assert b"IBM" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (143, b"nerve: stopped by SIGTERM\n")


def test_what_was_begun_otherwise_is_told_and_may_be_thrown_away(
    models_dir: Path, tmp_path: Path, corpus: list[str]
) -> None:
    read, output = write_corpus(tmp_path / "in.jsonl", corpus), tmp_path / "out.jsonl"
    with running(models_dir, read, output) as process:
        process.kill()
    with pytest.raises(JournalDiffers, match="max_text_chars was 1000000 and is 10000"):
        annotate(job(models_dir, read, output))
    write_corpus(read, ["IBM"])
    with pytest.raises(JournalDiffers, match=r"input\.size was .* input\.sha256_of_head was"):
        annotate(job(models_dir, read, output, max_text_chars=1_000_000))
    annotate(job(models_dir, read, output, restart=True))
    assert [record["text"] for record in read_corpus(output)] == ["IBM"]


def test_one_output_is_written_by_one_process(models_dir: Path, tmp_path: Path, corpus: list[str]) -> None:
    read, output = write_corpus(tmp_path / "in.jsonl", corpus), tmp_path / "out.jsonl"
    with running(models_dir, read, output) as process:
        with pytest.raises(BulkError, match=r"out\.jsonl: another nerve annotate is writing it"):
            annotate(job(models_dir, read, output))
        assert process.wait(60) == 0
    assert len(read_corpus(output)) == COUNT


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_kill_among_the_last_renames_leaves_them_to_the_next(
    models_dir: Path, tmp_path: Path, renamed: int
) -> None:
    read, output = write_corpus(tmp_path / "in.jsonl", ["IBM", "x"]), tmp_path / "out.jsonl"
    with_bad_lines(read, every=4)
    wanted = job(models_dir, read, output)
    read.write_text("{bad\n" + read.read_text())
    annotate(wanted)
    files, content = OutputFiles(output), output.read_bytes()
    ended = Journal(
        setup=wanted.setup(),
        number=3,
        offset=read.stat().st_size,
        records=2,
        entities=1,
        output=len(content),
        rejects=files.rejected.stat().st_size,
        rejected={"invalid_json": 1},
        finished=True,
    )
    ended.write(files.journal)
    if renamed < 1:
        files.rejected.rename(files.rejected_part)
    if renamed < 2:
        output.rename(files.part)
    said = annotate(wanted)
    assert f"2 records, 1 entities, 1 set aside in {files.rejected} (1 invalid_json)" in said
    assert output.read_bytes() == content
    assert len(rejected(output)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {
        *("models", "in.jsonl", "out.jsonl", "out.jsonl.rejected.jsonl"),
    }
    with pytest.raises(OutputExists):
        annotate(wanted)
