"""Bodies that cost their sender little, and would cost the server much."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.attack.harness import MB, Target
from tests.attack.raw import Answer, assert_ours, connect, head, post, read, read_from, reset, send

pytestmark = pytest.mark.attack

PROSE = "Angela Merkel visited IBM in New York, and nobody at the station had seen her before. "
MILLION = 1_000_000
LARGEST = 8 * 1024 * 1024
"""Bytes that a body may have by default."""


def filled(begin: str, unit: str, end: str) -> bytes:
    """JSON of the largest size, of one unit again and again."""
    times = (LARGEST - len(begin) - len(end)) // len(unit.encode())
    return (begin + (unit * times).removesuffix(",") + end).encode()


def numbered(begin: str, unit: str, end: str, count: int) -> bytes:
    """JSON with distinct units, in which `%d` is the number of each."""
    return (begin + ",".join([unit % number for number in range(count)]) + end).encode()


def of(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def prose(characters: int) -> str:
    return (PROSE * (characters // len(PROSE) + 1))[:characters]


HOSTILE: dict[str, tuple[Callable[[], bytes], set[int]]] = {
    # too much work
    "eight texts of a million characters": (lambda: of(texts=[prose(MILLION)] * 8), {413}),
    "eight texts of a million marks": (lambda: of(texts=["!" * MILLION] * 8), {413}),
    "eight texts of a million Han": (lambda: of(texts=["北" * (MILLION // 3)] * 8), {413}),
    "a thousand texts of eight thousand": (lambda: of(texts=[prose(8_000)] * 1_000), {413}),
    "a text over the limit": (lambda: of(text="a" * (LARGEST - 20)), {413}),
    "a text of combining marks": (lambda: of(text="\u0300" * 1_300_000), {413}),
    "a text of escapes": (lambda: filled('{"text":"', "\\u0041", '"}'), {413}),
    # arrays
    "an array of zeros": (lambda: filled('{"texts":[', "0,", "]}"), {413, 422}),
    "an array of nothing": (lambda: filled('{"texts":[', "null,", "]}"), {413, 422}),
    "an array of empty texts": (lambda: filled('{"texts":[', '"",', "]}"), {413}),
    "an array of arrays": (lambda: filled('{"texts":[', "[],", "]}"), {413, 422}),
    "an array of objects": (lambda: filled('{"texts":[', "{},", "]}"), {413, 422}),
    "a thousand zeros": (lambda: of(texts=[0] * 1_000), {413, 422}),
    "an array for a text": (lambda: filled('{"text":[', "0,", "]}"), {413, 422}),
    "no object": (lambda: filled("[", "0,", "]"), {413, 422}),
    # fields
    "unknown fields": (lambda: numbered('{"text":"a",', '"%d":0', "}", 700_000), {413, 422}),
    "an unknown field of eight megabytes": (lambda: filled('{"text":"a","', "x", '":1}'), {413, 422}),
    "one field again and again": (lambda: filled("{", '"text":"a",', "}"), {200, 400, 413, 422}),
    "a value below an unknown field": (lambda: filled('{"text":"a","x":[', "[0],", "]}"), {413, 422}),
    "labels": (lambda: filled('{"text":"IBM","labels":[', '"PER",', "]}"), {413, 422}),
    "other labels": (
        lambda: numbered('{"text":"IBM","labels":[', '"%d"', "]}", 800_000),
        {413, 422},
    ),
    "labels of zeros": (lambda: filled('{"text":"IBM","labels":[', "0,", "]}"), {413, 422}),
    "a label of eight megabytes": (lambda: filled('{"text":"IBM","labels":["', "x", '"]}'), {413, 422}),
    "a model of eight megabytes": (lambda: filled('{"text":"IBM","model":"', "x", '"}'), {404, 413, 422}),
    "a unit of eight megabytes": (lambda: filled('{"text":"IBM","offset_unit":"', "x", '"}'), {413, 422}),
    # numbers
    "a version of millions of digits": (
        lambda: filled('{"text":"IBM","version":', "9", "}"),
        {400, 413, 422},
    ),
    "a version of a thousand digits": (
        lambda: b'{"text":"IBM","version":%s}' % (b"9" * 1000),
        {400, 404, 413, 422},
    ),
    "a score of millions of digits": (
        lambda: filled('{"text":"IBM","min_score":0.', "1", "}"),
        {200, 400, 413, 422},
    ),
    "a score without end": (lambda: b'{"text":"IBM","min_score":1e999999999}', {400, 413, 422}),
    "a score that is no number": (lambda: b'{"text":"IBM","min_score":NaN}', {400, 413, 422}),
    # what is no JSON
    "brackets": (lambda: b"[" * LARGEST, {400, 413, 422}),
    "objects in objects": (lambda: filled("", '{"a":', ""), {400, 413, 422}),
    "brackets below a field": (lambda: filled('{"text":"a","x":', "[", ""), {400, 413, 422}),
    "halves of surrogates": (lambda: filled('{"text":"', "\\ud800", '"}'), {400, 413, 422}),
    "a half after a million characters": (
        lambda: b'{"text":"' + b"a" * 900_000 + b'\\udfff"}',
        {400, 413, 422},
    ),
    "blanks": (lambda: b" " * LARGEST, {400, 413, 422}),
    "backslashes": (lambda: b'{"text":"' + b"\\" * (LARGEST - 20), {400, 413, 422}),
    "no UTF-8": (lambda: b'{"text":"' + b"\xff" * (LARGEST - 20) + b'"}', {400, 413, 422}),
    "no UTF-8 at the end": (lambda: b'{"text":"' + b"a" * (LARGEST - 20) + b'\xc3"}', {400, 413, 422}),
    "zeros": (lambda: bytes(LARGEST), {400, 413, 422}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_body_holds_up_nobody_and_is_refused_in_a_word(real: Target, what: str) -> None:
    make, statuses = HOSTILE[what]
    request = post("/ner", make())
    started = time.monotonic()
    answer = real.withstands(lambda: send(real.server, request))
    seconds = time.monotonic() - started
    if answer.status != 200 or 200 not in statuses:
        assert_ours(answer, *statuses)
    assert seconds < 30, f"it was answered after {seconds:.1f} s; what is refused is refused at once"


PLAIN: dict[str, tuple[bytes, set[int]]] = {
    "no UTF-8": (b"\xff" * LARGEST, {400, 413}),
    "zeros": (bytes(LARGEST), {413}),
    "combining marks": ("\u0301".encode() * (LARGEST // 2), {413}),
    "eight million marks": (b"!" * LARGEST, {413}),
}


@pytest.mark.parametrize("what", PLAIN)
def test_a_plain_body_holds_up_nobody(real: Target, what: str) -> None:
    body, statuses = PLAIN[what]
    request = head("POST", "/ner", "Content-Type: text/plain", f"Content-Length: {len(body)}") + body
    assert_ours(real.withstands(lambda: send(real.server, request)), *statuses)


def test_nobody_can_allow_himself_more_time_than_the_operator(real: Target) -> None:
    """A million marks are more than a minute's work on two cores, and all of it is asked for."""
    request = post("/ner", of(text="!" * MILLION), "X-Request-Timeout-Ms: 999999999")
    started = time.monotonic()
    answer = real.withstands(lambda: send(real.server, request, timeout=90))
    seconds = time.monotonic() - started
    assert answer.status in (200, 413, 429), answer
    assert answer.status == 200 or seconds < 40, f"it was refused only after {seconds:.1f} s"
    assert seconds < 70, f"it had {seconds:.0f} s, and the operator allows 60"
    assert int(answer.headers.get("retry-after", "0")) <= 120, answer.headers


