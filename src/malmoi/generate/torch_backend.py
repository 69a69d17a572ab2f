"""The engine's backend for any `GPT4LMHeadModel`, on a CPU or a GPU.

The keys and values of all sequences lie in one tensor a layer, block behind block. For a step the past of each sequence
is gathered from its blocks into the rectangle that the model's attention reads, padded on the left; the model itself
knows nothing of blocks, so every layout that it can have works here. A batch that goes on unchanged, every sequence by
one token, keeps its rectangle, and one column is added to it instead of all being gathered anew. On a GPU such steps
have tensors that stay in place and are replayed from recordings (`static_step.py`).

R rows, S sequences, W wanted rows, V vocabulary; in a group of sequences that go through the model together: B
sequences, T columns read now, C columns seen, K key/value heads, D head size
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from malmoi.generate.backend import Integers
from malmoi.generate.static_step import GraphRecorder, StaticStep, shape_for
from malmoi.model.gpt import GPT4LMHeadModel

_AHEAD = 64  # columns that a rectangle may grow before it is made anew
_CONTEXTS = 64  # sequences of full length that are enough for anybody's default


class TorchBackend:
    """`model` behind the engine's interface.

    `memory` (bytes) bounds the cache, by default half of what is free; `num_blocks` says its size directly. On a CPU
    and a GPU alike memory is taken when it is first needed.

    `static`: steps that give every sequence one token have fixed shapes, and CUDA graphs replay them. By default so on
    a GPU, except for experts, whose shapes depend on what the router chooses. Where somebody watches the model (a
    `Tap`, any hook), the plain step is taken, which calls the hooks.
    """

    def __init__(
        self,
        model: GPT4LMHeadModel,
        *,
        num_blocks: int | None = None,
        block_size: int = 32,
        memory: int | None = None,
        static: bool | None = None,
    ) -> None:
        self.model, self.block_size = model, block_size
        self.generation_config = model.generation_config
        self.vocab_size = model.config.vocab_size
        self.max_position = model.config.max_position_embeddings
        self.num_blocks = num_blocks or self._default_blocks(memory)
        self._ids = np.zeros(0, dtype=np.int64)  # which token stands at each slot (block * block_size + place)
        self._keys: dict[int, torch.Tensor] = {}  # layer -> (slots, K, D)
        self._values: dict[int, torch.Tensor] = {}
        self._standing: list[_Group] = []  # groups of the last step that read one token each, with their rectangles
        cuda, experts = model.device.type == "cuda", bool(model.config.num_experts)
        self.static = static if static is not None else cuda and not experts
        self._recorder = GraphRecorder(model.device) if cuda and not experts and self.static else None
        self._static_steps: dict[tuple[int, int], StaticStep] = {}
        self._modules = list(model.modules())

    @torch.inference_mode()
    def step(
        self, tokens: Integers, positions: Integers, sequences: Integers, block_tables: Integers, wanted: Integers
    ) -> NDArray[Any]:
        self._grow(int(block_tables.max(initial=0)) + 1)
        starts = np.flatnonzero(np.concatenate(([True], sequences[1:] != sequences[:-1])))  # each sequence's first row
        counts = np.concatenate((starts[1:], [len(sequences)])) - starts
        lengths = positions[starts] + counts  # past and new
        tables = block_tables[sequences[starts]]
        if self.static and len(wanted) == len(starts) == len(tokens) and not self._watched(tokens):
            try:
                return self._static(tokens, positions, tables)
            except RuntimeError as error:
                if self._recorder is None:
                    raise
                self.static = False
                self._static_steps.clear()
                warnings.warn(f"CUDA graphs cannot be recorded here, so plain steps are taken: {error}", stacklevel=2)
        logits: list[torch.Tensor] = []
        places: list[NDArray[Any]] = []
        standing: list[_Group] = []
        with _Evaluating(self.model):
            for members in _groups(counts, lengths):
                group = _Group(self, tables[members], counts[members], lengths[members])
                if len(members) == len(starts):
                    logits.append(group.forward(tokens, wanted))
                else:
                    rows = np.flatnonzero(np.isin(sequences, sequences[starts[members]]))
                    places.append(np.flatnonzero(np.isin(wanted, rows)))
                    logits.append(group.forward(tokens[rows], np.searchsorted(rows, wanted[places[-1]])))
                if group.rectangles is not None:
                    standing.append(group)
        self._standing = standing
        found = _on_the_host(logits[0] if len(logits) == 1 else torch.cat(logits))
        return found if not places else found[np.argsort(np.concatenate(places))]

    def _watched(self, tokens: Integers) -> bool:
        """Whether this step has to be a plain one: hooks want to be called, or the model refuses a placeholder."""
        if any(module._forward_hooks or module._forward_pre_hooks for module in self._modules):
            return True
        return bool((tokens == self.model.config.image_token_id).any())

    def _static(self, tokens: Integers, positions: Integers, tables: Integers) -> NDArray[Any]:
        """One token for each sequence, by the step of a fixed shape that they fit into."""
        size = self.block_size
        blocks = int(positions.max()) // size + 1
        shape = shape_for(len(tokens), blocks, size, -(-self.max_position // size))
        step = self._static_steps.get(shape)
        if step is None:
            step = self._static_steps[shape] = StaticStep(self, *shape, self._recorder)
        rows = np.arange(len(tokens))
        self._ids[tables[rows, positions // size].astype(np.int64) * size + positions % size] = tokens
        places = np.maximum(positions[:, None] - np.arange(step.earlier, 0, -1), 0)
        before = self._ids[tables[rows[:, None], places // size].astype(np.int64) * size + places % size]
        self._standing.clear()
        with _Evaluating(self.model):
            return _on_the_host(step(tokens, positions, tables, before))

    @torch.inference_mode()
    def copy_block(self, source: int, target: int) -> None:
        self._grow(max(source, target) + 1)
        size = self.block_size
        there, here = slice(target * size, (target + 1) * size), slice(source * size, (source + 1) * size)
        self._ids[there] = self._ids[here]
        for held in (self._keys, self._values):
            for memory in held.values():
                memory[there] = memory[here]
        self._standing.clear()

    def _default_blocks(self, memory: int | None) -> int:
        config = self.model.config
        width = config.num_key_value_heads * config.head_dim * self.model.dtype.itemsize
        block = 2 * config.num_hidden_layers * width * self.block_size  # bytes
        context = -(-self.max_position // self.block_size)  # blocks
        free = memory if memory is not None else _free_memory(self.model.device) // 2
        return max(context if memory is None else 1, min(free // block, _CONTEXTS * context))

    def _grow(self, blocks: int) -> None:
        """Memory for so many blocks at least: doubled when it runs out."""
        slots = len(self._ids)
        if blocks * self.block_size <= slots:
            return
        wanted = min(self.num_blocks * self.block_size, max(2 * slots, blocks * self.block_size))
        self._ids = np.concatenate((self._ids, np.zeros(wanted - slots, dtype=np.int64)))
        self._static_steps.clear()  # they read where the memory was
        for held in (self._keys, self._values):
            for layer, memory in held.items():
                held[layer] = torch.cat((memory, memory.new_empty(wanted - slots, *memory.shape[1:])))

    def memory(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where all keys and values of a layer lie, each (slots, K, D); `like` (B, K, T, D) says of what kind."""
        for held in (self._keys, self._values):
            if layer not in held:
                held[layer] = like.new_empty(len(self._ids), like.shape[1], like.shape[3])
        return self._keys[layer], self._values[layer]


