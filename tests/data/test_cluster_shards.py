"""Tokenising on many machines gives the folder that one process makes, bit for bit.

Without Ray a stand-in of a few lines plays its part (rows come back in any order, which is all that matters to us);
with it (slow), local workers do, and are killed.
"""

import itertools
import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.config import MalmoiError, SourceConfig
from malmoi.data import cluster_shards, shards
from malmoi.data.cluster_shards import Plan, build_on_cluster, plan, runs
from malmoi.data.corpus import Document, read
from malmoi.data.shards import Limits

SMALL = {"shard_documents": 40, "shard_characters": 4_000, "held_out": 0.1}


@pytest.fixture
def sources(tmp_path):
    """Texts, conversations, a table and the village; some files make many shards, some shards hold many files."""
    folder = tmp_path / "texts"
    (folder / "small").mkdir(parents=True)
    for number in range(9):
        (folder / "small" / f"{number}.txt").write_text(f"아홉 편 중 {number}번째 이야기. " * 9, encoding="utf-8")
    talk = [{"role": "user", "content": "How many cats?"}, {"role": "assistant", "content": "일곱 마리."}]
    lines = [
        {"text": f"The cat number {n} drinks milk. " * (1 + n % 7)} if n % 5 else {"messages": talk} for n in range(400)
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "large.jsonl").write_text(text, encoding="utf-8")
    table = tmp_path / "pairs.tsv"
    table.write_text("en\tfr\n" + "".join(f"cat {n}\tchat {n}\n" for n in range(90)), encoding="utf-8")
    return (
        SourceConfig(path=str(folder), license="CC0"),
        SourceConfig(path=str(table), template="{en} = {fr}", name="pairs"),
        SourceConfig(path="village:30"),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def expected(sources, tokenizer, tmp_path):
    documents = itertools.chain.from_iterable(map(read, sources))
    return contents(shards.build(documents, tokenizer, tmp_path / "expected", **SMALL).folder)


class StandIn:
    """What is used of `ray.data`: each row goes through a function, or through some object of a class, in any order."""

    ActorPoolStrategy = staticmethod(lambda size: size)

    def __init__(self, seed):
        self.draw = random.Random(seed)

    def from_items(self, items, override_num_blocks):
        assert len(items) == override_num_blocks
        self.rows = items
        return self

    def map_batches(self, fn, *, batch_size, fn_constructor_args=None, compute=1):
        assert batch_size == 1
        workers = [fn if fn_constructor_args is None else fn(*fn_constructor_args) for _ in range(compute)]
        self.workers = workers
        return self

    def iter_rows(self):
        order = self.draw.sample(self.rows, len(self.rows))
        for row in order:
            made = self.draw.choice(self.workers)({name: np.array([value]) for name, value in row.items()})
            yield {name: values[0] for name, values in made.items()}


@pytest.fixture
def without_ray(monkeypatch):
    def connected(address, workers):
        import contextlib

        return contextlib.nullcontext((StandIn(workers), workers))

    monkeypatch.setattr(cluster_shards, "_ray", connected)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_folder_is_the_one_that_a_process_alone_makes(sources, tokenizer, tmp_path, expected, without_ray, workers):
    told = []
    made = build_on_cluster(
        sources, tokenizer, tmp_path / "made", workers=workers, progress=lambda *n: told.append(n), **SMALL
    )
    assert len(made.shards) > 12 and contents(made.folder) == expected
    assert told == sorted(told) and told[-1] == (made.num_documents, made.num_tokens, made.num_bytes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "made", "pairs.tsv", "texts"]


def cut_as_one_process_does(sizes, limits):
    documents = [Document(text="x" * size) for of_file in sizes for size in of_file]
    return [(len(part), sum(len(d.text) for d in part)) for part in shards._parts(documents, limits)]


@given(
    st.lists(st.lists(st.integers(1, 30), max_size=12), max_size=12),
    st.integers(1, 9),
    st.integers(1, 60),
    st.integers(1, 4),
)
def test_the_plan_cuts_where_one_process_cuts_and_runs_hold_every_shard_once(sizes, documents, characters, workers):
    limits = Limits(documents, characters)
    planned = list(plan([np.array(of_file, "<u4") for of_file in sizes], limits))
    assert [(each.documents, each.characters) for each in planned] == cut_as_one_process_does(sizes, limits)
    places = [(file, index) for file, of_file in enumerate(sizes) for index in range(len(of_file))]
    begins = np.cumsum([0, *(each.documents for each in planned)])
    assert [(each.file, each.first) for each in planned] == [places[begin] for begin in begins[:-1]]
    shared = runs(planned, workers)
    assert [each for run in shared for each in run] == planned and all(shared)


def test_a_large_file_is_begun_in_few_places_and_small_ones_are_spread():
    one_file = [Plan(number, 0, 10 * number, 10, 100) for number in range(4_000)]
    assert len(runs(one_file, 100)) == cluster_shards.READERS_OF_A_FILE
    many_files = [Plan(number, number, 0, 10, 100) for number in range(4_000)]
    assert len(runs(many_files, 10)) == 160  # sixteen for each worker: no one waits long for the last
    assert len(runs(many_files, 10_000)) == 4_000


def test_mistakes_are_said_as_one_process_says_them(tokenizer, tmp_path, without_ray):
    good, bad = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    good.write_text('{"text": "one"}\n' * 20, encoding="utf-8")
    bad.write_text('{"text": "two"}\n{"text": "three"\n', encoding="utf-8")
    source = SourceConfig(path=(str(good), str(bad)))
    with pytest.raises(MalmoiError, match=r"b\.jsonl: line 2, column \d+: not valid JSON"):
        build_on_cluster([source], tokenizer, tmp_path / "made", workers=2, **SMALL)
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(MalmoiError, match=r"empty\.txt"):
        build_on_cluster([SourceConfig(path=str(tmp_path / "empty.txt"))], tokenizer, tmp_path / "made", workers=2)
    with pytest.raises(MalmoiError, match="Standard input cannot be read by several workers"):
        build_on_cluster([SourceConfig(path="-")], tokenizer, tmp_path / "made", workers=2)
    with pytest.raises(MalmoiError, match="no such file"):
        build_on_cluster([SourceConfig(path=str(tmp_path / "nowhere"))], tokenizer, tmp_path / "made", workers=2)
    with pytest.raises(MalmoiError, match=r"held_out=0\.7"):
        build_on_cluster([SourceConfig(path=str(good))], tokenizer, tmp_path / "made", workers=2, held_out=0.7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "empty.txt"]


class Clumsy:
    """The tokenizer, which does something else first when it meets a certain text."""

    def __init__(self, tokenizer, accident, *given):
        self.tokenizer, self.accident, self.given = tokenizer, accident, given

    def encode_batch(self, texts, **how):
        if any("number 77 " in text for text in texts):
            self.accident(*self.given)
        return self.tokenizer.encode_batch(texts, **how)

    def __len__(self):
        return len(self.tokenizer)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["tokenizer"], name)


