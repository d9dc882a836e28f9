"""`nerve annotate` as a person runs it, in a process of its own."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.versions.rollout.store import DeploymentStore
from tests.app.bulk.corpora import NAMES, read_corpus, rejected, texts, write_corpus
from tests.servers import NERVE, environment, nerve
from tests.tiny import TEXT, write_tiny_version


def piped(models: Path, content: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [NERVE, "annotate", "-", "-o", "-", *arguments],
        env=environment(models),
        input=content,
        capture_output=True,
        check=False,
    )


def test_a_file_is_annotated_and_the_last_line_says_what_was_done(models_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(f'{json.dumps({"text": TEXT})}\n{{bad\n{{"text": "nothing"}}\n')
    done = nerve("annotate", str(source), "-o", str(output), models=models_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"nerve: {output}: 2 records, 3 entities, 1 set aside in {output}.rejected.jsonl (1 invalid_json); "
        "ner-en/1, "
    )
    assert last.endswith(" records a second")
    assert [len(record["entities"]) for record in read_corpus(output)] == [3, 0]
    assert rejected(output)[0]["line"] == 2


def test_from_standard_input_to_standard_output(models_dir: Path) -> None:
    of = texts(1_000)
    done = piped(models_dir, "".join(f"{text}\n" for text in of).encode(), "--format", "text")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == of


def test_compressed_both_ways_and_rejects_told(models_dir: Path) -> None:
    content = gzip.compress(b"id,text\n1,IBM\n2\n3,x\n")
    done = piped(models_dir, content, "--format", "csv.gz", "--output-format", "csv.gz")
    assert done.returncode == 0, done.stderr
    assert len(gzip.decompress(done.stdout).splitlines()) == 3
    assert b"nerve: -: line 3: 1 columns, and the header has 2; left out\n" in done.stderr
    assert b"nerve: -: 2 records, 1 entities, 1 left out (1 wrong_columns); ner-en/1, " in done.stderr


def test_a_reader_that_has_enough_ends_it_quietly(models_dir: Path, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.txt", texts(20_000))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", '"$0" annotate "$1" -o - | head -n 1', NERVE, source],
        env=environment(models_dir),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 141
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_the_version_is_the_stable_one_or_the_highest_or_the_named(
    models_dir: Path, tmp_path: Path
) -> None:
    write_tiny_version(models_dir, version=2, ibm="LOC")
    source = write_corpus(tmp_path / "in.txt", ["IBM"])

    def label(*arguments: str) -> Any:
        output = tmp_path / "out.jsonl"
        done = nerve("annotate", str(source), "-o", str(output), "--force", *arguments, models=models_dir)
        assert done.returncode == 0, done.stderr
        return read_corpus(output)[0]["entities"][0]["label"]

    assert label() == "LOC"
    DeploymentStore(models_dir / ".state").edit("ner-en", lambda deployment: deployment.with_stable(1))
    assert label() == "ORG"
    assert label("--version", "2", "--labels", "PER,LOC", "--labels", "ORG") == "LOC"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("in.txt", "-o", "out.jsonl", "--model", "nope"), "there is no model 'nope' (there: ner-en)"),
        (("in.txt", "-o", "out.jsonl", "--version", "9"), "ner-en has no version 9 (it has 1)"),
        (("in.txt", "-o", "out.jsonl", "--labels", "DOG"), "the model has no label 'DOG' (it has PER, ORG"),
        (("in.txt", "-o", "out.jsonl", "--models-dir", "none"), "there is no model 'ner-en' (there: none;"),
        (("-", "-o", "out.jsonl"), "-: standard input has no name to tell its format by; give --format"),
        (("-", "-o", "out.jsonl", "--format", "parquet"), "-: Parquet cannot be a stream; name a file"),
    ],
)
def test_what_cannot_be_done_is_a_message_and_no_traceback(
    models_dir: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    write_corpus(tmp_path / "in.txt", ["IBM"])
    done = subprocess.run(
        [NERVE, "annotate", *arguments],
        env=environment(models_dir),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("nerve: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_pyarrow_parquet_says_what_to_install(models_dir: Path, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.parquet", ["IBM"])
    program = "import sys; sys.modules['pyarrow'] = None; from app.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "annotate", source, "-o", tmp_path / "out.jsonl"],
        env=environment(models_dir),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "nerve: Parquet needs pyarrow, which is not installed; pip install 'nerve-ner[parquet]'\n"
    )


MEASURED = """
import atexit, re
from pathlib import Path
from app.cli.main import main
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
main()
"""


def peak(models: Path, source: Path, output: Path) -> int:
    """Largest resident memory, in bytes, of a process that annotates a corpus."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "annotate", source, "-o", output],
        env=environment(models),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_corpus(models_dir: Path, tmp_path: Path, form: str) -> None:
    import pyarrow
    import pyarrow.parquet

    peaks = []
    for count in (8_000, 20_000):
        of = [
            {"text": NAMES[n % len(NAMES)], "page": f"{n} " + os.urandom(3_500).hex()} for n in range(count)
        ]
        source, output = tmp_path / f"{count}.{form}", tmp_path / f"out{count}.{form}"
        if form == "jsonl":
            source.write_text("".join(json.dumps(record) + "\n" for record in of))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(of), source, row_group_size=1_000)
        peaks.append(peak(models_dir, source, output))
        assert output.stat().st_size > count * 3_500
    assert peaks[1] < peaks[0] + 40_000_000  # the second corpus is 84 MB larger
