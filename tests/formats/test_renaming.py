"""Views of ours in their layout: copying out writes, copying in reads, and the two undo each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.formats import families
from malmoi.formats.renaming import Rename, places
from small_models import build


@pytest.mark.parametrize("kind", ["modern", "gpt2", "experts", "untied"])
def test_tensors_survive_the_journey(kind):
    model = build(kind)
    family = families.family_of(model.config)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    back = {name: torch.full_like(tensor, torch.nan) for name, tensor in state.items()}
    theirs = families.to_tensors(family, state, 2)
    for place in places(family.tensors, back, 2):
        for index, view in place.views(back):
            view.copy_(theirs[place.theirs][index])
    assert all(torch.equal(back[name], state[name]) for name in state)


@settings(max_examples=60, deadline=None)
@given(
    layout=st.fixed_dictionaries(
        {"transposed": st.booleans(), "interleaved": st.booleans(), "stacked": st.booleans()},
    ),
    parts=st.integers(1, 3),
    size=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5)),
)
def test_every_layout_reads_back_what_it_writes(layout, parts, size):
    shape = size if layout["stacked"] else size[1:]
    names = tuple(f"our{j}" for j in range(parts))
    ours = {name: torch.randn(shape) for name in names}
    back = {name: torch.empty(shape) for name in names}
    (place,) = places((Rename("their", names, **layout),), ours, 1)
    whole = place.whole(ours)
    for index, view in place.views(back):
        view.copy_(whole[index])
    assert all(torch.equal(back[name], ours[name]) for name in names)
    assert whole.numel() == sum(tensor.numel() for tensor in ours.values())


def test_gate_and_up_take_turns():
    ours = {"gate": torch.tensor([[[1.0], [2.0]]]), "up": torch.tensor([[[10.0], [20.0]]])}  # (E=1, M=2, D=1)
    rule = Rename("both", ("gate", "up"), transposed=True, interleaved=True, stacked=True)
    (place,) = places((rule,), ours, 1)
    assert place.whole(ours).tolist() == [[[1.0, 10.0, 2.0, 20.0]]]


def test_an_expert_each():
    ours = {"model.layers.0.e": torch.arange(6.0).view(3, 2)}
    found = list(places((Rename("h.{i}.{e}", ("model.layers.{i}.e",)),), ours, 1))
    assert [place.theirs for place in found] == ["h.0.0", "h.0.1", "h.0.2"]
    assert found[1].whole(ours).tolist() == [2.0, 3.0]


def test_what_no_rule_names_keeps_its_name_and_what_is_not_there_is_left_out():
    ours = {"a": torch.ones(1), "b": torch.ones(1)}
    found = list(places((Rename("their.a", ("a",)), Rename("their.c", ("a", "c"))), ours, 1))
    assert [(place.theirs, place.ours) for place in found] == [("their.a", ("a",)), ("b", ("b",))]
