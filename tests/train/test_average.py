"""The average follows the weights, is put in place and taken out without a trace, and travels with the state."""

import pytest
import torch
from tiny_run import tiny_model

from malmoi.config import MalmoiError, TrainConfig
from malmoi.train.average import Average
from malmoi.train.optimizer import build


def moved(model, by=0.5):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


def test_it_is_the_moving_average_by_hand():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    average = Average([weight], decay=0.5)
    by_hand = weight.detach().clone()
    for number in range(1, 8):
        with torch.no_grad():
            weight.add_(float(number))
        if number == 1:
            by_hand = weight.detach().clone()  # begins where it is first asked
        average.step()
        keep = min(0.5, (1 + number) / (10 + number))
        by_hand = keep * by_hand + (1 - keep) * weight.detach()
    assert torch.allclose(average.state[weight]["average"], by_hand)


def test_in_place_and_back_bit_for_bit():
    model = tiny_model()
    average = build(model, TrainConfig(ema_decay=0.9)).average
    average.step()
    moved(model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(KeyError), average.in_place():
        assert not torch.equal(next(model.parameters()), before[0])
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    average.put_into_model()
    for name, tensor in zip(average.state, model.parameters(), strict=True):
        assert torch.equal(average.state[name]["average"], tensor)


def test_half_precision_weights_have_a_float32_average():
    model = tiny_model().to(torch.bfloat16)
    average = Average(model.parameters(), 0.999)
    average.step()
    assert {average.state[parameter]["average"].dtype for parameter in model.parameters()} == {torch.float32}


def test_the_state_goes_through_names_and_back():
    model, other = tiny_model(), tiny_model(seed=4)
    config = TrainConfig(ema_decay=0.99)
    one, two = build(model, config), build(other, config)
    for optimizer, of in ((one, model),):
        for parameter in of.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert one.expected_bytes() == sum(t.nbytes for n, t in one.state_tensors().items() if t.ndim)
    two.load_state_tensors(one.state_tensors())
    mine, theirs = one.state_tensors(), two.state_tensors()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert any(name.endswith(":average") for name in mine) and any(name.endswith(":updates") for name in mine)
    with pytest.raises(MalmoiError, match="no average is kept"):
        build(other, TrainConfig()).load_state_tensors(mine)


def test_without_a_decay_there_is_none():
    assert build(tiny_model(), TrainConfig()).average is None
