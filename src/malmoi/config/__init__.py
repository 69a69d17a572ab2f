"""Every setting of Malmoi: what may be written, its bounds, its default.

Four frozen records: `ModelConfig` (what the network is), `TrainConfig` (how it learns), `GenerationConfig` (how it
speaks) and `Recipe` (one training run: the three together with a tokenizer and data). A record refuses a key that it
does not know and names the nearest one that it does; what is left out is filled in, so that a record written to YAML is
complete.

What each field *means* (what it is, why it exists, what to try; English and Korean) stands in `malmoi/texts.yaml`
and is read by `explain`, the command line's help, the page and the docs.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from malmoi.config.frozen import Config, MalmoiError, allowed_words, branches, nearest
from malmoi.config.images import ImageTokenizerConfig
from malmoi.config.vision import VisionConfig

__all__ = [
    "CONFIGS",
    "ROPE_FIELDS",
    "Config",
    "DataConfig",
    "GenerationConfig",
    "ImageTokenizerConfig",
    "MalmoiError",
    "ModelConfig",
    "ParallelConfig",
    "Recipe",
    "RopeParameters",
    "SourceConfig",
    "TrainConfig",
    "explain",
    "nearest",
    "texts",
]

_DERIVED: Any = None  # the default of a field that is filled in from others: never None in a finished record


class RopeParameters(Config):
    """How rotary positions turn: Hugging Face's `rope_parameters`. Which fields belong to which type: `ROPE_FIELDS`."""

    rope_type: Literal["default", "linear", "llama3", "yarn"] = "default"
    rope_theta: float = Field(default=10_000.0, gt=0)
    factor: float | None = Field(default=None, ge=1)
    original_max_position_embeddings: int | None = Field(default=None, ge=1, le=100_000_000)
    low_freq_factor: float | None = Field(default=None, gt=0)
    high_freq_factor: float | None = Field(default=None, gt=0)
    beta_fast: float | None = Field(default=None, gt=0)
    beta_slow: float | None = Field(default=None, gt=0)
    attention_factor: float | None = Field(default=None, gt=0)
    mscale: float | None = Field(default=None, gt=0)
    mscale_all_dim: float | None = Field(default=None, gt=0)
    truncate: bool | None = None

    @model_validator(mode="after")
    def _fields_of_the_type(self) -> RopeParameters:
        required, optional = ROPE_FIELDS[self.rope_type]
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        missing = [name for name in required if name not in given]
        if missing:
            raise MalmoiError(f"rope_type '{self.rope_type}' needs {', '.join(missing)}.")
        idle = sorted(given - {"rope_type", "rope_theta", *required, *optional})
        if idle:
            raise MalmoiError(
                f"{', '.join(idle)} would have no effect with rope_type '{self.rope_type}'; leave it out."
            )
        low, high = self.low_freq_factor, self.high_freq_factor
        if low is not None and high is not None and low >= high:
            raise MalmoiError(f"low_freq_factor={low:g} must be smaller than high_freq_factor={high:g}.")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


ROPE_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # type -> (required, optional)
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"), ()),
    "yarn": (
        ("factor", "original_max_position_embeddings"),
        ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"),
    ),
}


