"""The scheduler under random arrivals, lengths, cancellations and far too little memory: nothing is lost or changed."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from speakers import made_up, one_at_a_time

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate.backend import FunctionBackend
from malmoi.generate.engine import Engine, Request
from malmoi.generate.scheduler import Branch, Job, Scheduler
from malmoi.generate.speculation import DraftModel, Speculation

VOCABULARY = 11
OPINIONS = made_up(VOCABULARY)


def settled(engine):
    """No sequence holds a block any more, and every block can be taken."""
    pool = engine.scheduler.pool
    assert engine.scheduler.running == engine.scheduler.waiting == []
    assert set(pool.holders) <= {0}
    assert pool.available == pool.num_blocks


def consistent(engine):
    """Every block is held exactly as often as sequences name it."""
    pool, named = engine.scheduler.pool, {}
    for live in engine._live.values():
        for job in live.jobs:
            for branch in job.branches:
                assert len(set(branch.table)) == len(branch.table)
                for block in branch.table:
                    named[block] = named.get(block, 0) + 1
    assert {block: count for block, count in enumerate(pool.holders) if count} == named


requests = st.fixed_dictionaries(
    {
        "prompt": st.lists(st.integers(1, 3), min_size=1, max_size=14),  # few kinds of tokens: many common beginnings
        "new": st.integers(1, 12),
        "copies": st.integers(1, 3),
        "seed": st.one_of(st.none(), st.integers(0, 5)),
        "arrives": st.integers(0, 20),
        "leaves": st.one_of(st.none(), st.none(), st.integers(1, 12)),  # cancelled so many steps after its arrival
        "salt": st.sampled_from(["", "a"]),
        "keeps_cache": st.sampled_from([True, True, True, False]),
    }
)


def one(prompt, new, copies=1, seed=None):
    return {
        "prompt": prompt, "new": new, "copies": copies, "seed": seed, "arrives": 0, "leaves": None, "salt": "",
        "keeps_cache": True,
    }  # fmt: skip


@example(  # samples part from a sequence that holds blocks ready for guesses
    asked=[one([1], 1), one([2, 1, 3, 1], 5, copies=3, seed=0)],
    block_size=1, spare=0, budget=4, prefix_cache=False, guessing="draft",
)  # fmt: skip
@settings(max_examples=150)
@given(
    asked=st.lists(requests, min_size=1, max_size=7),
    block_size=st.integers(1, 5),
    spare=st.integers(0, 12),
    budget=st.integers(1, 20),
    prefix_cache=st.booleans(),
    guessing=st.sampled_from(["no", "lookup", "draft"]),
)
def test_whatever_happens_each_writes_what_it_would_alone(asked, block_size, spare, budget, prefix_cache, guessing):
    most = max(-(-(len(each["prompt"]) + each["new"]) // block_size) for each in asked)
    backend = FunctionBackend(OPINIONS, VOCABULARY, block_size=block_size, num_blocks=most + spare, max_position=40)
    draft = FunctionBackend(made_up(VOCABULARY, 1), VOCABULARY, block_size=2, num_blocks=30, max_position=30)
    speculation = None if guessing == "no" else Speculation()
    if speculation is not None:
        speculation.pace.fit = lambda: (1.0, 0.05)  # rows are cheap, so that there are many guesses
        speculation.draft = DraftModel(draft, VOCABULARY) if guessing == "draft" else None
    engine = Engine(backend, budget=budget, prefix_cache=prefix_cache, speculation=speculation)
    configs = [
        GenerationConfig(
            max_new_tokens=each["new"],
            eos_token_id=(0,),
            **({} if each["seed"] is None else {"seed": each["seed"], "temperature": 1.2}),
            num_return_sequences=1 if each["seed"] is None else each["copies"],
            use_cache=each["keeps_cache"],
        )
        for each in asked
    ]
    written, finished, numbers = {}, {}, {}
    for clock in range(100_000):
        for place, each in enumerate(asked):
            if each["arrives"] == clock:
                request = Request(each["prompt"], configs[place], salt=each["salt"])
                numbers[engine.submit(request)] = place
            if each["leaves"] is not None and each["arrives"] + each["leaves"] == clock:
                (number,) = (number for number, found in numbers.items() if found == place)
                engine.cancel(number)
        consistent(engine)
        for token in engine.step():
            assert token.error is None
            key = numbers[token.request], token.sample
            written.setdefault(key, []).append(token.id)
            finished[key] = token.finish_reason
        if clock >= 40 and not engine.busy:
            break
    settled(engine)
    for place, (each, config) in enumerate(zip(asked, configs, strict=True)):
        for sample in range(config.num_return_sequences):
            config_alone = config.replace(do_sample=each["seed"] is not None)
            expected = one_at_a_time(OPINIONS, each["prompt"], config_alone, sample)
            found = written.get((place, sample), [])
            assert found == expected[: len(found)]
            if each["leaves"] is None:
                assert found == expected
                assert finished[place, sample] == ("eos" if expected[-1] == 0 else "length")


def test_a_long_prompt_is_read_in_chunks_and_nobody_waits_for_it():
    backend = FunctionBackend(OPINIONS, VOCABULARY, max_position=400)
    engine = Engine(backend, budget=16)
    engine.submit(Request([1], GenerationConfig(max_new_tokens=30, eos_token_id=())))
    engine.step()
    engine.submit(Request([2] * 100, GenerationConfig(max_new_tokens=3, eos_token_id=())))
    writers = [[token.request for token in engine.step()] for _ in range(8)]
    assert all(0 in step for step in writers)  # a token at every step
    assert [1 in step for step in writers].index(True) == 6  # 100 tokens, 15 a step
    assert max(rows for rows, _ in backend.calls) == 16


def test_a_common_beginning_is_read_once_but_not_across_salts():
    backend = FunctionBackend(OPINIONS, VOCABULARY, block_size=4)
    engine = Engine(backend)
    config = GenerationConfig(max_new_tokens=1, eos_token_id=())

    def rows(prompt, salt=""):
        before = sum(rows for rows, _ in backend.calls)
        tokens = list(engine.stream(Request(prompt, config, salt=salt)))
        assert [token.id for token in tokens] == one_at_a_time(OPINIONS, prompt, config)
        return sum(rows for rows, _ in backend.calls) - before

    assert rows([1] * 18) == 18
    assert rows([1] * 18) == 2  # four full blocks are found
    assert rows([1] * 16) == 4  # the last token is always read
    assert rows([1] * 10 + [2] * 3) == 5
    assert rows([1] * 18, salt="another key") == 18
    assert rows([1] * 18, salt="another key") == 2


def test_what_was_remembered_makes_room_for_what_is_asked():
    backend = FunctionBackend(OPINIONS, VOCABULARY, block_size=4, num_blocks=8)
    engine = Engine(backend)
    config = GenerationConfig(max_new_tokens=4, eos_token_id=())
    for first in range(1, 10):
        prompt = [first] * 20
        tokens = [token.id for token in engine.stream(Request(prompt, config))]
        assert tokens == one_at_a_time(OPINIONS, prompt, config)
    settled(engine)


def test_a_cache_that_can_never_hold_a_request_says_so():
    engine = Engine(FunctionBackend(OPINIONS, VOCABULARY, block_size=4, num_blocks=3, max_position=100))
    with pytest.raises(
        MalmoiError, match=r"cache is too small: 21 tokens need 5 blocks of 4, but it has 3.*at most 13"
    ):
        engine.submit(Request([1] * 10, GenerationConfig(max_new_tokens=11)))
    tokens = list(engine.stream(Request([1] * 10, GenerationConfig(max_new_tokens=3, eos_token_id=()))))
    assert len(tokens) == 3


def test_the_youngest_gives_way_and_comes_back():
    scheduler = Scheduler(num_blocks=4, block_size=2, budget=100)
    jobs = [Job((number, 0), [Branch([number + 1] * 3)], positions=8) for number in range(2)]
    for job in jobs:
        scheduler.add(job)
    plan = scheduler.plan()
    assert list(plan.chunks) == [jobs[0]]  # the second fits, but would leave no block for the first one's growth
    for _ in range(2):
        for job, chunks in plan.chunks.items():
            scheduler.advance(job.branches[0], chunks[0].known)
            job.branches[0].tokens.append(9)
        plan = scheduler.plan()
    scheduler.remove(jobs[0])
    assert list(scheduler.plan().chunks) == [jobs[1]]
    assert scheduler.running == [jobs[1]]
