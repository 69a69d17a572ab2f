"""Errors: one shape, the right type, no insides."""

import logging

import pytest

from malmoi.config import MalmoiError
from malmoi.serve.errors import ApiError, of_fields, told


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_the_type_follows_the_status(status, kind):
    error = ApiError(status, "no", "field", "code").body()["error"]
    assert error == {"message": "no", "type": kind, "param": "field", "code": "code"}


def test_a_persons_mistake_is_a_400_and_a_fault_says_nothing_of_itself(caplog):
    assert told(MalmoiError("too long")).status == 400
    with caplog.at_level(logging.ERROR, "malmoi.serve"):
        fault = told(RuntimeError("/secret/path"))
    assert fault.status == 500 and "secret" not in fault.message and "secret" in caplog.text


def test_the_first_wrong_field_is_named_with_the_nearest_known():
    error = of_fields([{"type": "extra_forbidden", "loc": ("body", "tempreature"), "msg": ""}], ["temperature"])
    assert error.param == "tempreature" and "temperature" in error.message
    assert of_fields([{"type": "missing", "loc": ("body", "messages"), "msg": ""}]).code == "missing_required_parameter"


def test_retry_after_is_a_header():
    answer = ApiError(429, "busy", retry_after=7).response()
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
