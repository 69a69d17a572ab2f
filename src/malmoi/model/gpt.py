"""The model: token ids in, for each position a score for every possible next token out.

    ids -> embeddings (+ learned positions) -> block, block, ... -> norm -> lm_head -> logits

Everything that distinguishes a GPT-2 from a modern mixture of experts stands in the layer specs (`malmoi.layers`); this
file only joins the parts, decides once for a forward pass where each token stands and whom it may see, and measures the
loss. Parameter names are the ones of Hugging Face's Qwen3.

B batch, T tokens, D hidden size, V vocabulary
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from malmoi import randomness
from malmoi.config import GenerationConfig, MalmoiError, ModelConfig
from malmoi.layers import final_norm, layer_specs
from malmoi.model.attention import Sight
from malmoi.model.block import Block
from malmoi.model.cache import Cache
from malmoi.model.experts import Experts
from malmoi.model.ngrams import NGrams
from malmoi.model.norm import build_norm
from malmoi.model.position import positions_after_padding, positions_in_documents, rotation
from malmoi.model.taps import Tap

RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight", "experts.down_proj")  # what writes into the residual stream


@dataclass(slots=True)
class CausalLMOutput:
    """What a forward pass gives: `logits` (B, T, V), the mean `loss` if labels were given, the `cache` if one was."""

    logits: torch.Tensor
    loss: torch.Tensor | None = None
    cache: Cache | None = None


class Decoder(nn.Module):
    """The part of the network below the vocabulary: holds the embeddings and the blocks under Hugging Face's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        specs = layer_specs(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.positions == "learned"
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        sizes, rows = config.ngram_sizes, config.ngram_vocab_size
        self.embed_ngrams = NGrams(sizes, rows, config.hidden_size) if sizes else None
        self.embedded = Tap()  # (B, T, D)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(Block(spec, index) for index, spec in enumerate(specs))
        self.norm = build_norm(final_norm(config))
        self.normed = Tap()  # (B, T, D) what the vocabulary is compared with
        self.windows = frozenset(spec.attention.window for spec in specs)
        self.turning = (config.head_dim, config.rope_parameters) if not learned else None

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        sight: Sight,
        cache: Cache | None,
        image: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        x = self.embed_tokens(input_ids)  # (B, T, D)
        if image is not None:
            places, features = image  # (B, T), (N, D)
            x = x.masked_scatter(places[..., None], features.to(x.dtype))
        if self.embed_positions is not None:
            x = x + self.embed_positions(position_ids)
        if self.embed_ngrams is not None:
            x = x + self.embed_ngrams(input_ids, position_ids, cache.token_ids if cache is not None else None)
        x = self.dropout(self.embedded(x))
        turn = rotation(position_ids, *self.turning, x.dtype) if self.turning else None
        for layer in self.layers:
            x = layer(x, turn, sight, cache)
        return self.normed(self.norm(x))