class _Group:
    """Sequences that go through the model together; for the model it is the cache that it reads and adds to.

    All sequences end at the right edge: a sequence with fewer columns is padded on the left, one with fewer new tokens
    reads some of its past once more (its stored keys and values stay what they are).
    """

    real = None  # the cache's own memory of padding: here the mask says it anew each time

    def __init__(
        self,
        backend: TorchBackend,
        tables: Integers,
        counts: NDArray[Any],
        lengths: NDArray[Any],
    ) -> None:
        self.backend = backend
        self.tokens, columns = int(counts.max()), int(lengths.max())  # T, C
        self.length = columns - self.tokens  # what the model takes for the past
        places = np.arange(columns) - (columns - lengths)[:, None]  # (B, C) positions; below zero: padding
        positions = np.maximum(places, 0)
        size = backend.block_size
        member = np.arange(len(counts))[:, None]
        self.slots = tables[member, positions // size].astype(np.int64) * size + positions % size
        self.mask = places >= 0 if int(lengths.min()) < columns else None
        self.new = np.arange(self.tokens) >= (self.tokens - counts)[:, None]  # (B, T)
        targets = self.slots[:, self.length :][self.new]
        first, last = int(targets[0]), int(targets[-1])
        together = last - first + 1 == len(targets) and bool((np.diff(targets) == 1).all())  # then no index is needed
        self.run = slice(first, last + 1) if together else None
        device = backend.model.device
        self.read = None if self.new.all() else torch.from_numpy(self.new).to(device)
        self.targets = torch.from_numpy(targets).to(device)
        self.nothing_past = bool((counts == lengths).all())
        self.everything: torch.Tensor | None = None  # the slots as an index, made when it is needed
        self.rectangles = self._go_on()
        self.token_ids: torch.Tensor | None = None

    def forward(self, tokens: Integers, wanted: NDArray[Any]) -> torch.Tensor:
        """Read the group's new tokens, sequence by sequence; the logits of those numbered `wanted` (rising)."""
        backend, T = self.backend, self.tokens
        backend._ids[self.slots[:, self.length :][self.new]] = tokens
        ids = torch.from_numpy(backend._ids[self.slots]).to(backend.model.device)  # (B, C)
        if backend.model.config.ngram_sizes:
            self.token_ids = ids[:, : self.length]
        members, columns = np.nonzero(self.new)  # of each new token
        keep = T - int(columns[wanted].min()) if len(wanted) else 1
        mask = torch.from_numpy(self.mask).to(ids.device) if self.mask is not None else None
        logits = backend.model(
            ids[:, self.length :], attention_mask=mask, cache=self, logits_to_keep=keep
        ).logits  # (B, keep, V)
        if len(wanted) == logits.shape[0] == len(self.slots) and keep == 1:
            return logits[:, 0]
        return logits[members[wanted], columns[wanted] - (T - keep)]

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one layer's new keys and values (B, K, T, D); past and new together (B, K, C, D)."""
        seen: list[torch.Tensor] = []
        for which, (memory, new) in enumerate(zip(self.backend.memory(layer, keys), (keys, values), strict=True)):
            rows = new.transpose(1, 2)  # (B, T, K, D)
            rows = rows.flatten(0, 1) if self.read is None else rows[self.read]
            if self.run is not None:
                memory[self.run] = rows
            else:
                memory.index_copy_(0, self.targets, rows)
            seen.append(new if self.nothing_past else self._rectangle(layer, which, memory, new))
        return seen[0], seen[1]

    def advance(self, tokens: int, real: torch.Tensor | None, token_ids: torch.Tensor | None = None) -> None:
        """The model has read the columns; nothing is left to do, as every write said where it belongs."""

    def _rectangle(self, layer: int, which: int, memory: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        B, C = self.slots.shape
        _, K, D = memory.shape
        if self.tokens > 1:
            return self._gathered(memory).view(B, C, K, D).transpose(1, 2)
        assert self.rectangles is not None
        standing = self.rectangles.get((layer, which))
        if standing is None or standing.shape[2] < C:
            standing = memory.new_empty(B, K, C + max(_AHEAD, C // 4), D)
            standing[:, :, :C] = self._gathered(memory).view(B, C, K, D).transpose(1, 2)
            self.rectangles[layer, which] = standing
        else:
            standing[:, :, C - 1 : C] = new
        return standing[:, :, :C]

    def _gathered(self, memory: torch.Tensor) -> torch.Tensor:
        if self.everything is None:
            self.everything = torch.from_numpy(self.slots.ravel()).to(memory.device)
        return memory.index_select(0, self.everything)

    def _go_on(self) -> dict[tuple[int, int], torch.Tensor] | None:
        """The rectangles of the same sequences one token ago, or none yet; None where several tokens are read."""
        if self.tokens > 1:
            return None
        standing = self.backend._standing
        for place, group in enumerate(standing):
            if group.slots.shape == (len(self.slots), self.length) and np.array_equal(group.slots, self.slots[:, :-1]):
                return standing.pop(place).rectangles  # for one group only: it will write into them
        return {}


def _groups(counts: NDArray[Any], lengths: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Sequences of similar size, so that padding stays less than what is read."""
    if len(counts) == 1 or (np.ptp(counts) == 0 and np.ptp(lengths) == 0):
        yield np.arange(len(counts))
        return
    order = np.lexsort((lengths, counts))
    members: list[int] = []
    for number in order.tolist():
        trial = [*members, number]
        waste = len(trial) * int(counts[trial].max()) > 2 * int(counts[trial].sum()) + 32
        waste |= len(trial) * int(lengths[trial].max()) > 2 * int(lengths[trial].sum()) + 256
        if members and (waste or (counts[number] > 1 and counts[members[0]] == 1 and lengths[members[0]] > 1)):
            yield np.array(sorted(members))
            trial = [number]
        members = trial
    yield np.array(sorted(members))


def _on_the_host(logits: torch.Tensor) -> NDArray[Any]:
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return logits.cpu().numpy()


class _Evaluating:
    """Dropout is off meanwhile, even in the middle of training."""

    def __init__(self, model: GPT4LMHeadModel) -> None:
        self.model, self.training = model, model.training

    def __enter__(self) -> None:
        if self.training:
            self.model.eval()

    def __exit__(self, *_: object) -> None:
        if self.training:
            self.model.train()


def _free_memory(device: torch.device) -> int:
    """Bytes that could be taken now; a cautious gigabyte where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return 2**30