@pytest.mark.parametrize("unit", [PROSE, "!", "IBM, "], ids=["prose", "marks", "names"])
def test_many_large_texts_take_no_room_of_small_ones(real: Target, unit: str) -> None:
    """Each is within the limits, and together they are hours of work; all hang up after a while."""
    request = post("/ner", of(text=(unit * MILLION)[:990_000]))

    def attack() -> list[int]:
        socks = [connect(real.server) for _ in range(8)]
        statuses: list[int] = []
        end = time.monotonic() + 2.5

        def ask(place: int) -> None:
            while time.monotonic() < end:
                with suppress(OSError):
                    socks[place].sendall(request)
                    socks[place].settimeout(max(0.01, end - time.monotonic()))
                    statuses.append(read(socks[place]).status)

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(socks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for sock in socks:
            reset(sock)
        return statuses

    statuses = real.withstands(attack, memory=600 * MB)
    assert set(statuses) <= {0, 200, 413, 429}, statuses


def test_large_requests_that_are_refused_leave_nothing(real: Target) -> None:
    """What is kept of each is several megabytes, for as long as anything refers to it."""
    body = json.dumps({"text": "🗼 " * 490_000}, ensure_ascii=False).encode()
    request = post("/ner", body)

    def attack() -> list[int]:
        return [send(real.server, request).status for _ in range(120)]

    assert set(real.withstands(attack, memory=300 * MB)) <= {413, 429}


def test_an_answer_with_very_many_entities_gives_others_their_turn(tiny: Target) -> None:
    texts = ["IBM " * 100_000, "IBM " * 100_000]
    request = post("/ner", of(texts=texts, labels=["PER", "ORG"], offset_unit="byte"))
    answer = tiny.withstands(lambda: send(tiny.server, request, timeout=60), memory=500 * MB)
    assert answer.status in (200, 413), answer.body[:300]
    if answer.status == 200:
        assert [len(result["entities"]) for result in answer.json()["results"]] == [100_000] * 2


def test_a_compressed_body_is_not_unpacked(real: Target) -> None:
    body = gzip.compress(of(text="a" * 100 * MB), 1)
    for coding in ("gzip", "deflate", "br", "zstd", "gzip, gzip", "x-gzip"):
        request = post("/ner", body, f"Content-Encoding: {coding}")
        assert_ours(real.withstands(lambda r=request: send(real.server, r), memory=50 * MB), 415)
    request = head("POST", "/ner", "Content-Type: application/json", "Transfer-Encoding: gzip, chunked")
    answer = real.withstands(lambda: send(real.server, [request, b"0\r\n\r\n"]), memory=50 * MB)
    assert answer.status in (0, 400, 415, 501), answer


def chunked(*lines: str) -> bytes:
    return head("POST", "/ner", "Content-Type: application/json", "Transfer-Encoding: chunked", *lines)


def test_a_body_in_single_bytes_holds_up_nobody(real: Target) -> None:
    body = of(text="a" * 200_000)
    pieces = [chunked(), *(b"1\r\n%c\r\n" % byte for byte in body), b"0\r\n\r\n"]
    request = b"".join(pieces)
    answer = real.withstands(lambda: send(real.server, request, timeout=60))
    assert answer.status in (200, 413), answer.body[:300]


def test_an_endless_chunk_extension_is_cut_off(real: Target) -> None:
    def endless() -> Iterator[bytes]:
        yield chunked() + b"1;x="
        for _ in range(30):
            yield b"a" * MB

    answer = real.withstands(lambda: send(real.server, endless(), timeout=60), memory=60 * MB)
    assert answer.status in (0, 400, 413, 431), answer


def test_endless_trailers_are_cut_off(real: Target) -> None:
    """What follows a body's last chunk are headers too."""

    def endless() -> Iterator[bytes]:
        yield chunked() + b"2\r\n{}\r\n0\r\n"
        for number in range(200_000):
            yield b"X-%d: %s\r\n" % (number, b"a" * 100)

    answer = real.withstands(lambda: send(real.server, [b"".join(endless())]), memory=60 * MB)
    assert answer.status in (0, 400, 413, 422, 431), answer


LENGTHS: dict[str, list[str]] = {
    "two lengths": ["Content-Length: 15", "Content-Length: 16"],
    "a list of lengths": ["Content-Length: 15, 16"],
    "a length below zero": ["Content-Length: -1"],
    "a length with a sign": ["Content-Length: +15"],
    "a length in words": ["Content-Length: fifteen"],
    "a length in hexadecimal": ["Content-Length: 0xf"],
    "a length of a thousand digits": ["Content-Length: " + "9" * 1000],
    "a length beyond 64 bits": ["Content-Length: 18446744073709551631"],
    "a length and chunks": ["Content-Length: 15", "Transfer-Encoding: chunked"],
    "chunks and a length": ["Transfer-Encoding: chunked", "Content-Length: 15"],
    "chunks that are not last": ["Transfer-Encoding: chunked, identity"],
    "chunks twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "a name with a blank": ["Content-Length : 15"],
    "chunks with a tab": ["Transfer-Encoding:\tchunked", "Content-Length: 15"],
}


@pytest.mark.parametrize("what", LENGTHS)
def test_a_body_whose_length_is_a_lie_smuggles_no_second_request(real: Target, what: str) -> None:
    """The server may take it for one request or refuse it, but a proxy before it must not take it for
    another one than the server does."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    kind = "Content-Type: application/json"
    request = head("POST", "/ner", kind, *LENGTHS[what]) + b'{"text": "IBM"}' + smuggled

    def attack() -> list[Answer]:
        with connect(real.server, 5) as sock, sock.makefile("rb") as file:
            sock.sendall(request)
            answers = []
            with suppress(TimeoutError):
                while (answer := read_from(file)).status:
                    answers.append(answer)
            return answers

    answers = real.withstands(attack, memory=50 * MB)
    assert answers, "no answer came"
    assert [answer.status for answer in answers] == [400], answers
    assert_ours(answers[0], 400)


def test_a_body_that_ends_early_is_the_end_of_its_request(real: Target) -> None:
    request = post("/ner", of(text="a" * 1000))[:-500]

    def attack() -> None:
        for number in range(200):
            sock = connect(real.server)
            sock.sendall(request)
            reset(sock) if number % 2 else sock.close()

    real.withstands(attack, memory=50 * MB)