class GPT4LMHeadModel(nn.Module):
    """A decoder-only transformer that predicts the next token.

    A new model is initialised from seed 0; `initialize(seed)` draws other weights. `config` is what it was built from,
    `generation_config` what `generate` does when it is not told otherwise.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
        )
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.logits = Tap()  # (B, T, V)
        self.tie_weights()
        if self.device.type != "meta":
            self.initialize(0)

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embed_tokens.weight.dtype

    def num_parameters(self) -> int:
        """How many learned numbers the model holds; tied embeddings count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def tie_weights(self) -> None:
        """Where the configuration says so, let the output read the same table as the input (Press & Wolf, 2017)."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @torch.no_grad()
    def initialize(self, seed: int = 0) -> None:
        """Draw all weights anew: a function of the seed, of each parameter's own name, and of nothing else.

        Matrices are normal with standard deviation `initializer_range`; those that write into the residual stream are
        smaller by sqrt(2 * layers), so that the stream's variance does not grow with depth (GPT-2, section 2.3). Norms
        start at one, biases and attention sinks at zero.
        """
        depth = (2 * self.config.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("bias", "sinks")):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                generator = torch.Generator().manual_seed(randomness.key(seed, f"initialize {name}"))
                scale = self.config.initializer_range * (depth if name.endswith(RESIDUAL_OUTPUTS) else 1.0)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)

    def hidden_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        document_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        image_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The network below its vocabulary: ids (B, T) to (B, T, D) after the final norm; `lm_head` makes logits of it.

        `attention_mask` (B, T) is 1 for real tokens (pad on the left); with a cache it may also cover the past.
        `document_ids` (B, T) confines attention to tokens of equal id. Positions are counted from each row's first real
        token, or from each document's first, unless `position_ids` (B, T) says otherwise. A `cache` is read and added
        to. `image_features` (N, D) stand in the places of the N placeholders (`config.image_token_id`), in order.
        Raises `MalmoiError` beyond the context, for ids outside the vocabulary, for shapes that do not fit, and where
        there are more or fewer features than placeholders.
        """
        past = cache.length if cache is not None else 0
        self._check(input_ids, past, position_ids)
        real = self._real(input_ids, attention_mask, cache)
        if document_ids is not None and past:
            raise MalmoiError("document_ids are for packed rows; they cannot be continued from a cache.")
        if position_ids is None:
            position_ids = self._positions(input_ids, past, real, document_ids)
        sight = Sight(input_ids.shape[1], past, self.model.windows, input_ids.device, real, document_ids)
        image = self._image(input_ids, image_features)
        hidden = self.model(input_ids, position_ids, sight, cache, image)
        if cache is not None:
            cache.advance(input_ids.shape[1], real, input_ids if self.config.ngram_sizes else None)
        return hidden

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        document_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        cache: Cache | None = None,
        logits_to_keep: int = 0,
        image_features: torch.Tensor | None = None,
    ) -> CausalLMOutput:
        """Ids (B, T) to logits (B, T, V), or of the last `logits_to_keep` positions only.

        `labels` (B, T) are the ids themselves, -100 where a token is not to be learned: position t is scored on
        labels[t + 1], as in transformers, so `model(ids, labels=ids).loss` is the mean next-token loss in nats. The
        other arguments are those of `hidden_states`.
        """
        hidden = self.hidden_states(input_ids, attention_mask, position_ids, document_ids, cache, image_features)
        kept = hidden[:, -logits_to_keep:] if logits_to_keep and labels is None else hidden
        logits = self.logits(self.lm_head(kept))
        if labels is None:
            return CausalLMOutput(logits, None, cache)
        targets = labels[:, 1:].flatten()
        total = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, ignore_index=-100, reduction="sum")
        loss = total / (targets != -100).sum().clamp(min=1)
        balance = self.auxiliary_loss()
        loss = loss if balance is None else loss + balance
        return CausalLMOutput(logits[:, -logits_to_keep:] if logits_to_keep else logits, loss, cache)

    def auxiliary_loss(self) -> torch.Tensor | None:
        """What the routers of the last training pass ask to add to the loss, weighted; None without experts.

        The balance losses of all layers are averaged. Taking it clears it, so that no graph outlives its step.
        """
        parts = []
        for layer in self.model.layers:
            if isinstance(layer.mlp, Experts) and layer.mlp.balance is not None:
                parts.append(layer.mlp.balance)
                layer.mlp.balance = None
        return self.config.router_aux_loss_coef * torch.stack(parts).mean() if parts else None

    def _check(self, input_ids: torch.Tensor, past: int, position_ids: torch.Tensor | None) -> None:
        if input_ids.dim() != 2 or input_ids.shape[1] == 0:
            raise MalmoiError(
                f"The model reads ids of shape (batch, tokens) with at least one token, but was given "
                f"{tuple(input_ids.shape)}."
            )
        context = self.config.max_position_embeddings
        end = past + input_ids.shape[1]
        if end > context:
            raise MalmoiError(
                f"{end} tokens are more than the model's context of {context} (max_position_embeddings). Shorten the "
                f"text, or use a model with a longer context."
            )
        if input_ids.device.type != "cpu" or torch.compiler.is_compiling():
            return  # looking at values would make an accelerator wait, and a compiler give up
        for name, ids, limit in (
            ("token id", input_ids, self.config.vocab_size),
            ("position", position_ids, context),
        ):
            if ids is not None and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
                wrong = int(ids.max()) if int(ids.max()) >= limit else int(ids.min())
                raise MalmoiError(f"The {name} {wrong} is outside the model's range, 0 to {limit - 1}.")

    def _image(
        self, input_ids: torch.Tensor, features: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Where features stand, and the features; None for a text. The model knows nothing of where they come from."""
        token = self.config.image_token_id
        if token is None and features is None:
            return None
        if token is None:
            raise MalmoiError("image_features were given, but the model has no image_token_id to mark their places.")
        places = input_ids == token
        count, given = int(places.sum()), 0 if features is None else len(features)
        if count != given:
            raise MalmoiError(
                f"There are {count} image placeholders (token {token}), but {given} image features. Each placeholder "
                f"stands for one feature."
            )
        width = self.config.hidden_size
        if features is not None and features.shape != (given, width):
            raise MalmoiError(f"image_features have shape {tuple(features.shape)}; ({given}, {width}) is needed.")
        return None if features is None or not count else (places, features)

    def _real(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, cache: Cache | None
    ) -> torch.Tensor | None:
        """Which of past and new positions (B, S) hold real tokens; None when all do."""
        past = cache.length if cache is not None else 0
        before = cache.real if cache is not None else None
        if attention_mask is None:
            if before is None:
                return None
            attention_mask = torch.ones_like(input_ids)
        B, T = input_ids.shape
        mask = attention_mask.bool()
        if mask.shape == (B, T) and past:
            if before is None:
                before = mask.new_ones(B, past)
            mask = torch.cat((before, mask), dim=1)
        if mask.shape != (B, past + T):
            raise MalmoiError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, but the ids have {(B, T)}"
                + (f" after a past of {past}." if past else ".")
            )
        if not torch.compiler.is_compiling() and bool(mask.all()):
            return None
        return mask

    @staticmethod
    def _positions(
        input_ids: torch.Tensor, past: int, real: torch.Tensor | None, document_ids: torch.Tensor | None
    ) -> torch.Tensor:
        if document_ids is not None:
            return positions_in_documents(document_ids)
        if real is not None:
            return positions_after_padding(real)[:, past:]
        return torch.arange(past, past + input_ids.shape[1], device=input_ids.device)[None]

    @classmethod
    def from_pretrained(cls, name: str | Path, dtype: torch.dtype | str | None = None) -> GPT4LMHeadModel:
        """The model of a folder, or of a name on the Hugging Face hub (`pip install 'malmoi[hub]'`)."""
        from malmoi.formats import huggingface

        return huggingface.from_pretrained(name, dtype=dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder that `from_pretrained`, transformers, vLLM and llama.cpp's converter read."""
        from malmoi.formats import huggingface

        huggingface.save(self, folder)

    def generate(
        self,
        input_ids: Any,
        attention_mask: torch.Tensor | None = None,
        tokenizer: Any = None,
        **settings: Any,
    ) -> torch.Tensor:
        """Continue prompts (B, T): returns (B * num_return_sequences, prompt and new tokens).

        Prompts are a tensor, lists of ids, or what a tokenizer returned. Settings are the fields of `GenerationConfig`;
        what is not given comes from `generation_config`. `tokenizer` is needed for `stop_strings`, and
        so that pictures come out whole (`malmoi.generate.image_form`).
        """
        from malmoi.generate import engine

        result = engine.generate(self, input_ids, attention_mask=attention_mask, tokenizer=tokenizer, **settings)
        return result.sequences
