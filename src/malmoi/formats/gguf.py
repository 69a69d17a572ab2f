"""GGUF: the one file in which llama.cpp, Ollama and LM Studio keep a whole model.

A GGUF file is a list of named values (the network's name and sizes, the whole vocabulary) and a list of named tensors.
There is no code in it. Which network a model is, and where our parameters lie in it, stands in `gguf_architectures`.

Two things differ from a Hugging Face folder beyond names. llama.cpp's `llama` network turns *neighbouring* numbers of a
head where ours turns the first half against the second, so the rows of its queries and keys are interleaved on the way
out (`_interleaved`) and sorted on the way in. And matrices may be rounded: to 16 bits, or in blocks of 32 numbers that
share one scale (`q8_0`: 8 bits a number, `q4_0`: 4).

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from malmoi.config import MalmoiError, ModelConfig, RopeParameters
from malmoi.formats.gguf_architectures import (
    ARCHITECTURES,
    Architecture,
    architecture_of,
    library,
    shapes,
    table,
    traits,
)
from malmoi.layers import final_norm, layer_specs
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.model.position import frequencies

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
BLOCK = 32  # numbers that share a scale in q8_0 and q4_0
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}  # general.file_type
_ALWAYS_F32 = ("ffn_gate_inp.", "position_embd.")  # small, and every bit of them counts; llama.cpp's own rule
_TABLES = ("token_embd.", "output.")  # kept at 8 bits where the rest has 4
_QUANTIZATION_VERSION = 2
_ROPE_FREQS = "rope_freqs.weight"


@dataclass(frozen=True, slots=True)
class Place:
    """One tensor of the file: its name there, ours that it holds, its shape and the type of its numbers."""

    name: str
    ours: tuple[str, ...]
    shape: tuple[int, ...]
    kind: str

    @property
    def nbytes(self) -> int:
        block, size = _block(self.kind)
        return int(np.prod(self.shape)) // block * size


def _block(kind: str) -> tuple[int, int]:
    gguf = library()
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]]


def places(config: ModelConfig, kind: str) -> list[Place]:
    """Every tensor of the file for a model, with the type that each gets when `kind` is asked for.

    Vectors, biases and routers stay f32. Rows that do not divide into blocks of 32 stay f16. Under q4_0 the tables of
    the vocabulary keep 8 bits.
    """
    architecture = architecture_of(config)
    sizes = shapes(config)
    found = []
    for name, ours in table(architecture, config).items():
        first = sizes[ours[0]]
        shape = (sum(sizes[part][0] for part in ours), *first[1:])
        found.append(Place(name, ours, shape, _kind(name, shape, kind)))
    if architecture.name == "gpt-oss" and config.tie_word_embeddings:  # it wants the table twice
        table_place = next(place for place in found if place.name == "token_embd.weight")
        found.append(Place("output.weight", table_place.ours, table_place.shape, table_place.kind))
    if config.rope_parameters.rope_type == "llama3":
        found.append(Place(_ROPE_FREQS, (), (config.head_dim // 2,), "f32"))
    return found


def _kind(name: str, shape: tuple[int, ...], kind: str) -> str:
    if len(shape) == 1 or name.endswith(".bias") or any(part in name for part in _ALWAYS_F32):
        return "f32"
    if kind in ("q8_0", "q4_0") and shape[-1] % BLOCK:
        return "f16"
    return "q8_0" if kind == "q4_0" and name.startswith(_TABLES) else kind


# ---------------------------------------------------------------- numbers


def _interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """First and second half of each head's rows, taken in turns: 0 1 2 3 | 4 5 6 7 -> 0 4 1 5 2 6 3 7."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def _sorted_halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """The inverse of `_interleaved`."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def _heads(name: str, config: ModelConfig, architecture: Architecture) -> int:
    """How many heads' rows of this tensor (our name) lie in another order in the file; 0: none."""
    if not architecture.interleaved:
        return 0
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return heads.get(name.split(".")[-2], 0)


