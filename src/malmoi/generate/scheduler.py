"""Which tokens are read in the next step: a small state machine over sequences and blocks, without a model.

Every step has a budget of tokens. First come the jobs that wait for one more token, then prompts being read, cut into
chunks so that a long prompt never holds the others up (Agrawal et al., "SARATHI", 2023); what is left of the budget
admits waiting jobs, as many as memory allows. When blocks run out, the youngest job gives its own back, waits, and
later reads its tokens again: nothing that was written is lost, and the oldest job always goes on, so that every job
ends. Cancelling is the same without the return.

A *branch* is one row of tokens with its blocks; branches that part from each other share the blocks of their common
past until one of them writes into a shared block and gets a copy. A *job* is what is scheduled as one: one branch, or
all beams of a beam search.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from malmoi.config import MalmoiError
from malmoi.generate.blocks import BlockPool, chained_key, root_key


@dataclass(eq=False, slots=True)
class Branch:
    """A row of tokens; the keys and values of the first `computed` lie in the blocks of `table`."""

    tokens: list[int]
    salt: str = ""
    computed: int = 0
    table: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)  # of its full blocks, as far as they were asked for
    remembered: int = 0  # blocks that the pool was told about


@dataclass(eq=False, slots=True)
class Job:
    """Branches that go forward together. `order` is its age: smaller is older and goes first."""

    order: tuple[int, int]
    branches: list[Branch]
    positions: int  # that a branch may need at most
    width: int = 1  # branches that it may have at most
    followers: int = 0  # jobs that will part from it when its prompt is read
    keeps_cache: bool = True
    proposals: list[int] = field(default_factory=list)  # guesses at the next tokens, to be checked in this step

    @property
    def ready(self) -> bool:
        """Whether one more token of each branch makes its logits known."""
        return all(len(branch.tokens) - branch.computed == 1 for branch in self.branches)


@dataclass(slots=True)
class Chunk:
    """Tokens of one branch to be read from position `start` on: `known` of its own, then `proposals`."""

    branch: Branch
    start: int
    known: int
    proposals: list[int]

    @property
    def wanted(self) -> int:
        """Logits are wanted of so many rows at the end: none while more of the branch is still to be read."""
        return 1 + len(self.proposals) if self.start + self.known == len(self.branch.tokens) else 0

    def tokens(self) -> list[int]:
        return self.branch.tokens[self.start : self.start + self.known] + self.proposals


@dataclass(slots=True)
class Plan:
    """One step: blocks to copy first, in this order, then what to read of each job."""

    copies: list[tuple[int, int]] = field(default_factory=list)
    chunks: dict[Job, list[Chunk]] = field(default_factory=dict)


class Scheduler:
    """Jobs waiting and running over one pool of blocks."""

    def __init__(self, num_blocks: int, block_size: int, budget: int = 512, prefix_cache: bool = True) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size, self.budget, self.prefix_cache = block_size, budget, prefix_cache
        self.waiting: list[Job] = []  # oldest first
        self.running: list[Job] = []  # oldest first

    def check(self, positions: int, width: int = 1) -> None:
        """Raises `MalmoiError` if such a job could never run, however long it waited."""
        need = width * self._blocks(positions)
        if need > self.pool.num_blocks:
            room = self.pool.num_blocks // width * self.block_size
            raise MalmoiError(
                f"The cache is too small: {positions + 1} tokens{f' in each of {width} beams' if width > 1 else ''} "
                f"need {need} blocks of {self.block_size}, but it has {self.pool.num_blocks}. Ask for at most "
                f"{room + 1} tokens, prompt included, or give the engine more memory."
            )

    def add(self, job: Job) -> None:
        """A new job joins the queue. `check` it before."""
        bisect.insort(self.waiting, job, key=_age)

    def join(self, job: Job) -> None:
        """A job that parted from a running one runs as well, over the blocks that they share."""
        bisect.insort(self.running, job, key=_age)

    def remove(self, job: Job) -> None:
        """The job has ended or is not wanted any more: its blocks are free at once."""
        for jobs in (self.running, self.waiting):
            if job in jobs:
                jobs.remove(job)
        for branch in job.branches:
            self.forget(branch)

    def fork(self, branch: Branch) -> Branch:
        """Another branch with the same past, in the same blocks: those with computed positions, not those that the
        branch holds ready for guesses."""
        table, keys = branch.table[: self._blocks(branch.computed)], list(branch.keys)
        for block in table:
            self.pool.share(block)
        return Branch(list(branch.tokens), branch.salt, branch.computed, table, keys, branch.remembered)

    def forget(self, branch: Branch) -> None:
        """Give all blocks back. The last one first: of a remembered past the end is given up before the beginning."""
        for block in reversed(branch.table):
            self.pool.release(block)
        branch.table.clear()
        branch.computed = branch.remembered = 0

    def advance(self, branch: Branch, count: int) -> None:
        """The next `count` tokens of the branch have been read; blocks that are now full can be found by others."""
        branch.computed += count
        full = branch.computed // self.block_size
        if self.prefix_cache and full > branch.remembered:
            for number in range(branch.remembered, full):
                self.pool.remember(branch.table[number], self._key(branch, number))
            branch.remembered = full

    def plan(self) -> Plan:
        """The next step. It is empty only if there is no job."""
        plan, left = Plan(), self.budget
        for ready in (True, False):
            for job in list(self.running):
                if left > 0 and job.ready is ready and job in self.running:
                    left -= self._place(job, left, plan)
        while left > 0 and self.waiting:
            job = self.waiting[0]
            if not self._admit(job):
                break
            left -= self._place(job, left, plan)
        return plan

    def _place(self, job: Job, left: int, plan: Plan) -> int:
        """Put what is next of the job into the plan, if blocks can be had; the number of tokens."""
        together = len(job.branches) > 1
        chunks: list[Chunk] = []
        for branch in job.branches:
            missing = len(branch.tokens) - branch.computed
            if together and not job.ready:
                missing -= 1  # the last tokens of all branches are read in one step
            count = missing if together and job.ready else min(missing, left)
            if count <= 0:
                continue
            if not self._hold(job, branch, branch.computed + count, plan):
                return 0
            chunks.append(Chunk(branch, branch.computed, count, []))
            left -= count
        if job.proposals and job.ready and not together:
            chunks[0].proposals = self._affordable(job, left)
        job.proposals = []
        if chunks:
            plan.chunks[job] = chunks
        return sum(chunk.known + len(chunk.proposals) for chunk in chunks)

    def _affordable(self, job: Job, left: int) -> list[int]:
        """As many proposals as fit into the budget, the job's length and the blocks that nobody else needs."""
        branch = job.branches[0]
        end = len(branch.tokens)
        room = (len(branch.table) + max(0, self.pool.available - len(self.running))) * self.block_size
        count = min(len(job.proposals), left, job.positions - end, room - end)
        if count <= 0:
            return []
        while len(branch.table) < self._blocks(end + count):
            branch.table.append(self.pool.take())
        return job.proposals[:count]

    def _hold(self, job: Job, branch: Branch, end: int, plan: Plan) -> bool:
        """Blocks of the branch's own for all positions from `computed` to `end`; younger jobs make room."""
        first = branch.computed // self.block_size
        shared = first < len(branch.table) and self.pool.holders[branch.table[first]] > 1
        need = max(0, self._blocks(end) - len(branch.table)) + shared
        while self.pool.available < need:
            youngest = self.running[-1]
            if youngest.order <= job.order:
                return False
            self._preempt(youngest, plan)
        if shared:
            own = self.pool.take()
            plan.copies.append((branch.table[first], own))
            self.pool.release(branch.table[first])
            branch.table[first] = own
        while len(branch.table) < self._blocks(end):
            branch.table.append(self.pool.take())
        return True

    def _preempt(self, job: Job, plan: Plan) -> None:
        plan.chunks.pop(job, None)
        self.remove(job)
        self.add(job)

    def _admit(self, job: Job) -> bool:
        """Let the job run if its tokens fit and every running job can still get one more block."""
        need = job.followers
        for branch in job.branches:
            self._find_past(branch, job.keeps_cache)
            need += self._blocks(len(branch.tokens)) - len(branch.table)
        if self.running and self.pool.available < need + len(self.running):
            for branch in job.branches:
                self.forget(branch)
            return False
        self.waiting.remove(job)
        self.join(job)
        return True

    def _find_past(self, branch: Branch, keeps_cache: bool) -> None:
        """Take over remembered blocks, all but the one with the last token: that must be read for its logits."""
        if not (self.prefix_cache and keeps_cache):
            return
        for number in range((len(branch.tokens) - 1) // self.block_size):
            block = self.pool.find(self._key(branch, number))
            if block is None:
                break
            self.pool.share(block)
            branch.table.append(block)
        branch.remembered = len(branch.table)
        branch.computed = branch.remembered * self.block_size

    def _key(self, branch: Branch, number: int) -> bytes:
        """The key of the branch's full block `number`."""
        while len(branch.keys) <= number:
            start = len(branch.keys) * self.block_size
            before = branch.keys[-1] if branch.keys else root_key(branch.salt)
            branch.keys.append(chained_key(before, branch.tokens[start : start + self.block_size]))
        return branch.keys[number]

    def _blocks(self, positions: int) -> int:
        return -(-positions // self.block_size)


def _age(job: Job) -> tuple[int, int]:
    return job.order