class ModelConfig(Config):
    """What the network is. The names are the ones that Hugging Face configurations use.

    The default is the modern layout (RMSNorm, rotary positions, normalised queries and keys, grouped-query attention,
    gated feed-forward: the Qwen3 layout). GPT-2's is `norm="layer_norm", positions="learned", feed_forward="plain",
    qk_norm=False, attention_bias=True, mlp_bias=True, hidden_act="gelu_pytorch_tanh"`.
    """

    vocab_size: int = Field(default=32_000, ge=2, le=10_000_000)
    hidden_size: int = Field(default=768, ge=2, le=1_000_000)
    num_hidden_layers: int = Field(default=12, ge=1, le=10_000)
    num_attention_heads: int = Field(default=12, ge=1, le=10_000)
    num_key_value_heads: int = Field(default=_DERIVED, ge=1, le=10_000)  # None: as many as num_attention_heads
    head_dim: int = Field(default=_DERIVED, ge=2, le=16_384)  # None: hidden_size / num_attention_heads
    intermediate_size: int = Field(default=_DERIVED, ge=1, le=10_000_000)  # None: 4 x hidden, or 8/3 x where gated
    max_position_embeddings: int = Field(default=1024, ge=1, le=100_000_000)

    positions: Literal["rotary", "learned"] = "rotary"
    rope_parameters: RopeParameters = Field(default_factory=lambda: RopeParameters())
    norm: Literal["rms_norm", "layer_norm"] = "rms_norm"
    norm_eps: float = Field(default=1e-6, gt=0, lt=1)
    norm_placement: Literal["pre", "post"] = "pre"
    norm_affine: bool = True
    qk_norm: bool = True
    attention_sinks: bool = False
    feed_forward: Literal["gated", "plain"] = "gated"
    hidden_act: Literal["silu", "gelu", "gelu_pytorch_tanh", "relu"] = "silu"
    swiglu_limit: float | None = Field(default=None, gt=0)  # None: the plain gate
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = True
    ngram_sizes: tuple[Annotated[int, Field(ge=2, le=8)], ...] = ()  # such as [2, 3]; none: no such tables
    ngram_vocab_size: int = Field(default=16_384, ge=2, le=1_000_000_000)

    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] = Field(default=_DERIVED)  # None: all full
    sliding_window: int | None = Field(default=None, ge=1)
    num_experts: int = Field(default=0, ge=0, le=100_000)  # 0: every feed-forward is dense
    num_experts_per_tok: int = Field(default=2, ge=1, le=1_000)
    moe_intermediate_size: int = Field(default=_DERIVED, ge=1, le=10_000_000)  # None: intermediate_size
    router_bias: bool = False
    router_aux_loss_coef: float = Field(default=0.01, ge=0, le=10)

    embedding_dropout: float = Field(default=0.0, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    residual_dropout: float = Field(default=0.0, ge=0, lt=1)
    initializer_range: float = Field(default=0.02, gt=0, le=10)

    bos_token_id: int | None = Field(default=None, ge=0)
    eos_token_id: int | None = Field(default=None, ge=0)
    pad_token_id: int | None = Field(default=None, ge=0)
    image_token_id: int | None = Field(default=None, ge=0)  # where the features of pictures stand; None: nowhere

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: dict[str, Any]) -> dict[str, Any]:
        def whole(key: str) -> int:
            value = cls.model_fields[key].default if values.get(key) is None else values[key]
            try:
                return 0 if isinstance(value, bool) else int(value)
            except (TypeError, ValueError, OverflowError):
                return 0

        hidden, heads, layers = whole("hidden_size"), whole("num_attention_heads"), whole("num_hidden_layers")
        if min(hidden, heads, layers) < 1:
            return values  # the fields' own checks will say so
        filled = {key: value for key, value in values.items() if value is not None}
        if "head_dim" not in filled and hidden % heads:
            raise MalmoiError(
                f"hidden_size={hidden} does not divide into num_attention_heads={heads} heads. Choose a multiple, "
                f"such as {max(hidden // heads, 1) * heads}, or set head_dim."
            )
        gated = filled.get("feed_forward", "gated") == "gated"
        for key, value in _following(hidden, heads, min(layers, 10_000), gated).items():
            filled.setdefault(key, value)
        filled.setdefault("moe_intermediate_size", filled["intermediate_size"])
        return filled

    def _said(self) -> dict[str, Any]:
        gated = self.feed_forward == "gated"
        following = _following(self.hidden_size, self.num_attention_heads, self.num_hidden_layers, gated)
        following["moe_intermediate_size"] = self.intermediate_size
        return {key: value for key, value in self.model_dump().items() if following.get(key) != value}

    @model_validator(mode="after")
    def _numbers_fit(self) -> ModelConfig:
        def require(true: bool, message: str) -> None:
            if not true:
                raise MalmoiError(message)

        heads, shared = self.num_attention_heads, self.num_key_value_heads
        require(
            heads % shared == 0,
            f"num_attention_heads={heads} is not a multiple of num_key_value_heads={shared}: each key/value head is "
            f"shared by the same number of query heads.",
        )
        require(
            self.positions != "rotary" or self.head_dim % 2 == 0,
            f"head_dim={self.head_dim} is odd, but rotary positions turn pairs of numbers.",
        )
        require(
            len(self.layer_types) == self.num_hidden_layers,
            f"layer_types names {len(self.layer_types)} layers, but num_hidden_layers={self.num_hidden_layers}.",
        )
        require(
            "sliding_attention" not in self.layer_types or self.sliding_window is not None,
            "layer_types asks for sliding_attention, but sliding_window is not set.",
        )
        require(
            self.swiglu_limit is None or (self.feed_forward == "gated" and self.hidden_act == "silu"),
            'swiglu_limit bounds a gate: it needs feed_forward="gated" and hidden_act="silu".',
        )
        require(
            len(set(self.ngram_sizes)) == len(self.ngram_sizes),
            f"ngram_sizes={list(self.ngram_sizes)} names a length twice.",
        )
        require(
            self.num_experts == 0 or self.num_experts_per_tok <= self.num_experts,
            f"num_experts_per_tok={self.num_experts_per_tok} is more than num_experts={self.num_experts}.",
        )
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "image_token_id"):
            token = getattr(self, name)
            require(
                token is None or token < self.vocab_size, f"{name}={token} is outside vocab_size={self.vocab_size}."
            )
        return self


