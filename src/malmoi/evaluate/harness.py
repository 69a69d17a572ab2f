"""Our model behind the questions of lm-evaluation-harness (lm_eval), the program that most published scores come from.

lm_eval turns every benchmark into three kinds of request, and a model that answers these can sit any of its exams:

- *loglikelihood*: how probable is this continuation after that context? (multiple choice: the likeliest answer wins);
- *loglikelihood_rolling*: how probable is this whole text? (perplexity, bits per byte);
- *generate_until*: what do you write after this context, up to one of these texts? (exact match).

`Backend` answers them with Malmoi's model and tokenizer. It keeps to what lm_eval's own backend for transformers (`hf`)
does, so that a number from here may be laid beside a published one: where context and continuation are cut apart, which
token stands before a text that has nothing before it, what is dropped when a text is too long (its beginning). A test
holds the two backends against each other, request by request.

lm_eval finds models in a table of its own and has no place where others could add themselves from outside. So this
module is also a way to start it that knows us, with lm_eval's own options:

    python -m malmoi.evaluate.harness --model malmoi --model_args pretrained=runs/quickstart/model --tasks ...

Shapes: B rows of a batch, T tokens of the longest, N scored tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from malmoi import randomness
from malmoi.config import MalmoiError, nearest
from malmoi.evaluate.perplexity import BATCH_TOKENS
from malmoi.generate.engine import generate
from malmoi.tokens import chat

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

MAX_GEN_TOKS = 256  # written where a task does not say how much, as in the hf backend
_LOGITS = 1 << 22  # numbers of logits held at a time: 16 MiB
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")

Pair = tuple[Any, list[int], list[int]]  # (context, continuation) or None for the cache; ids of either
Progress = Callable[[int, int], None]


def lm_eval(module: str) -> Any:
    """A module of lm_eval. Raises `MalmoiError` naming the extra where lm_eval is not installed."""
    try:
        return importlib.import_module(f"lm_eval.{module}")
    except ImportError as error:
        missing = "" if (error.name or "lm_eval").startswith("lm_eval") else f" (it misses '{error.name}')"
        raise MalmoiError(f"Benchmarks need the extra 'eval'{missing}: pip install 'malmoi[eval]'.") from None


class Backend:
    """What lm_eval asks of a model. `malmoi_lm()` is this class joined with lm_eval's own base class.

    `pretrained` is a model folder (or a hub name, or a model itself together with its `tokenizer`). `batch_size` is a
    number of rows, or "auto": as many as fit a few thousand tokens. `max_length` shortens the context;
    `prefix_token_id` replaces the token that stands before a text without context (else the beginning-of-text token
    where the tokenizer has one, else its end-of-text token). `seed` is that of tasks which sample.
    """

    cache_hook: Any  # lm_eval's: where answers are remembered if somebody asked for that

    def __init__(
        self,
        pretrained: str | Path | GPT4LMHeadModel,
        tokenizer: GPT4Tokenizer | None = None,
        *,
        batch_size: int | str | None = "auto",
        max_batch_size: int | None = None,
        max_length: int | None = None,
        prefix_token_id: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        seed: int = 1234,
        progress: Progress | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        for name in unknown:
            known = ("pretrained", "batch_size", "max_length", "prefix_token_id", "device", "dtype", "seed")
            raise MalmoiError(f"The model 'malmoi' has no argument '{name}'.{nearest(name, known)}")
        self.name = str(pretrained) if isinstance(pretrained, str | Path) else "model"
        self.model, self.tokenizer = _opened(pretrained, tokenizer, dtype)
        if device is not None and not (device.startswith("cuda") and not torch.cuda.is_available()):
            self.model.to(device)  # lm_eval asks for a GPU where nobody said anything; without one it is the processor
        self.model.eval()
        self.batch_size = _batch_size(batch_size)
        self.max_batch_size = max_batch_size
        context = self.model.config.max_position_embeddings
        self.max_length = min(max_length or context, context)
        if self.tokenizer.eos_token_id is None:
            raise MalmoiError("This tokenizer has no end-of-text token, which the benchmarks put before a text.")
        self._prefix_token_id = prefix_token_id
        self.seed, self.progress = seed, progress
        self._begin = self.tokenizer.encode("")  # what this tokenizer puts before every text, most often nothing
        self._conversing = False

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def eot_token_id(self) -> int:
        assert self.tokenizer.eos_token_id is not None  # seen to when this was made
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it, so that its first token is predicted from something."""
        bos = self.tokenizer.bos_token_id
        known = (self._prefix_token_id, bos, self.eot_token_id)
        return next(token for token in known if token is not None)

    @property
    def max_gen_toks(self) -> int:
        """How much is written where a task does not say; a small context keeps half of itself for the question."""
        return min(MAX_GEN_TOKS, self.max_length // 2)

    @property
    def tokenizer_name(self) -> str:
        return self.name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        return {"model_num_parameters": self.model.num_parameters(), "model_dtype": str(self.model.dtype)}

    # ---------------------------------------------------------------- text -> ids

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text. In a conversation (and only there) the spelling of a control token means the token."""
        if not self._conversing:
            return self.tokenizer.encode(string, add_special_tokens=add_special_tokens is not False)
        ids = self.tokenizer.encode_rendered(string)
        whole = add_special_tokens is False or ids[: len(self._begin)] == self._begin
        return ids if whole else [*self._begin, *ids]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Where the continuation's ids begin. Both texts are encoded as one, as the model would read them.

        A space at the end of the context belongs to the continuation, since tokens begin with their space. Where the
        two grow together into one token (Korean without a space between), that token is scored.
        """
        kept = context.rstrip()
        whole, head = self.tok_encode(context + continuation), self.tok_encode(kept)
        if len(head) >= len(whole):
            head = whole[: next((i for i, (a, b) in enumerate(zip(head, whole, strict=False)) if a != b), -1)]
        return whole[: len(head)] or [self.prefix_token_id], whole[len(head) :]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text. Without a generation prompt its last turn stays open: the model goes on with it."""
        self._conversing = True
        text = chat.render_text(self.tokenizer, chat_history, add_generation_prompt)
        if add_generation_prompt or not chat_history:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    def chat_template(self, chat_template: bool | str = False) -> str:
        return (self.tokenizer.chat_template or chat.TEMPLATE) if chat_template else ""

    # ---------------------------------------------------------------- how probable?

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """For each request the log-probability of its continuation, and whether greedy decoding would write it.

        The last token of a continuation is not read, it is only predicted; so requests that differ in it alone (the
        choices A, B, C, D) are one reading. Readings of similar length are batched, the longest first.
        """
        readings: dict[tuple[int, ...], list[int]] = {}
        for place, (_texts, head, tail) in enumerate(requests):
            if len(tail) > self.max_length:
                raise MalmoiError(
                    f"An answer of {len(tail)} tokens does not fit this model's context of {self.max_length}: this "
                    "task needs a model with a longer one."
                )
            readings.setdefault(tuple((head + tail)[-self.max_length - 1 : -1]), []).append(place)
        answers: dict[int, tuple[float, bool]] = {}
        for batch in self._batches(sorted(readings, key=len, reverse=True), len):
            ids = torch.zeros((len(batch), len(batch[0])), dtype=torch.long)
            for row, reading in enumerate(batch):
                ids[row, : len(reading)] = torch.tensor(reading)  # padded on the right, where no real token looks
            hidden = self.model.hidden_states(ids.to(self.device))  # (B, T, D)
            for row, reading in enumerate(batch):
                places = readings[reading]
                tails = [requests[place][2] for place in places]
                scored = hidden[row, len(reading) - max(map(len, tails)) : len(reading)]  # (N, D)
                for place, answer in zip(places, self._scores(scored, tails), strict=True):
                    answers[place] = answer
                    if requests[place][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[place][0], answer)
            self._report(len(answers), len(requests))
        return [answers[place] for place in range(len(requests))]

    def _scores(self, hidden: Tensor, tails: Sequence[Sequence[int]]) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy) of each tail, all of which end with what `hidden` (N, D) predicts."""
        width = hidden.shape[0]
        wanted = torch.zeros((width, len(tails)), dtype=torch.long, device=hidden.device)
        for column, tail in enumerate(tails):
            wanted[width - len(tail) :, column] = torch.tensor(tail)
        rows = max(64, _LOGITS // self.model.config.vocab_size)
        found, best = [], []
        for some, ids in zip(hidden.split(rows), wanted.split(rows), strict=True):
            logits = self.model.lm_head(some).float()  # (rows, V)
            found.append(logits.log_softmax(-1).gather(1, ids))
            best.append(logits.argmax(-1))
        logprobs, greedy = torch.cat(found), torch.cat(best)
        if not bool(logprobs.isfinite().all()):
            raise MalmoiError("The model predicts NaN: its weights are broken. Load an earlier checkpoint.")
        starts = [width - len(tail) for tail in tails]
        return [
            (float(logprobs[start:, i].double().sum()), bool((greedy[start:] == wanted[start:, i]).all()))
            for i, start in enumerate(starts)
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, its first token included (predicted from the prefix token).

        A text longer than the context is read in windows that do not overlap, the last one excepted: lm_eval's
        protocol, and a sterner one than `perplexity.bits_per_byte`, where every token has half a context before it.
        """
        utils = lm_eval("utils")
        pairs: list[Pair] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in windows:
                pairs.append((None, *utils.make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(pairs), strict=True):
            totals[owner] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    # ---------------------------------------------------------------- what would you write?

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first of the task's `until` texts.

        Greedy unless the task samples. A sampling task may ask the same question several times: each time is a draw
        of its own.
        """
        groups: dict[tuple[str, int], list[int]] = {}
        asked: Counter[tuple[str, str]] = Counter()
        for place, request in enumerate(requests):
            context, settings = request.args
            wish = json.dumps(settings, sort_keys=True, default=str)
            groups.setdefault((wish, asked[wish, context]), []).append(place)
            asked[wish, context] += 1
        written: dict[int, str] = {}
        for (_, time), places in groups.items():
            settings, until = self._settings(requests[places[0]].args[1], time)
            for place, text in self._written({place: requests[place].args[0] for place in places}, settings):
                written[place] = lm_eval("models.utils").postprocess_generated_text(text, until, None)
                self.cache_hook.add_partial("generate_until", requests[place].args, written[place])
                self._report(len(written), len(requests))
        return [written[place] for place in range(len(requests))]

    def _written(self, contexts: dict[int, str], settings: dict[str, Any]) -> Iterator[tuple[int, str]]:
        """(place, text) of what follows each context; a context that is too long loses its beginning."""
        new = settings["max_new_tokens"]
        room = self.max_length - new
        prompts = {place: self.tok_encode(text)[-room:] or [self.prefix_token_id] for place, text in contexts.items()}
        longest_first = sorted(prompts, key=lambda place: len(prompts[place]), reverse=True)
        for batch in self._batches(longest_first, lambda place: len(prompts[place]) + new):
            made = generate(self.model, [prompts[place] for place in batch], tokenizer=self.tokenizer, **settings)
            for place, ids in zip(batch, made.new_tokens, strict=True):
                yield place, self.tokenizer.decode(ids, skip_special_tokens=True)

    def _settings(self, wish: dict[str, Any], time: int) -> tuple[dict[str, Any], list[str]]:
        """What a task wishes, as settings of our `generate`, and the texts that end an answer."""
        helpers = lm_eval("models.utils")
        settings = helpers.normalize_gen_kwargs(wish, self.max_gen_toks)
        until = helpers.handle_stop_sequences(settings.pop("until"), eos=self.tokenizer.decode([self.eot_token_id]))
        settings["max_new_tokens"] = settings.pop("max_gen_toks")
        if not 1 <= settings["max_new_tokens"] < self.max_length:
            raise MalmoiError(
                f"The task lets a model write {settings['max_new_tokens']} tokens, but this one's context holds "
                f"{self.max_length} with the question. Change max_gen_toks in the task's file, or use a model with a "
                "longer context."
            )
        settings["stop_strings"] = tuple(stop for stop in until if stop)
        if settings["do_sample"] and settings.get("temperature", 1.0) > 0:
            settings.setdefault("temperature", 1.0)
            settings["seed"] = randomness.key(self.seed, "generate_until", time)
        else:
            settings = {name: value for name, value in settings.items() if name not in _SAMPLING}
            settings["do_sample"] = False
        return settings, until

    # ---------------------------------------------------------------- batches

    def _batches(self, items: Sequence[Any], width: Callable[[Any], int]) -> Iterator[Sequence[Any]]:
        """Neighbours together: `batch_size` of them, or as many as fit `BATCH_TOKENS` (the first is the longest)."""
        begin = 0
        while begin < len(items):
            rows = self.batch_size or max(1, BATCH_TOKENS // width(items[begin]))
            rows = min(rows, self.max_batch_size or rows)
            yield items[begin : begin + rows]
            begin += rows

    def _report(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


def _opened(
    pretrained: str | Path | GPT4LMHeadModel, tokenizer: GPT4Tokenizer | None, dtype: str | None
) -> tuple[GPT4LMHeadModel, GPT4Tokenizer]:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

    if isinstance(pretrained, str | Path):
        model = GPT4LMHeadModel.from_pretrained(pretrained, dtype=None if dtype in (None, "auto") else dtype)
        return model, tokenizer or GPT4Tokenizer.from_pretrained(pretrained)
    if tokenizer is None:
        raise MalmoiError("A model that is given itself needs its tokenizer as well: pretrained=model, tokenizer=...")
    return pretrained, tokenizer


def _batch_size(wish: int | str | None) -> int | None:
    """Rows of a batch; None for as many as fit."""
    if wish is None or str(wish).startswith("auto"):
        return None
    if not str(wish).isdecimal() or int(wish) < 1:
        raise MalmoiError(f"batch_size={wish!r}, but it is a whole number of at least 1, or 'auto'.")
    return int(wish)


@functools.cache
def malmoi_lm() -> Any:
    """The class that lm_eval knows as the model `malmoi`; importing lm_eval takes seconds, so it waits until now."""
    base = lm_eval("api.model").TemplateLM

    class MalmoiLM(Backend, base):
        """Malmoi's model as a model of lm-evaluation-harness."""

    lm_eval("api.registry").register_model("malmoi")(MalmoiLM)
    return MalmoiLM


def offline() -> None:
    """Let nothing that lm_eval uses reach for a download unless the person's environment allows it."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ.setdefault(name, "1")


def main() -> int:
    """lm_eval's own command line, with our model and our tasks (where no others are included) known to it."""
    from malmoi.evaluate.benchmarks import TASKS

    offline()
    try:
        malmoi_lm()
        if len(sys.argv) > 1 and not any(argument.startswith("--include_path") for argument in sys.argv):
            sys.argv += ["--include_path", str(TASKS)]
        lm_eval("__main__").cli_evaluate()
    except MalmoiError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
