"""Model folders: parity with transformers in both directions, and every way in which a folder can be wrong."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.formats import huggingface, weights
from malmoi.model.gpt import GPT4LMHeadModel
from small_models import KINDS, build


class Words:
    """A tokenizer as far as a folder is concerned."""

    def __init__(self, size: int, first: str = "w") -> None:
        self.vocabulary = {f"{first}{i}": i for i in range(size)}

    def save_pretrained(self, folder) -> None:
        said = {"model": {"type": "BPE", "vocab": self.vocabulary, "merges": []}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(said), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """A good model folder, to be damaged."""
    huggingface.save(build("modern"), tmp_path / "model", Words(61))
    return tmp_path / "model"


@pytest.fixture
def ids():
    return torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(1))


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def test_published_gpt2_folders_name_tensors_without_prefix_and_keep_masks(tmp_path, ids):
    model = build("gpt2")
    huggingface.save(model, tmp_path / "m")
    file = tmp_path / "m" / weights.SINGLE
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    save_file(tensors, file)
    assert torch.equal(logits(huggingface.load(tmp_path / "m"), ids), logits(model, ids))


# ------------------------------------------------------------------ there and back


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_bit_for_bit(kind, tmp_path, ids):
    model = build(kind, residual_dropout=0.3)
    model.save_pretrained(tmp_path / "m")
    again = GPT4LMHeadModel.from_pretrained(tmp_path / "m")
    assert again.config == model.config
    assert huggingface.read_config(tmp_path / "m") == model.config
    assert not again.training
    assert torch.equal(logits(again, ids), logits(model, ids))
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == model.config.tie_word_embeddings
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_what_no_family_knows_is_kept_in_our_own_names(tmp_path, ids):
    model = build("gpt2", qk_norm=True, num_key_value_heads=1)
    huggingface.save(model, tmp_path / "m")
    assert torch.equal(logits(huggingface.load(tmp_path / "m"), ids), logits(model, ids))


def test_the_files_of_a_folder(folder):
    expected = {"config.json", "generation_config.json", "model.safetensors", "README.md", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == expected
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"] == "float32"


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "torch.bfloat16"])
def test_dtype(folder, dtype):
    model = huggingface.load(folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    huggingface.save(model, folder)
    assert huggingface.load(folder, dtype="auto").dtype == torch.bfloat16
    assert huggingface.load(folder, dtype="float32").dtype == torch.float32


def test_an_unknown_dtype(folder):
    with pytest.raises(MalmoiError, match=r"no number type 'float31'\. Did you mean 'float32'"):
        huggingface.load(folder, dtype="float31")


def test_generation_settings_travel(tmp_path):
    model = build("modern", eos_token_id=0)
    model.generation_config = GenerationConfig(temperature=0.7, eos_token_id=(0, 4), stop_strings=("\n", "질문:"))
    model.save_pretrained(tmp_path / "m")
    assert huggingface.load(tmp_path / "m").generation_config == model.generation_config
    said = json.loads((tmp_path / "m" / "generation_config.json").read_text(encoding="utf-8"))
    assert "top_k" not in said  # what is neutral is not said
    (tmp_path / "m" / "generation_config.json").write_text('{"temperature": -1, "other": 5}', encoding="utf-8")
    with pytest.raises(MalmoiError, match=r"generation_config.json: .*temperature must be a number"):
        huggingface.load(tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").unlink()
    assert huggingface.load(tmp_path / "m").generation_config.eos_token_id == 0


def test_large_models_are_sharded(tmp_path, ids, monkeypatch):
    write = weights.write
    monkeypatch.setattr(weights, "write", lambda tensors, folder: write(tensors, folder, shard_bytes=20_000))
    model = build("untied")
    huggingface.save(model, tmp_path / "m")
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 1
    assert torch.equal(logits(huggingface.load(tmp_path / "m"), ids), logits(model, ids))
    monkeypatch.setattr(weights, "write", write)
    huggingface.save(model, tmp_path / "m")  # the old shards must not stay beside the new file
    assert [path.name for path in (tmp_path / "m").glob("model*")] == ["model.safetensors"]


# ------------------------------------------------------------------ saving over something


def test_saving_again_replaces_the_model_and_keeps_the_rest(folder, ids):
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "README.md").write_text("my own card", encoding="utf-8")
    other = build("gpt2", seed=8)
    huggingface.save(other, folder)
    assert torch.equal(logits(huggingface.load(folder), ids), logits(other, ids))
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert (folder / "README.md").read_text(encoding="utf-8") == "my own card"
    assert (folder / "tokenizer.json").exists()


def test_a_tokenizer_may_be_saved_first(tmp_path, ids):
    (tmp_path / "m").mkdir()
    Words(61).save_pretrained(tmp_path / "m")
    model = build("modern")
    model.save_pretrained(tmp_path / "m")
    assert torch.equal(logits(huggingface.load(tmp_path / "m"), ids), logits(model, ids))


def test_a_loaded_model_can_be_saved_where_it_came_from(folder, ids):
    model = huggingface.load(folder)
    before = logits(model, ids)
    huggingface.save(model, folder)
    assert torch.equal(logits(model, ids), before)
    assert torch.equal(logits(huggingface.load(folder), ids), before)


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(MalmoiError, match=r"holds cat\.jpg, but no model"):
        huggingface.save(build("modern"), tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").exists()
    with pytest.raises(MalmoiError, match="is a file"):
        huggingface.save(build("modern"), tmp_path / "photos" / "cat.jpg")


def test_a_full_disk_leaves_the_old_folder(folder, ids, monkeypatch):
    before = logits(huggingface.load(folder), ids)

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(MalmoiError, match="No space left on device"):
        huggingface.save(build("gpt2", seed=8), folder)
    monkeypatch.undo()
    assert torch.equal(logits(huggingface.load(folder), ids), before)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def in_another_process(script, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_disk_that_really_refuses(folder, ids):
    before = logits(huggingface.load(folder), ids)
    result = in_another_process(
        """
        import resource, signal, sys
        from small_models import build
        from malmoi.config import MalmoiError
        from malmoi.formats import huggingface
        model = build("gpt2", seed=8)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            huggingface.save(model, sys.argv[1])
        except MalmoiError as error:
            print("told:", error)
        """,
        folder,
    )
    assert "told:" in result.stdout, result.stderr
    assert "cannot be saved" in result.stdout
    assert torch.equal(logits(huggingface.load(folder), ids), before)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["weights written", "between the renames"])
def test_a_killed_process_leaves_the_old_folder(folder, ids, moment):
    before = logits(huggingface.load(folder), ids)
    result = in_another_process(
        """
        import os, sys
        from pathlib import Path
        from small_models import build
        from malmoi.formats import huggingface, weights
        if sys.argv[2] == "weights written":
            write = weights.write
            weights.write = lambda *arguments: (write(*arguments), os._exit(9))
        else:
            rename = Path.rename
            def once(self, target):
                rename(self, target)
                os._exit(9)
            Path.rename = once
        huggingface.save(build("gpt2", seed=8), sys.argv[1])
        """,
        folder,
        moment,
    )
    assert result.returncode == 9, result.stderr
    assert torch.equal(logits(GPT4LMHeadModel.from_pretrained(folder), ids), before)
    other = build("untied", seed=4)
    huggingface.save(other, folder)  # and the next save sweeps up
    assert torch.equal(logits(huggingface.load(folder), ids), logits(other, ids))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


# ------------------------------------------------------------------ folders that are wrong


def edit(folder, **changes):
    path = folder / "config.json"
    said = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(said), encoding="utf-8")


def test_no_folder_and_no_config(tmp_path):
    with pytest.raises(MalmoiError, match="there is no such folder"):
        huggingface.load(tmp_path / "nothing")
    with pytest.raises(MalmoiError, match=r"config.json: there is no such file"):
        huggingface.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_a_config_that_is_no_json(folder, content):
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(MalmoiError, match=r"config.json: (is not valid JSON|must hold a JSON object)"):
        huggingface.load(folder)


def test_an_unknown_family_lists_the_known_ones(folder):
    edit(folder, model_type="mamba")
    with pytest.raises(MalmoiError, match=r"config.json: model_type 'mamba'.*Known families: qwen3"):
        huggingface.load(folder)


def test_a_config_that_asks_for_the_moon_is_refused_before_it_is_built(folder):
    edit(folder, num_hidden_layers=10_000, hidden_size=1_000_000, head_dim=64, layer_types=None)
    with pytest.raises(MalmoiError, match="do not belong together"):
        huggingface.load(folder)


NORM = "model.norm.weight"


def change_weights(folder, change):
    tensors = load_file(folder / weights.SINGLE)
    change(tensors)
    save_file(tensors, folder / weights.SINGLE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NORM), f"missing: {NORM}"),
        (lambda t: t.update(odd=torch.ones(2)), "not expected: odd"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(31)}),
            r"'model\.norm\.weight' has shape \[31\].*asks for \[32\]",
        ),
        (
            lambda t: t["model.norm.weight"].fill_(float("nan")),
            r"'model\.norm\.weight' holds 32 values that are not finite",
        ),
        (lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int64)}), "has type I64"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, message):
    change_weights(folder, change)
    with pytest.raises(MalmoiError, match=message) as error:
        huggingface.load(folder)
    assert str(folder) in str(error.value)


def test_a_truncated_file(folder):
    content = (folder / weights.SINGLE).read_bytes()
    (folder / weights.SINGLE).write_bytes(content[:-100])
    with pytest.raises(MalmoiError, match=r"model.safetensors: is cut short"):
        huggingface.load(folder)


def test_missing_weights(folder):
    (folder / weights.SINGLE).unlink()
    with pytest.raises(MalmoiError, match="no weights to load"):
        huggingface.load(folder)


def test_a_shared_table_that_was_stored_twice_is_accepted(folder, ids):
    before = logits(huggingface.load(folder), ids)
    change_weights(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert torch.equal(logits(huggingface.load(folder), ids), before)


def test_a_tokenizer_that_is_too_large(folder):
    Words(62).save_pretrained(folder)
    with pytest.raises(MalmoiError, match="token ids up to 61, but the model's vocabulary ends at 60"):
        huggingface.load(folder)


def test_an_older_vocabulary_that_is_too_large(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps({f"w{i}": i for i in range(61)}), encoding="utf-8")
    huggingface.load(folder)
    (folder / "added_tokens.json").write_text('{"<|new|>": 61}', encoding="utf-8")
    with pytest.raises(MalmoiError, match=r"vocab\.json knows token ids up to 61, but the model's vocabulary ends"):
        huggingface.load(folder)
    (folder / "added_tokens.json").write_text('{"<|new|>": "many"}', encoding="utf-8")
    with pytest.raises(MalmoiError, match=r"added_tokens\.json is not a list of tokens with their ids"):
        huggingface.load(folder)


def test_a_tokenizer_that_was_exchanged(folder):
    Words(61, first="other").save_pretrained(folder)
    with pytest.raises(MalmoiError, match="not the tokenizer that this model was saved with"):
        huggingface.load(folder)


def test_a_tokenizer_laid_out_anew_is_the_same_one(folder):
    said = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    said["model"]["vocab"] = dict(reversed(said["model"]["vocab"].items()))
    (folder / "tokenizer.json").write_text(json.dumps(said, indent=4), encoding="utf-8")
    huggingface.load(folder)


@pytest.mark.parametrize("content", ["{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "b"}}}'])
def test_a_tokenizer_file_without_a_vocabulary(folder, content):
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(MalmoiError, match="holds no vocabulary"):
        huggingface.load(folder)


def test_gpt4_was_never_published():
    with pytest.raises(MalmoiError, match="never published"):
        GPT4LMHeadModel.from_pretrained("openai/gpt-4")