def full_disk():
    raise OSError(28, "No space left on device")


def bug():
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize(
    ("accident", "words"),
    [
        (full_disk, r"large\.jsonl, from document \d+ on: No space left on device \(on "),
        (bug, r"large\.jsonl, from document \d+ on: ZeroDivisionError: by zero"),
    ],
)
def test_a_failure_names_its_place_and_leaves_nothing(sources, tokenizer, tmp_path, without_ray, accident, words):
    with pytest.raises(MalmoiError, match=words):
        build_on_cluster(sources, Clumsy(tokenizer, accident), tmp_path / "made", workers=2, **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.tsv", "texts"]


@pytest.mark.parametrize("change", ["one word", "one line less"])
def test_texts_that_change_between_the_two_readings_are_seen(
    sources, tokenizer, tmp_path, without_ray, monkeypatch, change
):
    def meanwhile(plans, workers):
        file = tmp_path / "texts" / "large.jsonl"
        text = file.read_text(encoding="utf-8")
        changed = (
            text.replace("cat number 77 ", "cats number 77 ") if change == "one word" else text[text.index("\n") + 1 :]
        )
        assert changed != text
        file.write_text(changed, encoding="utf-8")
        return runs(plans, workers)

    monkeypatch.setattr(cluster_shards, "runs", meanwhile)
    with pytest.raises(MalmoiError, match="has changed while it was read"):
        build_on_cluster(sources, tokenizer, tmp_path / "made", workers=1, **SMALL)
    assert not (tmp_path / "made").exists()


def test_a_worker_that_does_not_see_the_folder_or_is_of_another_version_says_so(tokenizer, tmp_path):
    files = [SourceConfig(path="village:3")]
    row = {
        "number": np.array([0]),
        "run": np.array([json.dumps([{"number": 0, "file": 0, "first": 0, "documents": 3, "characters": 1}])]),
    }
    worker = cluster_shards._Tokeniser(tokenizer, files, str(tmp_path / "elsewhere"), cluster_shards._versions())
    assert "is not seen from" in worker(row)["error"][0]
    worker = cluster_shards._Tokeniser(tokenizer, files, str(tmp_path), {"malmoi": "0.0.1", "tokenizers": "0.1"})
    assert "0.0.1" in worker(row)["error"][0]


def test_without_the_extra_it_is_named(tokenizer, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MalmoiError, match=r"malmoi\[ray\]"):
        build_on_cluster([SourceConfig(path="village:3")], tokenizer, tmp_path / "made")
    assert not list(tmp_path.iterdir())


# ---- Ray itself -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray():
    """Ray with three processors to give away, started once: it takes longer than everything that is tested."""
    if not os.environ.get("MALMOI_TEST_RAY"):
        pytest.skip("Ray is an extra of its own, and starts best where nothing else runs: make test-ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers import `Clumsy` from here
        with cluster_shards._ray(cluster_shards.LOCAL, 3):
            yield


def die(mark):
    """End this worker as the system does when memory runs out: once, or (without a mark) every time."""
    if mark is None or not Path(mark).exists():
        if mark is not None:
            Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_ray_makes_the_same_folder(ray, sources, tokenizer, tmp_path, expected, workers):
    made = build_on_cluster(sources, tokenizer, tmp_path / "made", workers=workers, **SMALL)
    assert contents(made.folder) == expected


@pytest.mark.slow
def test_the_work_of_a_worker_that_dies_is_done_by_another(ray, sources, tokenizer, tmp_path, expected):
    mark = tmp_path / "died"
    clumsy = Clumsy(tokenizer, die, str(mark))
    made = build_on_cluster(sources, clumsy, tmp_path / "made", workers=2, **SMALL)
    assert mark.exists() and contents(made.folder) == expected


@pytest.mark.slow
def test_work_that_kills_every_worker_ends_the_build(ray, sources, tokenizer, tmp_path):
    with pytest.raises(MalmoiError, match=r"large\.jsonl, from document \d+ on: 3 workers died of this"):
        build_on_cluster(sources, Clumsy(tokenizer, die, None), tmp_path / "made", workers=2, **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.tsv", "texts"]


@pytest.mark.slow
def test_a_mistake_in_a_file_comes_back_from_its_worker(ray, tokenizer, tmp_path):
    bad = tmp_path / "b.jsonl"
    bad.write_text('{"text": "two"}\n{"texd": "three"}\n', encoding="utf-8")
    with pytest.raises(MalmoiError, match=r"^\S*b\.jsonl: line 2: there is neither 'text' nor 'messages'"):
        build_on_cluster([SourceConfig(path=str(bad))], tokenizer, tmp_path / "made", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["b.jsonl"]


@pytest.mark.slow
def test_from_the_command_line(ray, sources, tokenizer, tmp_path):
    from malmoi.cli import main

    tokenizer.save_pretrained(tmp_path / "tokenizer")
    folders = {name: tmp_path / name for name in ("alone", "ray")}
    for name, more in (("alone", []), ("ray", ["--ray", "local", "--workers", "2"])):
        command = ["data", "build", str(tmp_path / "texts"), "--tokenizer", str(tmp_path / "tokenizer")]
        assert main([*command, "--out", str(folders[name]), *more]) == 0
    assert contents(folders["alone"]) == contents(folders["ray"])
