"""Starting from a finished model: what is taken over, what learns, what lies in the folder at the end."""

import json
from pathlib import Path

import pytest
import torch

from cli.conftest import tiny_recipe
from malmoi import GPT4LMHeadModel, GPT4Tokenizer
from malmoi.cli.pipeline import Stage, resolve, run
from malmoi.cli.transfer import KEPT, lora_from
from malmoi.config import LoraConfig, MalmoiError, Recipe, TrainConfig
from malmoi.train.adapter_folder import load_adapter

LORA = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}


def continued(corpus: Path, finished_run: Path, **changes: object) -> Recipe:
    values = tiny_recipe(corpus).model_dump(mode="json", exclude_unset=True)
    for name in ("size", "vocab_size", "model"):
        values.pop(name)
    budget = {"max_steps": 8, "save_steps": 3, "eval_steps": 4, **changes.pop("train", {})}  # type: ignore[dict-item]
    return Recipe(**{**values, "train": budget, "start_from": str(finished_run), **changes})


@pytest.fixture(scope="module")
def adapted_run(corpus: Path, finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with LoRA, beside the model that it adapts."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    run(continued(corpus, finished_run, lora=LORA), folder)
    return folder


def test_a_continued_run_keeps_what_belongs_to_the_model(corpus: Path, finished_run: Path):
    train = resolve(continued(corpus, finished_run)).train
    assert (train.sequence_length, train.per_device_train_batch_size) == (48, 4)
    assert (train.max_steps, train.warmup_steps) == (8, 0.1)  # its own budget, and warmed up once more
    assert set(KEPT) < set(TrainConfig.model_fields)
    assert resolve(continued(corpus, finished_run, lora=LORA)).train.optimizer == "adamw"
    asked = resolve(continued(corpus, finished_run, lora=LORA, train={"optimizer": "muon", "warmup_steps": 3}))
    assert (asked.train.optimizer, asked.train.warmup_steps) == ("muon", 3)


def test_a_model_from_elsewhere_gives_its_context(corpus: Path, finished_run: Path, tmp_path: Path):
    model = GPT4LMHeadModel.from_pretrained(finished_run / "model")
    model.save_pretrained(tmp_path / "bare")
    assert resolve(continued(corpus, tmp_path / "bare")).train.sequence_length == 128
    with pytest.raises(MalmoiError, match="sequence_length=200 is longer than the context"):
        GPT4Tokenizer.from_pretrained(finished_run / "model").save_pretrained(tmp_path / "bare")
        run(continued(corpus, tmp_path / "bare", train={"sequence_length": 200}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_training_on_the_same_text_helps_and_keeps_the_tokenizer(corpus: Path, finished_run: Path, tmp_path: Path):
    run(continued(corpus, finished_run), tmp_path / "more")
    before, after = (
        [json.loads(line)["val_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
        for folder in (finished_run, tmp_path / "more")
    )
    assert after < before - 0.05
    same = [(folder / "model" / "tokenizer.json").read_bytes() for folder in (finished_run, tmp_path / "more")]
    assert same[0] == same[1]


def test_a_run_with_lora_leaves_the_adapter_and_a_merged_model(corpus: Path, finished_run: Path, adapted_run: Path):
    base, merged = (GPT4LMHeadModel.from_pretrained(folder / "model") for folder in (finished_run, adapted_run))
    moved = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, base.state_dict()[name])}
    assert moved == {f"model.layers.{i}.self_attn.{which}_proj.weight" for i in (0, 1) for which in "qv"}
    load_adapter(base, adapted_run / "adapter")
    ids = torch.arange(1, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(base(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-4)
    said = json.loads((adapted_run / "adapter" / "adapter_config.json").read_text())
    place = (adapted_run / "adapter" / said["base_model_name_or_path"]).resolve()
    assert place == (finished_run / "model").resolve() and said["base_model_name_or_path"].startswith("..")
    assert Recipe.from_yaml(adapted_run / "recipe.yaml").lora == LoraConfig(**LORA)


def test_the_model_stage_says_how_many_numbers_learn(corpus: Path, finished_run: Path, tmp_path: Path):
    seen: list[object] = []
    run(
        continued(corpus, finished_run, lora=LORA, train={"freeze": ["*.layers.0.*"]}),
        tmp_path / "run",
        show=seen.append,
    )
    texts = [event.text for event in seen if isinstance(event, Stage)]
    learns = 2 * 2 * (32 + 32)  # q and v of one layer: A and B each
    assert any(f"{learns:,} of the parameters learn" in text and "adapter on 4 matrices" in text for text in texts)
    assert any("merged: logits" in text for text in texts)


def test_an_interrupted_adaptation_ends_like_a_straight_one(
    corpus: Path, finished_run: Path, adapted_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = continued(corpus, finished_run, lora=LORA)

    class PowerCutError(Exception):
        pass

    def cut(event: object) -> None:
        if getattr(event, "step", 0) == 5:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run(recipe, tmp_path / "run", show=cut)
    with pytest.raises(MalmoiError, match="this run began with lora"):
        run(recipe.replace(lora={**LORA, "lora_alpha": 4}), tmp_path / "run", resume=True)
    run(recipe, tmp_path / "run", resume=True)
    for file in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (adapted_run / file).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": None, "lora": LORA}, "lora adapts a finished model"),
        ({"size": "nano"}, "start_from takes the model as it is"),
        ({"lora": {"target_modules": ["q_prjo"]}}, "Did you mean 'q_proj'"),
        ({"train": {"freeze": ["model.layer.0"]}}, "Did you mean 'model.layers.0'"),
        ({"lora": {"rank": 3}}, "no field 'rank'"),
    ],
)
def test_mistakes_are_said_before_anything_is_left(corpus, finished_run, tmp_path, changes, message):
    with pytest.raises(MalmoiError, match=message):
        run(continued(corpus, finished_run, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_freezing_reaches_the_loop(corpus: Path, finished_run: Path, tmp_path: Path):
    run(continued(corpus, finished_run, train={"freeze": ["model.embed_tokens", "*.mlp"]}), tmp_path / "run")
    before, after = (
        GPT4LMHeadModel.from_pretrained(folder / "model").state_dict() for folder in (finished_run, tmp_path / "run")
    )
    for name, tensor in after.items():
        frozen = "embed_tokens" in name or "lm_head" in name or ".mlp." in name
        assert torch.equal(tensor, before[name]) == frozen, name


def test_lora_in_one_word():
    assert LoraConfig(**lora_from("")) == LoraConfig()
    words = "r=4, alpha=16,dropout=0.05,targets=q_proj+v_proj,rslora=true,save=model.norm"
    assert LoraConfig(**lora_from(words)) == LoraConfig(
        r=4,
        lora_alpha=16,
        lora_dropout=0.05,
        target_modules=("q_proj", "v_proj"),
        use_rslora=True,
        modules_to_save=("model.norm",),
    )
    for wrong, message in (("rank=4", "--lora wants"), ("alhpa=4", "Did you mean 'alpha'"), ("r", "NAME=VALUE")):
        with pytest.raises(MalmoiError, match=message):
            lora_from(wrong)
