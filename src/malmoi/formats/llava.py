"""LLaVA folders of Hugging Face: vision tower, projector and language model as one `SeeingModel`, and back.

    seeing = llava.load("my-llava")          # vision: CLIP, SigLIP; text: Llama, Mistral, Qwen2, Qwen3
    llava.save(seeing, "mine", tokenizer)    # what was trained here opens in transformers

The text model is read by the tables of its own family (`malmoi.formats.families`). Qwen2 is Llama with biases on
queries, keys and values and none on the output: here that bias exists and is zero. Names of tensors changed between
versions of transformers; what stands before a part's own name is cut off, whatever it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from malmoi.config import MalmoiError, ModelConfig
from malmoi.config.vision import VisionConfig
from malmoi.formats import families, loading, weights
from malmoi.formats.atomic import replaced
from malmoi.formats.folder import CONFIG, read_json, write_json
from malmoi.layers import count_parameters
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.vision.seeing import SeeingModel
from malmoi.vision.tower import Vision

MODEL_TYPE, PREPROCESSING = "llava", "preprocessor_config.json"
PATCHES = "vision_tower.embeddings.patch_embedding.weight"
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_SIZES: dict[str, dict[str, Any]] = {  # what a folder that leaves it out means
    "clip_vision_model": _BASE
    | {"image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip_vision_model": _BASE
    | {"image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
_TOWERS: dict[str, dict[str, Any]] = {  # what distinguishes the families
    "clip_vision_model": {"class_token": True, "pre_norm": True, "patch_bias": False},
    "siglip_vision_model": {"class_token": False, "pre_norm": False, "patch_bias": True},
}
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's, 2021
# Parts of a published tower that a language model does not read: they serve the comparison of pictures with captions.
_UNREAD = ("vision_tower.post_layernorm.", "vision_tower.head.", "vision_tower.embeddings.position_ids")


@dataclass(frozen=True, slots=True)
class Zeros:
    """A tensor that a folder does not hold because it is zero (a `weights.Source`)."""

    file: Path
    shape: tuple[int, ...]
    row_bytes: int = 4

    def rows(self, chosen: slice) -> torch.Tensor:
        """So many zeros."""
        return torch.zeros(chosen.stop - chosen.start, *self.shape[1:])


def load(folder: str | Path, dtype: torch.dtype | None = None) -> SeeingModel:
    """The model of a LLaVA folder, in evaluation mode; `dtype` None keeps the numbers as they are stored.

    Raises `MalmoiError` for a folder that is no LLaVA model, for a part that would be computed differently here, and
    for tensors that are missing, not expected, misshapen or not finite.
    """
    folder = Path(folder).expanduser()
    said = read_json(folder / CONFIG)
    try:
        vision_config = read_vision_config(said, _preprocessing(folder))
        config, bare = read_text_config(said)
    except MalmoiError as error:
        raise MalmoiError(f"{folder / CONFIG}: {error}") from None
    with torch.device("meta"):
        language, vision = GPT4LMHeadModel(config), Vision(vision_config, config.hidden_size)
    parts = _parts(folder)
    sources: dict[str, Any] = dict(parts["language"])
    if bare is not None:
        sources |= {
            f"model.layers.{i}.self_attn.o_proj.bias": Zeros(folder, (config.hidden_size,))
            for i in range(config.num_hidden_layers)
        }
    family = families.family_named({"model_type": bare or said["text_config"]["model_type"]})
    held = sum(int(torch.Size(source.shape).numel()) for source in sources.values())
    if count_parameters(config) > 2 * held:
        raise MalmoiError(f"{folder}: {CONFIG} describes a text model that the weights do not hold.")
    stored = loading.Stored(folder, family, sources, (), packed=False)
    language.load_state_dict(loading.read_state(stored, language, dtype), strict=True, assign=True)
    language.tie_weights()
    vision.load_state_dict(_vision_state(folder, parts["vision"], vision, language.dtype), strict=True, assign=True)
    return SeeingModel(language, vision).eval()


def save(seeing: SeeingModel, folder: str | Path, tokenizer: Any = None) -> None:
    """Write a LLaVA folder, all at once, that `load` and transformers' `LlavaForConditionalGeneration` open.

    Raises `MalmoiError` when the disk refuses, and for a tower that is neither CLIP's kind nor SigLIP's.
    """
    config, vision = seeing.config, seeing.vision.config
    said = families.to_config(config.replace(image_token_id=None))
    family = families.family_named(said)
    tensors = {
        f"language_model.{name}": tensor
        for name, tensor in loading.stored_tensors(seeing.language_model, family, packed=False)
    }
    patch = vision.patch_size
    for name, tensor in seeing.vision.state_dict().items():
        tensors[name] = tensor.view(-1, 3, patch, patch) if name == PATCHES else tensor
    for part, start in (("weight", torch.ones), ("bias", torch.zeros)):  # there, but read by nobody
        tensors[f"vision_tower.post_layernorm.{part}"] = start(vision.hidden_size, dtype=seeing.language_model.dtype)
    with replaced(Path(folder).expanduser().absolute()) as new:
        weights.write(tensors.items(), new)
        if tokenizer is not None:
            tokenizer.save_pretrained(new)
        mean_and_std = {"image_mean": list(vision.image_mean), "image_std": list(vision.image_std)}
        size = {"height": vision.image_size, "width": vision.image_size}
        write_json(new / PREPROCESSING, {**mean_and_std, "size": size, "do_normalize": True, "rescale_factor": 1 / 255})
        kind = str(seeing.language_model.dtype).removeprefix("torch.")
        write_json(
            new / CONFIG, {**_said_of_vision(vision), "text_config": said, "dtype": kind} | _said_of_both(config)
        )


def _said_of_vision(vision: VisionConfig) -> dict[str, Any]:
    """The tower and the projector in their names."""
    traits = {name: getattr(vision, name) for name in ("class_token", "pre_norm", "patch_bias")}
    kind = next((kind for kind, known in _TOWERS.items() if known == traits), None)
    if kind is None:
        raise MalmoiError(f"No published family of vision towers has {traits}, so there is no folder to write it as.")
    sizes = {name: getattr(vision, name) for name in _SIZES[kind]}
    full = vision.keep_class_token or not vision.class_token
    layers = list(vision.feature_layers)
    return {
        "vision_config": {"model_type": kind, **sizes} | ({} if vision.class_token else {"vision_use_head": False}),
        "vision_feature_layer": layers[0] if len(layers) == 1 else layers,
        "vision_feature_select_strategy": "full" if full else "default",
        "projector_hidden_act": vision.projector_act,
        "multimodal_projector_bias": vision.projector_bias,
        "image_seq_length": vision.features,
    }


def _said_of_both(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "image_token_index": config.image_token_id,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def read_text_config(said: Mapping[str, Any]) -> tuple[ModelConfig, str | None]:
    """The language model's configuration, and "llama" where it is a Qwen2 read as one."""
    text = said.get("text_config")
    if said.get("model_type") != MODEL_TYPE or not isinstance(text, Mapping):
        raise MalmoiError(f"model_type is '{said.get('model_type')}'; '{MODEL_TYPE}' with a text_config is read here.")
    token = said.get("image_token_index", said.get("image_token_id", 32_000))
    text = {**text, "model_type": text.get("model_type", "llama")}
    bare = None
    if text["model_type"] == "qwen2":
        if text.get("use_sliding_window"):
            raise MalmoiError("use_sliding_window=true is not supported for a text model of type 'qwen2'.")
        bare = "llama"
        defaults = {"num_key_value_heads": 32, "tie_word_embeddings": False}
        kept = {key: value for key, value in text.items() if key not in ("layer_types", "sliding_window")}
        text = {**defaults, **kept, "model_type": bare, "attention_bias": True, "mlp_bias": False}
    if said.get("tie_word_embeddings") and "tie_word_embeddings" not in text:
        text["tie_word_embeddings"] = True
    return families.from_config(text).replace(image_token_id=token), bare


