"""Running a program on tensors that have shapes but no numbers, and keeping books: bytes, operations, messages.

`Pretence` stands between a program and torch. What holds learned numbers is fake (torch's `FakeTensorMode`: shape, type
and device, no memory); what follows from data alone (token ids, positions, documents) is real, so that the program can
branch on it as always. Three answers are made up where a program asks a tensor without numbers, or a process that is
not there:

    a scalar               1; False, to a question
    how many of each       (`bincount`: an expert's tokens) equally many
    what somebody sent     ones; of tokens for each expert, what this process sent

The books hold the birth, growth and death of every piece of memory, in order. What it *was* (a weight, a gradient) is
often known only later, so classes are settled at the end and the books then read from the start. Torch's own tracker
(`torch.distributed._tools.mem_tracker`) keeps such books by module and by optimizer class; FSDP and our optimizers are
neither. Operations are counted by torch's own formulas (`torch.utils.flop_counter`).
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.distributed_c10d import (
    _resolve_process_group,  # pyright: ignore[reportPrivateImportUsage]
)
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
PLAIN = (Tensor, torch.nn.Parameter, FakeTensor)
WAIT = torch.ops._c10d_functional.wait_tensor.default
WHOLE_NUMBERS = (torch.int64, torch.int32, torch.bool)
COLLECTIVES = {  # part of the name of torch's operation -> what it is
    "all_reduce": "all_reduce",
    "allreduce": "all_reduce",
    "all_gather": "all_gather",
    "allgather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "all_to_all": "all_to_all",
    "alltoall": "all_to_all",
    "broadcast": "broadcast",
    "send": "send",
}
FLASH = {  # attention on a CPU, which torch counts on GPUs only; by the same formulas
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}


@dataclass(slots=True, eq=False)
class _Memory:
    """A piece of memory that somebody holds: what it is, and how many bytes now."""

    kind: str
    size: int = 0


@dataclass
class Books:
    """What happened: every change of memory in order, operations, bytes by collective."""

    changes: list[tuple[_Memory, int]] = field(default_factory=list)
    flops: float = 0.0
    sent: Counter[str] = field(default_factory=Counter)
    _known: weakref.WeakKeyDictionary[Any, _Memory] = field(default_factory=weakref.WeakKeyDictionary)

    def see(self, tensor: Tensor, kind: str) -> _Memory:
        """Enter a tensor's memory, if it is new."""
        storage = tensor.untyped_storage()
        memory = self._known.get(storage)
        if memory is None:
            memory = self._known[storage] = _Memory(kind)
            self._change(memory, storage.nbytes())
            weakref.finalize(storage, self._change, memory, 0)
        return memory

    def resized(self, storage: Any) -> None:
        """FSDP lets go of gathered weights by making their storage empty."""
        if storage in self._known:
            self._change(self._known[storage], storage.nbytes())

    def _change(self, memory: _Memory, size: int) -> None:
        if size != memory.size:
            self.changes.append((memory, size - memory.size))
            memory.size = size

    def name(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Say what the memory of these tensors is, and was from the beginning."""
        for tensor in tensors:
            self.see(tensor, kind).kind = kind

    def largest(self) -> dict[str, int]:
        """Bytes of each class when that class was largest, and `peak`, of all together when they were.

        An optimizer's state, which the first step makes at its end, is there from the beginning in all others.
        """
        now, most = Counter[str](), Counter[str]()
        peak = 0
        for memory, change in sorted(self.changes, key=lambda entry: entry[0].kind != "optimizer"):
            now[memory.kind] += change
            most[memory.kind] = max(most[memory.kind], now[memory.kind])
            peak = max(peak, now.total())
        return {**most, "peak": peak}


class Pretence(TorchDispatchMode):
    """Everything inside `with pretence.running():` happens without memory; `books` are kept once there are any.

    `vocabulary` tells scores (N, V) from other results.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.vocabulary = vocabulary
        self.books: Books | None = None
        self.depth = 0  # of modules that are on their way forward

    @contextmanager
    def running(self) -> Iterator[None]:
        resize = torch.UntypedStorage.resize_

        def noticed(storage: Any, size: int) -> Any:
            result = resize(storage, size)
            if self.books is not None:
                self.books.resized(storage)
            return result

        def deeper(by: int) -> None:
            self.depth += by

        imagine = ShardingPropagator._propagate_tensor_meta_non_cached

        def unseen(asking: Any, schema: Any) -> Any:
            books, self.books = self.books, None
            try:
                return imagine(asking, schema)
            finally:
                self.books = books

        with ExitStack() as stack:
            hooks = (
                register_module_forward_pre_hook(lambda *_: deeper(1)),
                register_module_forward_hook(lambda *_: deeper(-1), always_call=True),
            )
            for hook in hooks:
                stack.callback(hook.remove)
            stack.callback(setattr, torch.UntypedStorage, "resize_", resize)
            setattr(torch.UntypedStorage, "resize_", noticed)  # noqa: B010  (no operation that a mode could see)
            stack.callback(setattr, ShardingPropagator, imagine.__name__, imagine)
            setattr(ShardingPropagator, imagine.__name__, unseen)  # DTensor's guess at a shape is no memory
            stack.enter_context(self.fake)
            stack.enter_context(self)
            yield

    def keep(self) -> Books:
        """Begin new books."""
        self.books = Books()
        return self.books

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(kind not in PLAIN for kind in types):
            return NotImplemented  # a tensor that is cut over processes: its parts come by here next
        if active_fake_mode() is not self.fake:  # DTensor asks itself what shape a result would have
            return func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = self._result(func, args, kwargs, given)
        if self.books is not None:
            self._enter(func, args, kwargs, given, result)
        return result

    def _result(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
        if func is WAIT:
            return args[0]
        if any(isinstance(tensor, FakeTensor) or tensor.is_meta for tensor in given):
            if func is aten._local_scalar_dense.default:
                return given[0].dtype != torch.bool
            if func is not aten.bincount.default:
                return func(*args, **kwargs)
            kinds, number = kwargs.get("minlength", args[2] if len(args) > 2 else 0), given[0].numel()
            edges = [number * kind // kinds for kind in range(kinds + 1)]
            with unset_fake_temporarily():
                return torch.tensor(edges).diff()
        if not given and kwargs.get("dtype") not in WHOLE_NUMBERS and "arange" not in str(func):
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            result = func(*args, **kwargs)
            if func.namespace == "c10d" and "recv" in str(func):
                given[0].fill_(1)
            if func.namespace == "c10d" and "alltoall_base" in str(func):
                given[0].copy_(given[1])
        return result

    def _enter(self, func: Any, args: Any, kwargs: Any, given: list[Tensor], result: Any) -> None:
        books, packet = self.books, func._overloadpacket
        assert books is not None
        formula = FLASH.get(packet) or flop_registry.get(packet)
        if formula is not None:
            books.flops += formula(*args, **kwargs, out_val=result)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if "c10d" in func.namespace and _members(args) > 1:
            what = next((kind for part, kind in COLLECTIVES.items() if part in packet.__name__), None)
            if what is not None:
                books.sent[what] += max(tensor.nbytes for tensor in (*given, *made))
        for tensor in made:
            if isinstance(tensor, FakeTensor) and not tensor.is_meta:
                books.see(tensor, self._kind(tensor))

    def _kind(self, tensor: Tensor) -> str:
        """What a new tensor is, as long as nobody says better."""
        if tensor.dim() == 1:
            return "buffers"  # weights and gradients on their way are laid end to end, and nothing else is
        if tensor.shape[-1:] == (self.vocabulary,):
            return "logits"
        if tensor.dim() == 2 and tensor.shape[0] == self.vocabulary:
            return "buffers"  # the head's gradient, which the loss makes on its way forward
        return "activations" if self.depth else "temporary"


def _members(given: Any) -> int:
    """How many processes an exchange is between."""
    for argument in given:
        try:
            if isinstance(argument, str):
                return _resolve_process_group(argument).size()  # pyright: ignore[reportArgumentType]
            if isinstance(argument, torch.ScriptObject):
                return dist.ProcessGroup.unbox(argument).size()
        except (RuntimeError, TypeError, ValueError):  # another string ("sum"), another object (a reduction)
            continue
    return 1  # it waits for an exchange that was counted
