import json

import pytest

from app.api.failures import error_response, failure_of
from app.errors import Busy, NerveError, TooLarge, Unprocessable


@pytest.mark.parametrize(
    ("error", "status"), [(TooLarge("big"), 413), (Unprocessable("what"), 422), (NerveError("a bug"), 500)]
)
def test_an_error_is_told_with_its_status_code_and_request(error: NerveError, status: int) -> None:
    response = error_response(failure_of(error, "my-id"))
    assert response.status_code == status
    assert json.loads(response.body) == {"error": error.message, "code": error.code, "request_id": "my-id"}
    assert "retry-after" not in response.headers


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.2345, "2")])
def test_who_may_come_again_is_told_when(seconds: float, header: str) -> None:
    response = error_response(failure_of(Busy("full", seconds), "my-id"))
    assert response.status_code == 429
    assert response.headers["retry-after"] == header
    assert json.loads(response.body)["retry_after"] == round(seconds, 3)


def test_only_who_is_refused_for_the_deadline_is_told_how_to_allow_more_time() -> None:
    late = failure_of(Busy("come again later, or allow more time", 1, late=True), "my-id")
    assert late.message.endswith("allow more time (X-Request-Timeout-Ms, NERVE_REQUEST_TIMEOUT)")
    assert "X-Request-Timeout-Ms" not in failure_of(Busy("come again later", 1), "my-id").message
