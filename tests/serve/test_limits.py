"""Schemas are weighed before they are compiled."""

import pytest

from malmoi.serve import limits
from malmoi.serve.errors import ApiError


def test_a_usual_schema_passes():
    schema = {"type": "object", "properties": {name: {"type": "string", "maxLength": 80} for name in "abcdefgh"}}
    limits.require_schema(schema, "tools")


@pytest.mark.parametrize("name", ["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"])
def test_a_number_that_is_unrolled_is_bounded(name):
    with pytest.raises(ApiError, match=name):
        limits.require_schema({"items": [{name: limits.SCHEMA_REPEATS + 1}]}, "tools")


def test_depth_and_size_are_bounded_without_recursion():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ApiError, match="deeper"):
        limits.require_schema(deep, "tools")
    while deep:
        deep = deep[0]  # so that taking it apart recurses neither
    with pytest.raises(ApiError, match="more than"):
        limits.require_schema([[] for _ in range(limits.SCHEMA_NODES)], "tools")


def test_a_heartbeat_comes_before_a_stream_is_given_up():
    assert limits.HEARTBEAT_SECONDS < limits.SEND_SECONDS < limits.REQUEST_SECONDS


def test_one_key_leaves_places_for_others():
    assert limits.PER_KEY < limits.RUNNING + limits.WAITING