def _following(hidden: int, heads: int, layers: int, gated: bool) -> dict[str, Any]:
    """Sizes that nobody gave. A gated network of two thirds of 4 x hidden weighs as much as a plain one of 4 x."""
    return {
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "intermediate_size": -(-hidden * 8 // 3 // 32) * 32 if gated else 4 * hidden,
        "layer_types": ("full_attention",) * layers,
    }


class TrainConfig(Config):
    """How the network learns: one record for pretraining, instruction tuning and everything between."""

    sequence_length: int = Field(default=256, ge=8, le=10_000_000)
    per_device_train_batch_size: int = Field(default=32, ge=1, le=1_000_000)  # rows of sequence_length tokens
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=100_000)
    max_steps: int | None = Field(default=None, ge=1)  # None: from max_minutes or num_train_epochs
    max_minutes: float | None = Field(default=None, gt=0)  # a budget: turned into max_steps by timing the first steps
    num_train_epochs: float | None = Field(default=None, gt=0)

    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = Field(default=3e-3, gt=0, le=10)  # AdamW's
    matrix_learning_rate: float = Field(default=0.02, gt=0, le=10)  # Muon's, for the hidden layers' matrices
    weight_decay: float = Field(default=0.1, ge=0, le=10)  # matrices only
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0, le=1)
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, ge=0)  # 0: no clipping
    spike_threshold: float = Field(default=12.0, ge=0)  # robust deviations above the usual loss; 0: never skip a spike
    max_skipped_steps: int = Field(default=5, ge=1, le=100)  # of the last 100 steps, before the run gives up
    label_smoothing: float = Field(default=0.0, ge=0, le=0.5)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)  # of the averaged weights; 0: none are kept
    freeze: tuple[str, ...] = ()  # patterns of parameters that stay as they are: "model.layers.0.*"

    lr_scheduler_type: Literal["cosine", "linear", "warmup_stable_decay", "constant"] = "warmup_stable_decay"
    warmup_steps: float = Field(default=0.02, ge=0)  # below 1: a share of max_steps
    decay_steps: float = Field(default=0.4, ge=0)  # warmup_stable_decay's tail; below 1: a share of max_steps
    min_learning_rate_ratio: float = Field(default=0.0, ge=0, le=1)
    short_rows_steps: float = Field(default=0.0, ge=0)  # first updates with rows cut in two; below 1: a share

    eval_steps: int = Field(default=100, ge=1)
    eval_tokens: int = Field(default=100_000, ge=1)  # of held-out text, the same ones every time
    early_stopping_patience: int = Field(default=0, ge=0)  # evaluations without a better loss; 0: never
    early_stopping_threshold: float = Field(default=0.0, ge=0)  # nats by which an evaluation must be better
    load_best_model_at_end: bool = True
    memorization_samples: int = Field(default=32, ge=0, le=10_000)  # texts continued to look for copies; 0: off

    save_steps: int = Field(default=500, ge=1)
    save_total_limit: int = Field(default=2, ge=1)
    logging_steps: int = Field(default=10, ge=1)
    track: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()  # where the numbers are sent besides our files
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    num_threads: int = Field(default=0, ge=0, le=4096)  # 0: torch's choice
    torch_compile: bool = False  # the blocks become one fused program each, before the first step
    seed: int = Field(default=0, ge=0, lt=2**63)


