"""What `--over` means: ranges given and default, names short and long, and one clear sentence for each mistake."""

import pytest

from malmoi.config import LoraConfig, MalmoiError, ModelConfig, TrainConfig
from malmoi.train.search_space import DEFAULTS, NOT_SETTINGS, Setting, parse

RECORDS = {"train": TrainConfig, "model": ModelConfig, "lora": LoraConfig}
VALUES = {
    "train": TrainConfig(learning_rate=2e-3, per_device_train_batch_size=8).model_dump(),
    "model": ModelConfig().model_dump(),
    "lora": LoraConfig().model_dump(),
}


def space(text):
    return parse(text, VALUES, RECORDS)


def test_default_ranges_are_centred_on_the_recipes_own_values():
    rate, batch, decay = space("learning_rate, batch_size, weight_decay")
    assert rate.name == "train.learning_rate"
    assert (rate.low, rate.high, rate.scale) == (pytest.approx(2e-4), pytest.approx(2e-2), "log")
    assert batch.name == "train.per_device_train_batch_size"
    assert batch.choices == (2, 4, 8, 16, 32)
    assert (decay.low, decay.high, decay.scale) == (0.0, 0.3, "linear")


def test_ranges_choices_factors_and_scales_as_given():
    rate, optimizer, decay, heads, rows = space(
        "lr=1e-4:1e-2,optimizer=muon|adamw,weight_decay=0.01:0.1:log,num_hidden_layers=2:6,batch_size=3:20"
    )
    assert (rate.low, rate.high, rate.scale) == (1e-4, 1e-2, "log")
    assert optimizer.choices == ("muon", "adamw")
    assert not optimizer.ordered
    assert decay.scale == "log"
    assert (heads.name, heads.low, heads.high, heads.whole) == ("model.num_hidden_layers", 2, 6, True)
    assert rows.choices == (4, 8, 16)
    (factor,) = space("learning_rate=x0.5:x2")
    assert (factor.low, factor.high) == (1e-3, 4e-3)


def test_words_and_truths_need_no_range_and_a_record_can_be_named():
    schedule, qk, rank = space("lr_scheduler_type,model.qk_norm,lora.r")
    assert set(schedule.choices) == {"cosine", "linear", "warmup_stable_decay", "constant"}
    assert qk.choices == (True, False)
    assert rank.choices == (2, 4, 8, 16, 32)


@pytest.mark.parametrize("field", DEFAULTS)
def test_every_default_range_makes_a_setting_that_its_record_takes(field):
    (setting,) = space(field)
    record, _, name = setting.name.partition(".")
    if record != "model":
        for value in setting.extremes():
            RECORDS[record](**{name: value})
    assert parse(f"{setting.name}={setting.words()}", VALUES, RECORDS)[0].extremes() == pytest.approx(
        setting.extremes(), rel=1e-3
    )


@pytest.mark.parametrize("field", NOT_SETTINGS)
def test_what_is_no_setting_is_a_field_all_the_same(field):
    assert field in TrainConfig.model_fields
    with pytest.raises(MalmoiError, match="cannot be searched"):
        space(f"{field}=1:2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat", "Did you mean 'learning_rate'"),
        ("", "names no setting"),
        ("learning_rate,lr", "twice"),
        ("learning_rate=", "nothing stands after"),
        ("learning_rate=0.1:0.01", "empty"),
        ("learning_rate=0.1:0.1", "empty"),
        ("learning_rate=0:0.1:log", "above 0"),
        ("learning_rate=0.1", "no choice"),
        ("learning_rate=1:2:3:4", "LOW:HIGH"),
        ("learning_rate=a:b", "LOW:HIGH"),
        ("learning_rate=1e-3:1e-2:lg", "Did you mean 'log'"),
        ("batch_size=5:7", "two powers of two"),
        ("spike_threshold", "give one"),
        ("optimizer=x2|x3", "factor of the recipe's own value"),
        ("generation.temperature", "no such setting"),
    ],
)
def test_mistakes_are_one_clear_sentence(text, words):
    with pytest.raises(MalmoiError, match=words):
        space(text)


def test_a_grid_has_the_ends_of_a_range():
    (rate, layers) = space("learning_rate=1e-4:1e-2,num_hidden_layers=1:3")
    assert rate.grid(3) == (1e-4, pytest.approx(1e-3), 1e-2)
    assert layers.grid(5) == (1, 2, 3)


def test_a_value_at_the_end_of_its_range_is_seen():
    log = Setting("train.learning_rate", low=1e-4, high=1e-2, scale="log")
    assert [log.edge(value) for value in (1.1e-4, 1e-3, 9.5e-3)] == ["low", "", "high"]
    sizes = Setting("train.per_device_train_batch_size", choices=(2, 4, 8), ordered=True)
    assert [sizes.edge(value) for value in sizes.choices] == ["low", "", "high"]
    assert Setting("train.optimizer", choices=("muon", "adamw")).edge("muon") == ""
