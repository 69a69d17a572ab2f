"""Tensors without numbers: a program runs on them to the end, and the books say what a real run would have held."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from malmoi.train.pretence import Books, Pretence


@pytest.fixture
def pretence():
    made = Pretence(vocabulary=7)
    with made.running():
        yield made


def test_what_is_learned_is_fake_and_what_is_given_is_real(pretence):
    learned, ids = torch.zeros(3, 1 << 40), torch.arange(5) * 2
    assert learned.shape == (3, 1 << 40)  # twelve terabytes
    assert ids.tolist() == [0, 2, 4, 6, 8]
    looked_up = F.embedding(ids, learned.t())
    assert looked_up.shape == (5, 3) and float(looked_up.sum()) == 1.0 and not bool((looked_up > 0).any())


def test_experts_are_chosen_equally_often(pretence):
    chosen = torch.randn(5, 4).topk(2).indices
    counts = chosen.flatten().bincount(minlength=4)
    assert counts.tolist() == [2, 3, 2, 3] and int(counts.sum()) == chosen.numel()


def test_memory_is_born_grows_and_dies():
    with (pretence := Pretence(7)).running():
        kept = torch.zeros(10, 10)
        books = pretence.keep()
        books.name([kept], "weights")
        first = torch.ones(20, 10)
        second = first + 1
        del first
        third = second.t()  # a view: no memory of its own
        assert books.largest() == {"weights": 400, "temporary": 1600, "peak": 2000}
        del second, third
        flat = torch.empty(1000)
        flat.untyped_storage().resize_(0)
        scores = torch.empty(3, 7)
        found = books.largest()
        assert (found["buffers"], found["logits"], found["peak"]) == (4000, scores.nbytes, 4400)
    assert torch.zeros(2).tolist() == [0, 0]  # and everything is real again
    assert torch.empty(2).untyped_storage().resize_(4).nbytes() == 4


def test_an_optimizers_state_is_there_from_the_beginning():
    with Pretence(7).running():
        books = Books()
        early = torch.zeros(1, 100)
        books.see(early, "activations")
        del early
        state = torch.zeros(1, 50)
        books.name([state], "optimizer")
        assert books.largest()["peak"] == 600


def test_activations_are_what_a_forward_pass_makes_and_operations_are_counted():
    with (pretence := Pretence(7)).running():
        layer, x = nn.Linear(8, 16, bias=False), torch.zeros(4, 8, requires_grad=True)
        books = pretence.keep()
        books.name([layer.weight, x], "weights")
        y = layer(x)
        assert books.largest()["activations"] == y.nbytes
        y.sum().backward()
    assert books.flops == 3 * 2 * 4 * 8 * 16  # forward, and backward for both
