import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from app.api.dialects.native_schemas import NerRequest
from app.api.requests import parse_json, read_timeout
from app.errors import BadRequest
from tests.texts import texts


@given(text=texts, data=st.data())
def test_a_body_that_is_not_utf8_says_so_wherever_that_is(text: str, data: st.DataObject) -> None:
    fields = '"labels": ["PER"], "text": "first", "text": '
    body = f"{{{fields}{json.dumps(text, ensure_ascii=False)}}}".encode()
    assert parse_json(NerRequest, body).text == text
    wrong = data.draw(
        st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\x80", b"\xf4\x90\x80\x80"])
    )
    at = data.draw(st.integers(0, len(body)))
    with pytest.raises(BadRequest) as raised:
        parse_json(NerRequest, body[:at] + wrong + body[at:])
    assert raised.value.code == "invalid_utf8"


@pytest.mark.parametrize(
    ("given", "limit", "seconds"),
    [
        (None, 60.0, 60.0),
        (None, 0.0, None),
        ("500", 60.0, 0.5),
        ("999999999", 60.0, 60.0),  # a caller may shorten the operator's limit, never lengthen it
        ("999999999", 0.0, 999_999.999),
        ("000000001", 60.0, 0.001),
    ],
)
def test_the_time_of_a_request(given: str | None, limit: float, seconds: float | None) -> None:
    headers = [] if given is None else [(b"x-request-timeout-ms", given.encode())]
    assert read_timeout(Request({"type": "http", "headers": headers}), limit) == seconds