def encode(tensor: torch.Tensor, kind: str) -> np.ndarray:
    """Numbers as the file keeps them; blocks and bf16 are bytes (uint8). Raises `MalmoiError` where f16 overflows."""
    gguf = library()
    with np.errstate(over="ignore"):
        encoded = gguf.quants.quantize(
            np.ascontiguousarray(tensor.detach().float().cpu().numpy()), gguf.GGMLQuantizationType[kind.upper()]
        )
    if encoded.dtype == np.float16 and not np.isfinite(encoded).all():
        raise MalmoiError("Some weights are larger than f16 can hold (65504); export them as bf16 or f32.")
    return encoded


def rounded(model: GPT4LMHeadModel, kind: str) -> dict[str, torch.Tensor]:
    """Our state, each tensor rounded as the file would, in float32 and in our order: what a reader has to arrive at."""
    gguf, state = library(), model.state_dict()
    result: dict[str, torch.Tensor] = {}
    for place in places(model.config, kind):
        for name in place.ours:
            if place.kind in ("f16", "bf16"):
                dtype = torch.float16 if place.kind == "f16" else torch.bfloat16
                result[name] = state[name].float().to(dtype).float()
            else:
                number_type = gguf.GGMLQuantizationType[place.kind.upper()]
                numbers = gguf.quants.dequantize(encode(state[name], place.kind), number_type)
                result[name] = torch.from_numpy(np.array(numbers)).reshape(state[name].shape)
    return result | _shared(model.config, result)


def _shared(config: ModelConfig, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"lm_head.weight": state["model.embed_tokens.weight"]} if config.tie_word_embeddings else {}


# ---------------------------------------------------------------- writing


def begin(path: Path, model: GPT4LMHeadModel, kind: str, name: str) -> Any:
    """A `GGUFWriter` that knows the model's sizes; the vocabulary and then the tensors (`finish`) follow."""
    gguf, config = library(), model.config
    architecture = architecture_of(config)
    writer = gguf.GGUFWriter(path, architecture.name)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    (writer.add_layer_norm_rms_eps if config.norm == "rms_norm" else writer.add_layer_norm_eps)(config.norm_eps)
    writer.add_feed_forward_length(config.moe_intermediate_size if config.num_experts else config.intermediate_size)
    if config.num_experts:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if "none" not in architecture.needs["windows"] and config.sliding_window is not None:
        writer.add_sliding_window(config.sliding_window)
    if config.positions == "rotary":
        _write_rope(writer, config)
    return writer