class GenerationConfig(Config):
    """How the network speaks. A sampling setting that differs from its neutral value implies sampling."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    max_length: int | None = Field(default=None, ge=1)  # prompt included; max_new_tokens wins
    min_new_tokens: int = Field(default=0, ge=0)
    do_sample: bool | None = None  # None: implied by the settings below
    temperature: float = Field(default=1.0, ge=0, le=100)  # 0: greedy
    top_k: int = Field(default=0, ge=0)  # 0: off
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=100)
    presence_penalty: float = Field(default=0.0, ge=-100, le=100)  # 0: off
    frequency_penalty: float = Field(default=0.0, ge=-100, le=100)  # 0: off
    no_repeat_ngram_size: int = Field(default=0, ge=0)  # 0: off
    logit_bias: dict[int, float] = Field(default_factory=dict)  # token id -> what is added to its score
    num_beams: int = Field(default=1, ge=1, le=1_000)  # 1: no beam search
    guidance_scale: float = Field(default=1.0, ge=0, le=100)  # 1: off
    length_penalty: float = Field(default=1.0, ge=-10, le=10)  # of beam search
    early_stopping: bool | Literal["never"] = False  # of beam search
    num_return_sequences: int = Field(default=1, ge=1, le=10_000)
    stop_strings: tuple[str, ...] = ()
    seed: int | None = Field(default=None, ge=0, lt=2**63)  # None: drawn, and reported
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = Field(default=None, ge=0)
    bos_token_id: int | None = Field(default=None, ge=0)
    use_cache: bool = True


class ParallelConfig(Config):
    """How the processes of a job share one run. The product of the first four is the number of processes."""

    data_parallel_shard: int | None = Field(default=None, ge=1, le=1_000_000)  # None: the processes that are left
    data_parallel_replicate: int = Field(default=1, ge=1, le=1_000_000)
    tensor_parallel: int = Field(default=1, ge=1, le=1_024)
    pipeline_parallel: int = Field(default=1, ge=1, le=1_024)
    pipeline_schedule: Literal["1f1b", "interleaved"] = "1f1b"
    expert_parallel: int = Field(default=1, ge=1, le=100_000)  # borrows the shard axis
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    async_checkpoints: bool = False


class SourceConfig(Config):
    """One source of text in a mixture: where it lies, how a document is read from it, how much it counts."""

    path: str | tuple[str, ...]  # files, folders, globs, or "village"
    name: str | None = None  # None: from the path
    weight: float | None = Field(default=None, gt=0)  # share of the tokens seen; None: its natural size
    epochs: float | None = Field(default=None, gt=0)  # instead of weight: how often to go through it
    field: str | None = None  # of a JSON record; None: text or messages
    template: str | None = None  # over a table's columns: "English: {en}\nFrench: {fr}"
    image: str | None = None  # the field that holds a picture: a path beside the file, or a data URI
    license: str | None = None


class DataConfig(Config):
    """What to learn from, and which part of it is kept aside to measure on."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    held_out: float = Field(default=0.02, ge=0, le=0.5)  # share of documents, chosen by their hash
    validation: tuple[SourceConfig, ...] = ()  # files to measure on instead