def read_vision_config(said: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> VisionConfig:
    """The tower's and projector's configuration in our names."""
    vision = said.get("vision_config")
    kind = vision.get("model_type") if isinstance(vision, Mapping) else None
    if not isinstance(vision, Mapping) or kind not in _TOWERS:
        raise MalmoiError(f"The vision tower is of type '{kind}'; known: {', '.join(_TOWERS)}.")
    strategy = said.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise MalmoiError(f"vision_feature_select_strategy={strategy!r} is not known; 'default' and 'full' are.")
    if kind == "siglip_vision_model" and strategy == "default":
        raise MalmoiError(
            "vision_feature_select_strategy='default' drops a class token, but a SigLIP tower has none: it would drop "
            "the first patch. Published folders with SigLIP say 'full'."
        )
    layers = said.get("vision_feature_layer", -2)
    sizes = {key: vision.get(key, default) for key, default in _SIZES[kind].items()}
    mean, std = (_CLIP_MEAN, _CLIP_STD) if kind == "clip_vision_model" else ((0.5,) * 3, (0.5,) * 3)
    return VisionConfig(
        **_TOWERS[kind],
        **sizes,
        feature_layers=(layers,) if isinstance(layers, int) else tuple(layers),
        keep_class_token=strategy == "full" and kind == "clip_vision_model",
        projector_act=said.get("projector_hidden_act", "gelu"),
        projector_bias=said.get("multimodal_projector_bias", True),
        image_mean=tuple(preprocessing.get("image_mean", mean)),
        image_std=tuple(preprocessing.get("image_std", std)),
    )


def _preprocessing(folder: Path) -> Mapping[str, Any]:
    path = folder / PREPROCESSING
    return read_json(path) if path.is_file() else {}


def _parts(folder: Path) -> dict[str, dict[str, weights.Entry]]:
    """The folder's tensors as the language model's and the vision's, each under its own names."""
    parts: dict[str, dict[str, weights.Entry]] = {"language": {}, "vision": {}}
    strange = []
    for name, entry in weights.catalogue(folder).items():
        bare = name.removeprefix("model.")
        if bare.startswith(("language_model.lm_head.", "lm_head.")):
            parts["language"][bare.removeprefix("language_model.")] = entry
        elif bare.startswith("language_model."):
            parts["language"]["model." + bare.removeprefix("language_model.").removeprefix("model.")] = entry
        elif bare.startswith(("vision_tower.", "multi_modal_projector.")):
            parts["vision"][bare.replace("vision_tower.vision_model.", "vision_tower.")] = entry
        else:
            strange.append(name)
    if strange:
        raise MalmoiError(f"{folder}: holds tensors that no part of a LLaVA model has: {weights.listed(strange)}.")
    return parts


def _vision_state(
    folder: Path, held: Mapping[str, weights.Entry], vision: Vision, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    wanted = vision.state_dict()
    unread = [name for name in held if name not in wanted and not _is_unread(name, vision)]
    missing = sorted(set(wanted) - set(held))
    if missing or unread:
        parts = [f"missing: {weights.listed(missing)}"] if missing else []
        parts += [f"not expected: {weights.listed(sorted(unread))}"] if unread else []
        raise MalmoiError(f"{folder}: the vision's weights do not fit {CONFIG} ({'; '.join(parts)}).")
    state = {name: torch.empty(tensor.shape, dtype=dtype) for name, tensor in wanted.items()}
    patch = vision.config.patch_size
    for name, tensor in state.items():
        view = tensor.view(-1, 3, patch, patch) if name == PATCHES else tensor  # there it is a convolution's kernel
        if held[name].shape != tuple(view.shape):
            raise MalmoiError(
                f"{held[name].file}: tensor '{name}' has shape {list(held[name].shape)}, but {CONFIG} asks for "
                f"{list(view.shape)}."
            )
        weights.pour(held[name], name, [((), view)], 0)
    return state


def _is_unread(name: str, vision: Vision) -> bool:
    """A part that serves other purposes, or a layer after the last one that features are taken from."""
    if name.startswith(_UNREAD):
        return True
    start = "vision_tower.encoder.layers."
    number = name.removeprefix(start).split(".")[0]
    return name.startswith(start) and number.isdecimal() and int(number) >= len(vision.vision_tower.encoder.layers)