def _write_rope(writer: Any, config: ModelConfig) -> None:
    gguf, rope = library(), config.rope_parameters
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope.rope_theta)
    if rope.rope_type not in ("linear", "yarn") or rope.factor is None:
        return  # llama3's stretching is a tensor
    writer.add_rope_scaling_type(gguf.RopeScalingType(rope.rope_type))
    writer.add_rope_scaling_factor(rope.factor)
    if rope.rope_type == "yarn" and rope.original_max_position_embeddings is not None:
        writer.add_rope_scaling_orig_ctx_len(rope.original_max_position_embeddings)
        writer.add_rope_scaling_yarn_beta_fast(32.0 if rope.beta_fast is None else rope.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(1.0 if rope.beta_slow is None else rope.beta_slow)
        _, scale = frequencies(rope, config.head_dim)
        # llama.cpp multiplies its own 1 + 0.1 ln(factor) by this
        writer.add_rope_scaling_attn_factors(scale / _growth(rope.factor))


def finish(writer: Any, model: GPT4LMHeadModel, kind: str) -> None:
    """Write header, values and tensors; one tensor at a time is in memory besides the model."""
    gguf, config = library(), model.config
    state, architecture = model.state_dict(), architecture_of(config)
    found = places(config, kind)
    for place in found:
        number_type = gguf.GGMLQuantizationType[place.kind.upper()]
        raw = place.kind not in ("f32", "f16")
        shape = gguf.quant_shape_to_byte_shape(place.shape, number_type) if raw else place.shape
        dtype = np.dtype(np.uint8) if raw else np.dtype(np.float32 if place.kind == "f32" else np.float16)
        writer.add_tensor_info(place.name, shape, dtype, place.nbytes, number_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for place in found:
        if place.name == _ROPE_FREQS:
            writer.write_tensor_data(_stretching(config).numpy())
            continue
        parts = []
        for name in place.ours:
            heads = _heads(name, config, architecture)
            parts.append(_interleaved(state[name], heads) if heads else state[name])
        writer.write_tensor_data(encode(torch.cat(parts), place.kind))


def _stretching(config: ModelConfig) -> torch.Tensor:
    """How many times slower than plain rotary positions each pair turns (head_dim / 2,)."""
    plain = config.rope_parameters.replace(
        **dict.fromkeys(("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor")),
        rope_type="default",
    )
    return frequencies(plain, config.head_dim)[0] / frequencies(config.rope_parameters, config.head_dim)[0]


# ---------------------------------------------------------------- reading


def open_file(path: Path) -> Any:
    """A `GGUFReader` over a memory map; `MalmoiError` for what is no whole GGUF file."""
    try:
        return library().GGUFReader(path)
    except FileNotFoundError:
        raise MalmoiError(f"{path}: there is no such file.") from None
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise MalmoiError(f"{path}: is not a whole GGUF file ({error}). Take it again from where it came.") from None


def values(reader: Any) -> dict[str, Any]:
    """The named values of an open file as Python's own; a float32 becomes the shortest decimal that means it."""
    return {
        name: float(str(np.float32(value))) if isinstance(value := field.contents(), float) else value
        for name, field in reader.fields.items()
    }


def load(path: Path, config: ModelConfig | None = None) -> GPT4LMHeadModel:
    """The model of a GGUF file, its numbers spread out to float32.

    The structure comes from the file alone. A `config` that is given must agree with it; llama3's stretched positions
    need one, because a file says how far each pair is stretched and not by which rule. Raises `MalmoiError`.
    """
    reader = open_file(path)
    held = {tensor.name: tensor for tensor in reader.tensors}
    said = read_config(values(reader), held)
    stretched = _ROPE_FREQS in held
    if config is None:
        if stretched:
            raise MalmoiError(f"{path}: stretches its positions pair by pair; give the config that it was made from.")
        config = said.replace(tie_word_embeddings="output.weight" not in held)
    else:
        stretching = torch.from_numpy(np.array(held[_ROPE_FREQS].data)) if stretched else None
        _agree(path, config, said, stretching)
    with torch.device("meta"):
        model = GPT4LMHeadModel(config)
    model.load_state_dict(_state(path, config, held), strict=True, assign=True)
    model.tie_weights()
    return model.eval()


def _state(path: Path, config: ModelConfig, held: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    gguf, architecture, sizes = library(), architecture_of(config), shapes(config)
    names = table(architecture, config)
    extra = sorted(set(held) - set(names) - {_ROPE_FREQS, "output.weight"})
    missing = sorted(set(names) - set(held))
    if extra or missing:
        raise MalmoiError(f"{path}: tensors are missing ({missing[:5]}) or not expected ({extra[:5]}).")
    state: dict[str, torch.Tensor] = {}
    for theirs, ours in names.items():
        numbers = gguf.quants.dequantize(held[theirs].data, held[theirs].tensor_type)
        whole = torch.from_numpy(np.array(numbers, dtype=np.float32))
        if whole.numel() != sum(sizes[name].numel() for name in ours):
            raise MalmoiError(f"{path}: tensor '{theirs}' has another size than its values say.")
        for name, piece in zip(ours, whole.split([sizes[name][0] for name in ours]), strict=True):
            heads = _heads(name, config, architecture)
            piece = piece.reshape(sizes[name])
            state[name] = (_sorted_halves(piece, heads) if heads else piece).contiguous()
    return state | _shared(config, state)


def _agree(path: Path, config: ModelConfig, said: ModelConfig, stretching: torch.Tensor | None) -> None:
    """Hold what the file says of the structure against what the model is."""

    def structure(one: ModelConfig) -> tuple[Any, ...]:
        still = one.replace(attention_dropout=0.0, residual_dropout=0.0, embedding_dropout=0.0)
        if traits(still)["windows"] == "none":  # windows that no text outgrows
            still = still.replace(layer_types=("full_attention",) * one.num_hidden_layers, sliding_window=None)
        return layer_specs(still), final_norm(still), one.vocab_size, one.max_position_embeddings

    same = structure(config) == structure(said)
    if same and config.positions == "rotary":
        (turns, scale), (read, read_scale) = (frequencies(_rounded_ramp(c), c.head_dim) for c in (config, said))
        read = read if stretching is None else read / stretching
        same = torch.allclose(turns, read, rtol=1e-5, atol=0) and abs(scale - read_scale) <= 1e-6 * scale
    if not same:
        raise MalmoiError(f"{path}: describes another network than the model's. Nothing was left behind.")


def _rounded_ramp(config: ModelConfig) -> RopeParameters:
    """llama.cpp begins and ends YaRN's ramp at whole pairs; a model may have been trained otherwise (gpt-oss)."""
    rope = config.rope_parameters
    return rope.replace(truncate=None) if rope.truncate is False else rope


def read_config(said: Mapping[str, Any], held: Container[str]) -> ModelConfig:
    """The `ModelConfig` that a file's values describe; which biases there are, the names of its tensors tell."""
    name = said.get("general.architecture")
    experts = bool(said.get(f"{name}.expert_count"))
    known = [one for one in ARCHITECTURES if one.name == name and experts in one.needs["experts"]]
    if not known:
        names = ", ".join(sorted({one.name for one in ARCHITECTURES}))
        raise MalmoiError(f"The GGUF architecture '{name}' is not one that Malmoi knows; known: {names}.")
    needs = {key: allowed[0] for key, allowed in known[0].needs.items() if len(allowed) == 1}
    given = {ours: said.get(theirs.format(arch=name)) for theirs, ours in _READ.items()}
    norm = "layer_norm_rms_epsilon" if "rms_norm" in known[0].needs["norm"] else "layer_norm_epsilon"
    given["norm_eps"] = said.get(f"{name}.attention.{norm}")
    if known[0].name == "llama":
        given |= {"attention_bias": "blk.0.attn_output.bias" in held, "mlp_bias": "blk.0.ffn_up.bias" in held}
    tokens, hidden, heads = said.get("tokenizer.ggml.tokens"), given["hidden_size"], given["num_attention_heads"]
    given["vocab_size"] = len(tokens) if tokens is not None else given["vocab_size"]
    if given["head_dim"] is None and hidden and heads:
        given["head_dim"] = hidden // heads
    if "rope_type" in known[0].needs:
        given["rope_parameters"] = _read_rope(said, f"{name}.rope.")
    if "none" not in known[0].needs["windows"]:
        kinds = ("sliding_attention", "full_attention")
        given["layer_types"] = tuple(kinds[i % 2] for i in range(given["num_hidden_layers"] or 0))
    else:
        given["sliding_window"] = None
    fields = {key: value for key, value in {**needs, **given}.items() if key in ModelConfig.model_fields}
    return ModelConfig(**{key: value for key, value in fields.items() if value is not None})


_READ = {  # a file's values -> ours
    "{arch}.vocab_size": "vocab_size",
    "{arch}.embedding_length": "hidden_size",
    "{arch}.block_count": "num_hidden_layers",
    "{arch}.attention.head_count": "num_attention_heads",
    "{arch}.attention.head_count_kv": "num_key_value_heads",
    "{arch}.attention.key_length": "head_dim",
    "{arch}.attention.sliding_window": "sliding_window",
    "{arch}.feed_forward_length": "intermediate_size",
    "{arch}.context_length": "max_position_embeddings",
    "{arch}.expert_count": "num_experts",
    "{arch}.expert_used_count": "num_experts_per_tok",
    "{arch}.expert_feed_forward_length": "moe_intermediate_size",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
}


def _read_rope(said: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    kind = said.get(f"{prefix}scaling.type", "none")
    rope: dict[str, Any] = {"rope_theta": said.get(f"{prefix}freq_base", 10_000.0)}
    if kind not in ("linear", "yarn"):
        return rope
    rope |= {"rope_type": kind, "factor": said.get(f"{prefix}scaling.factor")}
    if kind == "yarn":
        rope |= {
            "original_max_position_embeddings": said.get(f"{prefix}scaling.original_context_length"),
            "beta_fast": said.get(f"{prefix}scaling.yarn_beta_fast"),
            "beta_slow": said.get(f"{prefix}scaling.yarn_beta_slow"),
            "attention_factor": _growth(rope["factor"]) * said.get(f"{prefix}scaling.attn_factor", 1.0),
        }
    return rope


def _growth(factor: float) -> float:
    """What llama.cpp multiplies turned queries and keys by under YaRN, before the file's own factor."""
    return 1 + 0.1 * math.log(factor)