class LoraConfig(Config):
    """Which matrices of a finished model get a small, learned addition (LoRA: Hu et al., 2021), and how large it is."""

    r: int = Field(default=8, ge=1, le=4096)  # rank
    lora_alpha: float = Field(default=16, gt=0, le=1_000_000)  # the addition is scaled by lora_alpha / r
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = ()  # ends of names, or patterns with *; empty: attention and feed-forward
    use_rslora: bool = False  # scale by lora_alpha / sqrt(r) instead
    modules_to_save: tuple[str, ...] = ()  # modules that learn whole, and are saved with the adapter


class Recipe(Config):
    """One training run from beginning to end, as a YAML file holds it."""

    data: DataConfig
    size: str | None = None  # the dial; `model` and `train` override what follows from it
    start_from: str | None = None  # a model folder to continue from
    lora: LoraConfig | None = None  # adapt `start_from` by LoRA instead of changing all its weights
    tokenizer: str | None = None  # a folder; None: learned from the data
    vocab_size: int = Field(default=8192, ge=256, le=1_000_000)
    image_tokenizer: str | None = None  # a folder; pictures are read and drawn with it
    images: ImageTokenizerConfig | None = None  # learn one from the data's pictures
    vision: VisionConfig | None = None  # read pictures that are given through a vision tower, trained with the model
    model: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    generation: dict[str, Any] = Field(default_factory=dict)
    parallel: ParallelConfig = Field(default_factory=ParallelConfig)  # of a job of several processes (torchrun)


CONFIGS: tuple[type[Config], ...] = (
    ModelConfig,
    RopeParameters,
    TrainConfig,
    GenerationConfig,
    SourceConfig,
    DataConfig,
    ImageTokenizerConfig,
    VisionConfig,
    LoraConfig,
    ParallelConfig,
    Recipe,
)


@functools.cache
def texts() -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    """The explanations: record -> field -> language ("en", "ko") -> {"what", "why", "try"}."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(Path(__file__).parents[1].joinpath("texts.yaml").read_text(encoding="utf-8"), Loader=loader)


def explain(name: str, language: str = "en") -> list[dict[str, str]]:
    """What a setting is, why it exists and what to try; one entry for each record that has the field.

    Returns dictionaries with `record`, `field`, `allowed`, `default`, `what`, `why`, `try`.
    Raises `MalmoiError` with the nearest known name when no record has the field.
    """
    entries = []
    for cls in CONFIGS:
        if name in cls.model_fields:
            info = cls.model_fields[name]
            words = texts()[cls.__name__][name][language]
            entries.append(
                {
                    "record": cls.__name__,
                    "field": name,
                    "allowed": allowed_words(info),
                    "default": _default(info),
                    **words,
                }
            )
    if not entries:
        known = sorted({field for cls in CONFIGS for field in cls.model_fields})
        raise MalmoiError(f"There is no setting '{name}'.{nearest(name, known)} All settings: {', '.join(known)}.")
    return entries


def _default(info: Any) -> str:
    """What a field holds when nobody sets it, in a person's words."""
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is None:
        return "nothing" if type(None) in branches(info.annotation) else "follows from other settings"
    if isinstance(value, Config):
        return ", ".join(f"{key}: {held}" for key, held in value.model_dump().items())
    return str(value).lower() if isinstance(value, bool) else str(value)
