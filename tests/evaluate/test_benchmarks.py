"""Whole benchmarks: the same scores as lm-evaluation-harness gives the exported model, and every way to ask wrongly."""

import json
import lzma
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from exams import CHOICES, SENTENCES, data_folder, model_folder, write

from malmoi.config import MalmoiError
from malmoi.evaluate.benchmarks import DATA, TASKS, benchmarks, own_tasks
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.tokenizer import GPT4Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return model_folder(tmp_path_factory.mktemp("benchmarks") / "model", context=256)


@pytest.fixture(scope="module")
def ours(folder):
    return GPT4LMHeadModel.from_pretrained(folder), GPT4Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    """Any tasks, asked of the same folder through transformers by lm_eval's own backend."""
    pytest.importorskip("accelerate")
    backend = pytest.importorskip("lm_eval.models.huggingface").HFLM
    model = backend(pretrained=str(folder), device="cpu", batch_size=4)

    def ask(tasks, data, limit=None, shots=None):
        from lm_eval.evaluator import evaluate
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=[TASKS], include_defaults=False, metadata={"data": str(data)})
        loaded = manager.load(list(tasks))
        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", shots or 0)
            task.set_fewshot_seed(1234)
        return evaluate(model, loaded, limit=limit, bootstrap_iters=0)

    return ask


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


def assert_same(mine, yours):
    """Every measure of every task, and every single log-likelihood and answer."""
    compared = 0
    for name, task in mine["tasks"].items():
        for key, expected in yours["results"][name].items():
            metric, comma, chosen = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                label = metric if chosen == "none" else f"{metric} ({chosen})"
                assert task["metrics"][label]["value"] == pytest.approx(expected, rel=1e-4), (name, key)
                compared += 1
        assert len(mine["samples"][name]) == len(yours["samples"][name])
        for one, other in zip(mine["samples"][name], yours["samples"][name], strict=True):
            assert [list(map(str, some)) for some in one["arguments"]] == [
                list(map(str, some)) for some in other["arguments"]
            ]
            for found, expected in zip(one["resps"], other["resps"], strict=True):
                if isinstance(expected[0], str):
                    assert found == expected
                elif isinstance(expected[0], float):
                    assert found == pytest.approx(expected, abs=1e-3, rel=1e-6)
                else:
                    assert found[0][0] == pytest.approx(expected[0][0], abs=1e-4), name
                    assert found[0][1] == expected[0][1]
    assert compared >= len(mine["tasks"])


def test_the_scores_are_those_of_the_exported_model_in_transformers(ours, theirs, data, tmp_path):
    tasks = ("arc_easy_local", "lambada_local", "winogrande_local", "blimp_local", "kobbq_local", "klue_nli_local")
    assert_same(benchmarks(*ours, tasks, data=data, samples=True), theirs(tasks, data))
    text = write(tmp_path / "text.jsonl", [{"text": sentence} for sentence in SENTENCES])
    assert_same(benchmarks(*ours, ["text_local"], data=text, samples=True), theirs(["text_local"], text))


def test_solved_examples_before_the_question(ours, theirs, data):
    tasks = ("arc_easy_local", "openbookqa_local")
    mine = benchmarks(*ours, tasks[1:], data=data, num_fewshot=2, samples=True)
    assert mine["tasks"]["openbookqa_local"]["shots"] == 2
    assert_same(mine, theirs(tasks[1:], data, shots=2))
    assert "the cat" in mine["samples"]["openbookqa_local"][0]["arguments"][0][0]


def test_exact_match_of_what_is_written(ours, theirs, tmp_path):
    """A random model is never right, so half of the answers are made what it says."""
    questions = [{"input": sentence[:25], "target": "?"} for sentence in SENTENCES]
    path = write(tmp_path / "bbh" / "all.jsonl", questions)
    said = benchmarks(*ours, ["bbh_local"], data=path, samples=True)["samples"]["bbh_local"]
    answers = [sample["filtered_resps"][0] for sample in said]
    write(path, [question | {"target": answer} for question, answer in zip(questions, answers, strict=True)][::2])
    known = sum(bool(answer) for answer in answers[::2])
    mine = benchmarks(*ours, ["bbh_local"], data=tmp_path, samples=True)
    assert_same(mine, theirs(["bbh_local"], tmp_path))
    assert mine["tasks"]["bbh_local"]["metrics"]["exact_match"]["value"] * len(answers[::2]) >= known > 0


