"""The measure of what rounding costs: nothing for the model itself, more for fewer bits."""

from malmoi.native.core import NativeModel
from malmoi.native.divergence import divergence_from
from small_models import build


def test_fewer_bits_diverge_more():
    model = build("gpt2")
    lost = [
        divergence_from(model, NativeModel.from_model(model, to, to)) for to in ("float32", "bfloat16", "int8", "int4")
    ]
    assert 0 <= lost[0] < 1e-6
    assert lost == sorted(lost)


def test_it_is_the_same_every_time():
    model = build("modern")
    rounded = NativeModel.from_model(model, "int4")
    assert divergence_from(model, rounded) == divergence_from(model, rounded) > 0
