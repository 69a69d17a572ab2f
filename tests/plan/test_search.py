"""The search: its winner fits, divides and wins; losers have reasons; a cluster too small hears how many would do."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi import presets
from malmoi.config import MalmoiError
from malmoi.plan.hardware import cluster
from malmoi.plan.layout import Training, check
from malmoi.plan.memory import memory
from malmoi.plan.search import devices_needed, room, search
from malmoi.plan.work import work_of

SMALL, LARGE, SPARSE = (work_of(presets.preset(name), name) for name in ("gpt2", "llama3.1-70b", "gpt-oss-20b"))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([SMALL, LARGE, SPARSE]), st.sampled_from(["RTX4090", "A100-80GB", "H100-80GB"]),
    st.sampled_from([1, 2, 6, 8, 16, 24]), st.sampled_from([8, 48, 96]), st.sampled_from(["fastest", "smallest"]),
    st.sampled_from([0, 16]),
)  # fmt: skip
def test_the_search_never_returns_a_layout_that_does_not_fit(work, name, count, rows, goal, rank):
    machine, training = cluster(f"{count}x{name}"), Training(rows, 1024, lora_rank=rank)
    try:
        found = search(work, machine, training, goal)
    except MalmoiError as error:
        assert "would" in str(error)
        return
    for each in (found.winner, *(other for other, _ in found.runners_up)):
        check(each.layout, work, training)
        assert memory(work, each.layout, training).peak <= room(machine)
        assert each.layout.devices <= machine.count


def test_goals_differ():
    machine, training = cluster("64xH100"), Training(512, 1024)
    goals = ("fastest", "cheapest", "smallest")
    fastest, cheapest, smallest = (search(SMALL, machine, training, goal) for goal in goals)
    assert fastest.winner.layout.devices == 64
    assert smallest.winner.layout.devices == 1
    assert cheapest.winner.device_seconds <= min(fastest.winner.device_seconds, smallest.winner.device_seconds)
    assert fastest.winner.step.total < smallest.winner.step.total
    for other, reason in fastest.runners_up:
        assert other.step.total >= fastest.winner.step.total and "loses" in reason and reason.startswith("+")


def test_more_devices_than_can_share_the_batch():
    with pytest.raises(MalmoiError, match=r"No layout deals 400 rows .* out to 100000 x H100.*--batch"):
        search(SMALL, cluster("100000xH100"), Training(400, 1024))


def test_a_cluster_too_small_hears_how_many_would_do():
    machine, training = cluster("8xA100-80GB"), Training(64, 2048)
    with pytest.raises(MalmoiError, match=r"does not fit on 8 x A100-80GB.*about (\d+) of them would do"):
        search(LARGE, machine, training)
    needed = devices_needed(LARGE, machine, training)
    assert needed
    larger = cluster(f"{needed}xA100-80GB")
    assert search(LARGE, larger, replace(training, batch=needed)).winner.peak <= room(larger)