@pytest.mark.parametrize("name", own_tasks())
def test_every_task_of_ours_reads_the_records_that_it_describes(ours, data, name):
    where = data / "lambada" if name == "text_local" else data
    found = benchmarks(*ours, [name], data=where, limit=2, samples=True)
    task = found["tasks"][name]
    assert 1 <= task["n"] <= 2
    assert task["metrics"]
    assert all(row["value"] == row["value"] for row in task["metrics"].values())
    for sample in found["samples"][name]:
        for text in (text for argument in sample["arguments"] for text in argument if isinstance(text, str)):
            assert "{{" not in text
            assert "None" not in text
    json.dumps(found)


@pytest.mark.slow
def test_the_real_sets(ours, theirs, shared_data):
    tasks = ("arc_easy_local", "lambada_local", "blimp_local", "hellaswag_local", "kobbq_local")
    mine = benchmarks(*ours, tasks, data=shared_data, limit=6, samples=True)
    assert_same(mine, theirs(tasks, shared_data, limit=6))
    assert all(task["n"] == 6 for task in mine["tasks"].values())


@pytest.mark.slow
def test_every_real_set_is_found(ours, shared_data):
    found = benchmarks(*ours, [name for name in own_tasks() if name != "text_local"], data=shared_data, limit=1)
    assert len(found["tasks"]) == len(own_tasks()) - 1


def test_files_are_found_packed_by_folder_by_file_and_by_environment(ours, tmp_path, monkeypatch):
    lines = "".join(json.dumps(record) + "\n" for record in CHOICES)
    packed = tmp_path / "a" / "arc_easy" / "test_part1.jsonl.xz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(lzma.compress(lines.encode()))
    found = [benchmarks(*ours, ["arc_easy_local"], data=place) for place in (tmp_path, packed.parent, packed)]
    monkeypatch.setenv(DATA, str(tmp_path))
    found.append(benchmarks(*ours, ["arc_easy_local"]))
    assert all(one == found[0] for one in found)
    assert found[0]["tasks"]["arc_easy_local"]["n"] == len(CHOICES)


def test_a_task_of_ones_own(ours, tmp_path):
    """As docs/evaluation.md shows it: a YAML file beside its data, in lm_eval's own words."""
    path = write(tmp_path / "capitals.jsonl", [{"country": "Korea", "capital": "Seoul"}] * 3)
    task = f"""
        task: capitals
        dataset_path: json
        dataset_kwargs: {{data_files: {{test: {path.as_posix()}}}}}
        test_split: test
        output_type: loglikelihood
        doc_to_text: "The capital of {{{{country}}}} is"
        doc_to_target: " {{{{capital}}}}"
        metric_list: [{{metric: acc}}]
    """
    (tmp_path / "capitals.yaml").write_text(textwrap.dedent(task), encoding="utf-8")
    named = benchmarks(*ours, ["capitals"], include=[tmp_path])
    direct = benchmarks(*ours, [str(tmp_path / "capitals.yaml")])
    assert named["tasks"]["capitals"]["n"] == 3
    assert named == direct


def test_a_conversation(ours, data):
    found = benchmarks(*ours, ["arc_easy_local"], data=data, limit=1, chat=True, samples=True)
    assert found["chat"] is True
    context, answer = found["samples"]["arc_easy_local"][0]["arguments"][0]
    assert context.startswith("<|start|>user<|message|>Question:")
    assert context.endswith("<|start|>assistant<|message|>")
    assert answer == "the cat"


