"""DeepSeek-V3 in closed form: 671,026,419,200 parameters of a model that Malmoi counts but does not build.

Its attention is of another kind, *latent* attention: keys and values of all 128 heads are unfolded from one vector of
512 numbers, which is all that the cache has to keep. `GPT4LMHeadModel` has no such layer, so there is no preset to
build or train; the count is here because the model is the largest of these whose every number is public.

A layer's attention (arXiv 2412.19437, section 2.1.1; sizes from the released inference/configs/config_671B.json):

    queries     width x 1536, a norm of 1536, then 1536 x 128 heads x (128 plain + 64 rotary)
    keys        width x (512 + 64 rotary, shared by all heads), a norm of 512
    and values  512 x 128 heads x (128 for the key + 128 for the value)
    output      128 heads x 128 x width

The first three of 61 layers have a dense feed-forward of 18,432. The others have 256 experts of 2,048, of which a token
passes eight, one more *shared* expert that every token passes, and a router with a bias (which training moves to keep
the experts equally busy). Beside the model lies a module for multi-token prediction, one more such layer that guesses
the token after next; the main count leaves it out, as DeepSeek's does.

DeepSeek's README says 671B with 37B active. Its note on the weights says 36.7B "including" both tables of tokens, but
the sum is 36.63 without the input table and 37.55 with it.
"""

from __future__ import annotations

from malmoi.plan.counts import KINDS, Count, Kind, Totals

NAME = "deepseek-v3"
_WIDTH, _LAYERS, _DENSE_LAYERS, _HEADS, _VOCABULARY = 7168, 61, 3, 128, 129_280
_QUERY_RANK, _KEY_RANK, _PLAIN, _ROTARY, _VALUE = 1536, 512, 128, 64, 128
_DENSE, _EXPERT, _EXPERTS, _PER_TOKEN, _SHARED = 18_432, 2048, 256, 8, 1


def _attention() -> int:
    """The matrices of one latent attention."""
    queries = _WIDTH * _QUERY_RANK + _QUERY_RANK * _HEADS * (_PLAIN + _ROTARY)
    keys_and_values = _WIDTH * (_KEY_RANK + _ROTARY) + _KEY_RANK * _HEADS * (_PLAIN + _VALUE)
    return queries + keys_and_values + _HEADS * _VALUE * _WIDTH


def _norms() -> int:
    """The norms of one layer: before each half, and of the two latent vectors."""
    return 2 * _WIDTH + _QUERY_RANK + _KEY_RANK


def _gated(size: int) -> int:
    return 3 * _WIDTH * size


def _experts(used: int) -> int:
    """Router with its bias, the shared expert, and `used` of the others."""
    return (_WIDTH + 1) * _EXPERTS + (_SHARED + used) * _gated(_EXPERT)


def deepseek_v3() -> dict[Kind, Count]:
    """Total and active parameters by kind, without the module for multi-token prediction."""
    sparse = _LAYERS - _DENSE_LAYERS
    counts = dict.fromkeys(KINDS, Count(0, 0))

    def put(kind: Kind, total: int, active: int | None = None) -> None:
        counts[kind] = Count(total, total if active is None else active)

    put("attention", _LAYERS * _attention())
    put("feed_forward", _DENSE_LAYERS * _gated(_DENSE))
    put("expert", sparse * _experts(_EXPERTS), sparse * _experts(_PER_TOKEN))
    put("norm", _LAYERS * _norms() + _WIDTH)
    put("embedding", _VOCABULARY * _WIDTH)
    put("head", _VOCABULARY * _WIDTH)
    return counts


def deepseek_v3_totals() -> Totals:
    """The sums: 671,026,419,200 in all; 37,552,297,472 active, 36,625,618,432 without the input table."""
    counts = deepseek_v3().values()
    active = sum(count.active for count in counts)
    return Totals(sum(count.total for count in counts), active, active - _VOCABULARY * _WIDTH)


def multi_token_prediction() -> int:
    """What the module for multi-token prediction adds: one sparse layer, a matrix that joins two vectors, three norms.

    11,610,068,224; its tables of tokens are the model's own (DeepSeek's note on the weights: 11.5B).
    """
    layer = _attention() + _norms() + _experts(_EXPERTS)
    return layer + 2 * _WIDTH * _WIDTH + 3 * _WIDTH
