"""Attention: each position asks a question (query), every earlier one offers a label (key) and a content (value).

The answer is the contents' average, weighted by how well the labels fit the question (Vaswani et al., 2017). Several
query heads may share one key/value head (grouped-query attention: Ainslie et al., 2023), which makes the cache small.
Queries and keys may be normalised before they meet (Dehghani et al., 2023), which keeps their product from growing.
A head whose weights must sum to one has to look somewhere even when nothing concerns it; with a learned sink (gpt-oss)
it may put part of its weight on nothing at all.

Who may see whom is decided once for a forward pass (`Sight`) and shared by all layers: never the future, never padding,
never another document of a packed row, and in layers with a window never further back than that.

B batch, T tokens that ask, S tokens that are seen (past and new), H query heads, K key/value heads, D head size
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from malmoi import layers
from malmoi.model import fused
from malmoi.model.cache import Cache
from malmoi.model.norm import RMSNorm, build_norm
from malmoi.model.position import Rotation, rotate
from malmoi.model.taps import Tap


class Sight:
    """Which tokens each token may attend to: one boolean mask (B or 1, 1, T, S) for each window in use.

    Where "all earlier tokens" is the whole rule there is no mask at all, and the faster causal kernel is used.
    """

    def __init__(
        self,
        tokens: int,
        past: int,
        windows: Iterable[int | None],
        device: torch.device,
        real: torch.Tensor | None = None,  # (B, S), true where a token is not padding
        document_ids: torch.Tensor | None = None,  # (B, T), without a past
    ) -> None:
        self.tokens, self.past, self.device = tokens, past, device
        shared: torch.Tensor | None = None
        if document_ids is not None:
            shared = document_ids[:, None, :, None] == document_ids[:, None, None, :]
        if real is not None:
            # a padded position may see itself: a row of the softmax without any entry would be 0/0
            own = self._asking() == self._seen()
            visible = real[:, None, None, :] | own
            shared = visible if shared is None else shared & visible
        self._additive: dict[tuple[int | None, torch.dtype], torch.Tensor] = {}
        self._masks = {window: self._mask(window, shared) for window in set(windows)}

    def mask(self, window: int | None) -> torch.Tensor | None:
        """The mask of layers with this window; None: all earlier tokens."""
        return self._masks[window]

    def matrix(self, window: int | None) -> torch.Tensor:
        """The same as `mask`, but always written out."""
        mask = self._masks[window]
        return self._causal(window)[None, None] if mask is None else mask

    def additive(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """The same as `matrix`, as what is added to scores: 0 where one may look, minus infinity elsewhere."""
        if (window, dtype) not in self._additive:
            visible = self.matrix(window)
            zeros = torch.zeros(visible.shape, dtype=dtype, device=self.device)
            self._additive[window, dtype] = zeros.masked_fill_(~visible, float("-inf"))
        return self._additive[window, dtype]

    def _asking(self) -> torch.Tensor:
        return torch.arange(self.past, self.past + self.tokens, device=self.device)[:, None]

    def _seen(self) -> torch.Tensor:
        return torch.arange(self.past + self.tokens, device=self.device)[None, :]

    def _causal(self, window: int | None) -> torch.Tensor:
        distance = self._asking() - self._seen()  # (T, S)
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)

    def _mask(self, window: int | None, shared: torch.Tensor | None) -> torch.Tensor | None:
        reaches = window is None or window >= self.past + self.tokens
        if shared is None and reaches and (self.past == 0 or self.tokens == 1):
            return None
        causal = self._causal(window)
        return causal[None, None] if shared is None else shared & causal


class Attention(nn.Module):
    """Grouped-query attention with the names and the order of operations of Hugging Face's Qwen3."""

    def __init__(self, spec: layers.Attention, index: int) -> None:
        super().__init__()
        self.spec, self.index = spec, index
        queries, shared = spec.num_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
        self.q_proj = nn.Linear(spec.hidden_size, queries, bias=spec.bias)
        self.k_proj = nn.Linear(spec.hidden_size, shared, bias=spec.bias)
        self.v_proj = nn.Linear(spec.hidden_size, shared, bias=spec.bias)
        self.o_proj = nn.Linear(queries, spec.hidden_size, bias=spec.bias)
        self.q_norm = build_norm(spec.qk_norm) if spec.qk_norm else None
        self.k_norm = build_norm(spec.qk_norm) if spec.qk_norm else None
        self.sinks = nn.Parameter(torch.zeros(spec.num_heads)) if spec.sinks else None  # scores of looking at nothing
        self.queries = Tap()  # (B, H, T, D) normalised and turned
        self.keys = Tap()  # (B, K, T, D) normalised and turned, new tokens only
        self.values = Tap()  # (B, K, T, D) new tokens only
        self.pattern = Tap()  # (B, H, T, S) the weights, each row sums to 1 (less what a sink took); for reading only
        self.heads = Tap()  # (B, T, H, D) what each head gathered
        self.output = Tap()  # (B, T, hidden) all heads' contributions together

    def forward(self, x: torch.Tensor, turn: Rotation | None, sight: Sight, cache: Cache | None = None) -> torch.Tensor:
        spec = self.spec
        B, T, _ = x.shape
        q = self._placed(self.q_proj(x).view(B, T, spec.num_heads, spec.head_dim), self.q_norm, turn)
        k = self._placed(self.k_proj(x).view(B, T, spec.num_key_value_heads, spec.head_dim), self.k_norm, turn)
        v = self.v_proj(x).view(B, T, spec.num_key_value_heads, spec.head_dim).transpose(1, 2)
        q, k, v = self.queries(q), self.keys(k), self.values(v)  # (B, H or K, T, D)
        if cache is not None:
            k, v = cache.write(self.index, k, v)  # (B, K, S, D)
        if self.pattern.watched:
            self.pattern(pattern(q, k, sight.matrix(spec.window), self.sinks))
        heads = self.heads(self._gather(q, k, v, sight).transpose(1, 2))  # (B, T, H, D)
        return self.output(self.o_proj(heads.reshape(B, T, -1)))

    def _placed(self, x: torch.Tensor, norm: nn.Module | None, turn: Rotation | None) -> torch.Tensor:
        """Queries or keys (B, T, H, D), normed and turned to their positions: (B, H, T, D)."""
        turn = turn if self.spec.rotary else None
        weight = getattr(norm, "weight", None)
        plain = norm is None or (isinstance(norm, RMSNorm) and weight is not None)
        if turn is not None and plain and fused.pays(x) and x.shape[-1] <= fused.Heads.LARGEST:
            given = (x, turn.cos) if weight is None else (x, turn.cos, weight)
            if fused.compiled(*given):
                return fused.Heads.apply(x, weight, getattr(norm, "eps", 0.0), turn.cos, turn.sin)
        x = (x if norm is None else norm(x)).transpose(1, 2)
        return x if turn is None else rotate(x, turn)

    def _gather(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sight: Sight) -> torch.Tensor:
        """Each head's weighted average of the values: (B, H, T, D)."""
        spec, T = self.spec, q.shape[2]
        dropout = spec.dropout if self.training else 0.0
        if self.sinks is not None:
            return self._gather_with_sinks(q, k, v, sight.additive(spec.window, q.dtype), self.sinks, dropout)
        short = q.dtype in fused.SHORT_ROW_DTYPES and sight.past == 0 and T <= fused.LONGEST_ROW
        if short and dropout == 0.0 and fused.pays(q):
            return fused.Attend.apply(q, k, v, sight.additive(spec.window, q.dtype))
        mask = sight.mask(spec.window)
        if mask is not None and q.requires_grad:  # one for all layers, which else make and keep one each
            mask = sight.additive(spec.window, q.dtype)
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None and T > 1,
            enable_gqa=spec.num_heads != spec.num_key_value_heads,
        )

    def _gather_with_sinks(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, sinks: torch.Tensor, dropout: float
    ) -> torch.Tensor:
        """A sink is one more thing to look at, with a zero key and value: its score is what the mask adds to it."""
        B, H, T, _ = q.shape
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        column = sinks.to(mask.dtype)[None, :, None, None].expand(B, H, T, 1)
        mask = torch.cat((mask.expand(B, H, -1, -1), column), dim=-1)  # (B, H, T, S + 1)
        grouped = self.spec.num_heads != self.spec.num_key_value_heads
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, enable_gqa=grouped)


def pattern(
    queries: torch.Tensor, keys: torch.Tensor, visible: torch.Tensor, sinks: torch.Tensor | None = None
) -> torch.Tensor:
    """The attention weights (B, H, T, S) of queries (B, H, T, D) over keys (B, K, S, D), written out.

    With `sinks` (H,) the rows sum to less than one: the rest went to nothing.
    """
    B, H, T, D = queries.shape
    grouped = (
        queries.view(B, keys.shape[1], -1, T, D)
        if queries.is_contiguous()
        else queries.reshape(B, keys.shape[1], -1, T, D)
    )
    scores = grouped.float() @ keys[:, :, None].float().transpose(-1, -2) * D**-0.5  # (B, K, H/K, T, S)
    scores = scores.reshape(B, H, T, -1).masked_fill(~visible, float("-inf"))
    if sinks is None:
        return scores.softmax(dim=-1)
    nothing = sinks.float()[None, :, None, None].expand(B, H, T, 1)
    return torch.cat((scores, nothing), dim=-1).softmax(dim=-1)[..., :-1]