def test_progress(ours, data):
    seen: list[tuple[int, int]] = []
    benchmarks(*ours, ["arc_easy_local"], data=data, batch_size=4, progress=lambda *counts: seen.append(counts))
    assert [total for _, total in seen] == [18] * len(seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (18, 18)


# ------------------------------------------------------------------ mistakes


def refused(ours, *arguments, **settings) -> str:
    with pytest.raises(MalmoiError) as caught:
        benchmarks(*ours, *arguments, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_numbers_that_make_no_sense(ours, data):
    assert "limit=0" in refused(ours, ["arc_easy_local"], data=data, limit=0)
    assert "num_fewshot=-1" in refused(ours, ["arc_easy_local"], data=data, num_fewshot=-1)
    assert "batch_size" in refused(ours, ["arc_easy_local"], data=data, batch_size=0)
    assert "arc_easy_local" in refused(ours, [])


def test_data_that_are_not_there(ours, data, tmp_path, monkeypatch):
    monkeypatch.delenv(DATA, raising=False)
    assert "--data" in refused(ours, ["lambada_local"])
    assert "no such file or folder" in refused(ours, ["lambada_local"], data=tmp_path / "nowhere")
    write(tmp_path / "other.jsonl", CHOICES)
    assert "lambada/*.jsonl" in refused(ours, ["lambada_local"], data=tmp_path)
    broken = tmp_path / "lambada" / "test.jsonl"
    broken.parent.mkdir()
    broken.write_text('{"text": "good"}\n{"text": \n', encoding="utf-8")
    assert "line 2" in refused(ours, ["lambada_local"], data=tmp_path)
    broken.write_text("", encoding="utf-8")
    assert "empty" in refused(ours, ["lambada_local"], data=broken)
    write(broken, [{"text": 1}, {"text": "one"}])
    assert "one shape" in refused(ours, ["lambada_local"], data=broken)
    write(broken, [{"wrong": "field"}])
    assert "lambada_local" in refused(ours, ["lambada_local"], data=broken)
    assert "hold only 1" in refused(ours, ["truthfulqa_local"], data=data, num_fewshot=3)


def test_task_files_and_folders_that_are_not_there(ours, tmp_path):
    assert "no such task file" in refused(ours, [str(tmp_path / "missing.yaml")])
    assert "no such folder" in refused(ours, ["lambada_local"], include=[tmp_path / "missing"])
    assert "holds no task" in refused(ours, ["lambada_local"], include=[tmp_path])
    path = tmp_path / "mine.yaml"
    path.write_text("task: mine\noutput_type: [\n", encoding="utf-8")
    assert "is a file" in refused(ours, ["lambada_local"], include=[path])


@pytest.fixture
def few_tasks(monkeypatch):
    """lm_eval's own tasks left out, whose reading takes a quarter of a minute."""
    from lm_eval.tasks import TaskManager

    def made(include_path, include_defaults=True, **rest):
        return TaskManager(include_path=include_path, include_defaults=False, **rest)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", made)


def test_an_unknown_task_names_the_nearest(ours, few_tasks, tmp_path):
    assert "Did you mean 'lambada_local'?" in refused(ours, ["lambda_local"])
    assert "Did you mean 'arc_easy_local'?" in refused(ours, ["arc_easy"])
    (tmp_path / "mine.yaml").write_text("task: mine\noutput_type: [\n", encoding="utf-8")
    assert "mine.yaml cannot be read" in refused(ours, ["mine"], include=[tmp_path])


def test_a_task_whose_data_would_have_to_be_downloaded(ours, tmp_path):
    task = "task: far\ndataset_path: nobody/nothing-of-the-sort\ntest_split: test\ndoc_to_text: a\ndoc_to_target: b\n"
    (tmp_path / "far.yaml").write_text(task, encoding="utf-8")
    assert "nothing is downloaded" in refused(ours, ["far"], include=[tmp_path])


@pytest.mark.slow
def test_lm_evals_own_tasks_are_known_too(ours):
    assert "nothing is downloaded" in refused(ours, ["hellaswag"])


@pytest.mark.slow
def test_neither_transformers_nor_accelerate_is_needed(folder, data):
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("transformers", "accelerate", "peft"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
from malmoi.cli import main
sys.exit(main(["eval", {str(folder)!r}, "--tasks", "arc_easy_local,bbh_local", "--data", {str(data)!r}, "--json"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tasks"]["arc_easy_local"]["n"] == len(CHOICES)
