"""Serving: memory adds up, more users read slower, errors."""

import pytest

from malmoi import presets
from malmoi.config import MalmoiError
from malmoi.plan.hardware import cluster
from malmoi.plan.memory import cache
from malmoi.plan.serving import serve, touched
from malmoi.plan.work import work_of

WORK, SPARSE = work_of(presets.llama31("8b"), "llama"), work_of(presets.gpt_oss("20b"), "gpt-oss-20b")


def test_memory_is_weights_and_caches():
    found = serve(WORK, cluster("H100"), 10, 4096)
    assert found["memory"]["weights"] == 2 * WORK.counted.total
    assert found["memory"]["kv_cache"] == 10 * cache(WORK, 4096) == 10 * 4096 * found["model"]["kv_bytes_per_token"]
    assert found["fits"]
    # one reader cannot be faster than the memory's bandwidth allows
    assert serve(WORK, cluster("H100"), 1, 4096)["speed"]["tokens_per_second"] < 3.35e12 / (2 * WORK.counted.active)


def test_more_users_read_slower_but_more_in_all():
    few, many = (serve(WORK, cluster("H100"), users, 2048)["speed"] for users in (1, 32))
    assert many["tokens_per_second_per_user"] < few["tokens_per_second_per_user"]
    assert many["tokens_per_second"] > few["tokens_per_second"]


def test_too_many_users_hear_how_many_devices_would_do():
    found = serve(WORK, cluster("RTX4090"), 200, 8192)
    assert not found["fits"] and "speed" not in found and str(found["devices_needed"]) in found["verdict"]
    assert serve(WORK, cluster(f"{found['devices_needed']}xRTX4090"), 200, 8192)["fits"]


def test_experts_are_read_when_somebody_needs_them():
    one, many = touched(SPARSE, 1), touched(SPARSE, 1000)
    assert one == pytest.approx(SPARSE.counted.active_without_input_embedding, rel=0.01)
    assert one < many < SPARSE.counted.total


@pytest.mark.parametrize(
    ("users", "context", "precision", "words"),
    [(0, 10, "bf16", "--users 0"), (1, 10**9, "bf16", "--context"), (1, 10, "int3", "--precision int3")],
)
def test_errors(users: int, context: int, precision: str, words: str):
    with pytest.raises(MalmoiError, match=words):
        serve(WORK, cluster("H100"), users, context, precision)
