"""BENCHMARKS: questions that others have asked of their models, asked of ours with lm-evaluation-harness.

A *task* is a YAML file that says how a record of a data set becomes a question, what the answers are and what is
counted. Three places have tasks: our own folder (`tasks/`: names end in `_local`, they read files that lie on this
machine), folders of the person's own (`include`), and lm_eval itself, whose hundreds of tasks read data sets of the
Hugging Face hub. Nothing is downloaded here: a task of lm_eval works where its data set is in the cache already.

Our tasks find their files below one folder (`data`) by the names of a folder and a file, `lambada/test.jsonl` for
example, packed or not.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.config import MalmoiError, SourceConfig, nearest
from malmoi.data.corpus import read
from malmoi.data.records import json_records
from malmoi.data.streams import find_files, open_bytes, read_lines, suffixes
from malmoi.evaluate.harness import Progress, lm_eval, malmoi_lm, offline

if TYPE_CHECKING:
    from malmoi.model.gpt import GPT4LMHeadModel
    from malmoi.tokens.tokenizer import GPT4Tokenizer

TASKS = Path(__file__).with_name("tasks")
DATA = "MALMOI_EVAL_DATA"  # in the environment: the folder of the data sets, where no other is given
_BOOTSTRAPS = 1000  # resamples behind the standard error of a measure that has no formula for it
_FEWSHOT_SEED = 1234  # which examples are shown before a question: lm_eval's own default


def benchmarks(
    model: GPT4LMHeadModel,
    tokenizer: GPT4Tokenizer,
    tasks: Sequence[str],
    *,
    data: str | Path | None = None,
    include: Sequence[str | Path] = (),
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int | str = "auto",
    chat: bool = False,
    samples: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask a model the questions of `tasks` (names, or YAML files) and count.

    `data` is the folder (or the one file) that our own tasks read, `include` are folders with other tasks, `limit`
    takes the first questions of each only, `num_fewshot` shows that many solved examples before each, `chat` asks
    through the model's chat template. Returns plain data: `tasks` (name -> `n` questions, `shots`, `version` and
    `metrics`: name -> `value`, `stderr` (None where unknown) and `better`: "higher" or "lower"), `limit`, `chat`, the
    version of `lm_eval` and, with `samples`, every question with what the model made of it.

    Raises `MalmoiError` for an unknown task (naming the nearest), a missing or unreadable file, a limit below 1, and
    where lm_eval is not installed.
    """
    _require_numbers(limit, num_fewshot)
    offline()
    with _quiet():
        backend = malmoi_lm()(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, progress=progress)
        loaded = _loaded(tasks, data, include)
        for name, task in loaded["tasks"].items():
            _set_shots(name, task, num_fewshot)
        try:
            found = lm_eval("evaluator").evaluate(
                lm=backend,
                task_dict=loaded,
                limit=limit,
                bootstrap_iters=_BOOTSTRAPS,
                log_samples=samples,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
        except MalmoiError:
            raise
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise MalmoiError(f"The questions could not be asked: {type(error).__name__}: {error}") from error
    results: dict[str, Any] = {
        "tasks": {name: _measures(name, found) for name in found["results"]},
        "limit": limit,
        "chat": chat,
        "lm_eval": importlib.metadata.version("lm_eval"),
    }
    if samples:
        said = json.dumps(found["samples"], default=lm_eval("utils").handle_non_serializable)
        results["samples"] = json.loads(said)
    return results


def _require_numbers(limit: int | None, num_fewshot: int | None) -> None:
    if limit is not None and limit < 1:
        raise MalmoiError(f"limit={limit}, but at least one question of each task has to be asked.")
    if num_fewshot is not None and num_fewshot < 0:
        raise MalmoiError(f"num_fewshot={num_fewshot}, but examples are 0 or more.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm_eval tells much of what it does, in logs, bars and prints: none of it is shown, what goes wrong is raised."""
    log = logging.getLogger("lm_eval")
    before, workers = log.level, os.environ.get("DISABLE_MULTIPROC")
    log.setLevel(logging.CRITICAL)
    os.environ["DISABLE_MULTIPROC"] = "1"  # no worker processes for the bootstrap
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(before)
        if workers is None:
            os.environ.pop("DISABLE_MULTIPROC")


# ------------------------------------------------------------------- tasks


def _loaded(tasks: Sequence[str], data: str | Path | None, include: Sequence[str | Path]) -> dict[str, Any]:
    """The tasks with their questions, as lm_eval holds them."""
    if not tasks:
        raise MalmoiError(f"Which tasks? Malmoi's own are {', '.join(own_tasks())}.")
    folders = [_task_folder(folder) for folder in include]
    for name in tasks:
        if name.endswith((".yaml", ".yml")) and not Path(name).is_file():
            raise MalmoiError(f"{name}: there is no such task file.")
    manager = lm_eval("tasks").TaskManager
    metadata = {"data": str(data)} if data is not None else {}
    known = manager(include_path=[TASKS, *folders], include_defaults=False, metadata=metadata)
    if any(name not in known.all_tasks and not Path(name).is_file() for name in tasks):
        # lm_eval's own fourteen thousand tasks: reading their files takes a quarter of a minute
        known = manager(include_path=[TASKS, *folders], metadata=metadata)
    for name in tasks:
        if name not in known.all_tasks and not Path(name).is_file():
            raise MalmoiError(_unknown(name, known.all_tasks, folders))
    try:
        return known.load(list(dict.fromkeys(tasks)))
    except MalmoiError:
        raise
    except Exception as error:  # whatever a task's file, its templates or its data set may lead to
        raise MalmoiError(_unreadable(tasks, error)) from error


def own_tasks() -> list[str]:
    """The names of the tasks in our own folder."""
    return sorted(f"{path.stem}_local" for path in TASKS.glob("[!_]*.yaml"))


def _task_folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if folder.is_file():
        raise MalmoiError(f"{folder}: is a file. Name it as a task itself (--tasks {folder}), or include its folder.")
    if not folder.is_dir():
        raise MalmoiError(f"{folder}: there is no such folder of tasks.")
    if not any(folder.rglob("*.yaml")):
        raise MalmoiError(f"{folder}: holds no task (a task is a .yaml file).")
    return folder


def _unknown(name: str, known: Iterable[str], folders: Iterable[Path]) -> str:
    """What to say of a task that nobody knows; a broken file in an included folder may be why."""
    for path in (path for folder in folders for path in sorted(folder.rglob("*.yaml"))):
        try:
            lm_eval("tasks._yaml_loader").load_yaml(path, resolve_func=False)
        except Exception as error:
            return f"There is no task '{name}'; {path} cannot be read: {' '.join(str(error).split())}"
    guess = nearest(name, own_tasks()) or nearest(name, known)
    return f"There is no task '{name}'.{guess} Malmoi's own are {', '.join(own_tasks())}."


def _unreadable(tasks: Sequence[str], error: Exception) -> str:
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    names = ", ".join(tasks)
    if "offline" in what.lower() or isinstance(error, ConnectionError) or "Hub" in what:
        return (
            f"The data of {names} are not on this machine, and nothing is downloaded here ({what:.200}). Use one of "
            f"Malmoi's own tasks with --data, or set HF_HUB_OFFLINE=0 and HF_DATASETS_OFFLINE=0 to allow it."
        )
    return f"The task could not be made ({names}): {what:.300}"


def _set_shots(name: str, task: Any, wish: int | None) -> None:
    """How many solved examples are shown; a task that fixes 0 in its file keeps it, as in lm_eval."""
    fixed = task.get_config("num_fewshot")
    shots = fixed if wish is None or fixed == 0 else wish
    task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    if shots and len(task.sampler.df) <= shots:
        have = len(task.sampler.df)
        raise MalmoiError(f"{name}: {shots} solved examples before each question, but its data hold only {have}.")


def _measures(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """One task's results as plain data. lm_eval keys them "metric,filter", and "metric_stderr,filter"."""
    row, better = found["results"][name], found["higher_is_better"].get(name, {})
    metrics = {}
    for key, value in row.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        stderr = row.get(f"{metric}_stderr,{chosen}")
        metrics[metric if chosen in ("none", "") else f"{metric} ({chosen})"] = {
            "value": float(value),
            "stderr": float(stderr) if isinstance(stderr, int | float) else None,
            "better": "higher" if better.get(metric, True) else "lower",
        }
    return {
        "n": found["n-samples"].get(name, {}).get("effective"),
        "shots": found["n-shot"].get(name, 0),
        "version": found["versions"].get(name),
        "metrics": metrics,
    }


# ------------------------------------------------------------------- the files that our own tasks read


def local_data(files: str, shots: str | None = None, data: str | None = None, **_: Any) -> dict[str, Any]:
    """The questions of one of our tasks ("test"), and those to take solved examples from ("shots"), as data sets.

    lm_eval calls this for a task whose YAML names it: `files` and `shots` are patterns of the YAML ("arc_easy/test*"),
    `data` the folder or the file that the person gave.
    """
    found = {"test": _records(files, data)}
    if shots is not None:
        try:
            found["shots"] = _records(shots, data)
        except MalmoiError:  # the questions alone are enough as long as nobody asks for examples
            found["shots"] = found["test"].select([])
    return found


def local_texts(data: str | None = None, **_: Any) -> dict[str, Any]:
    """The documents of any files that Malmoi reads, one record `{"text": ...}` each; conversations are passed over."""
    where = _place(data, "any text")
    texts = [{"text": document.text} for document in read(SourceConfig(path=where)) if document.text]
    return {"test": _dataset(texts, where)}


def _records(pattern: str, data: str | None) -> Any:
    where = _place(data, pattern)
    path = Path(where).expanduser()
    files = [where] if path.is_file() else _matching(path, pattern)
    records = []
    for file in files:
        with open_bytes(file) as stream:
            records += [dict(record) for _, record in json_records(read_lines(stream, file), file)]
    return _dataset(records, where)


def _place(data: str | None, pattern: str) -> str:
    where = data or os.environ.get(DATA)
    if not where:
        raise MalmoiError(
            f"This task reads files of yours ({pattern}): give the folder that holds them with --data, or in {DATA}."
        )
    return where


def _matching(folder: Path, pattern: str) -> list[str]:
    if not folder.is_dir():
        raise MalmoiError(f"{folder}: there is no such file or folder.")
    found = [file for file in find_files(folder) if Path(file).resolve().match(pattern)]
    found = [file for file in found if suffixes(file)[0] == ".jsonl"]
    if not found:
        raise MalmoiError(f"{folder}: holds no {pattern}.jsonl (it may be packed: .jsonl.xz, .jsonl.gz).")
    return found


def _dataset(records: list[dict[str, Any]], where: str) -> Any:
    import datasets  # pyright: ignore[reportMissingImports]  (comes with lm_eval)

    if not records:
        raise MalmoiError(f"{where}: holds no question.")
    try:
        return datasets.Dataset.from_list(records)
    except (TypeError, ValueError) as error:  # Arrow's errors are ValueErrors
        raise MalmoiError(f"{where}: its records are not of one shape ({' '.join(str(error).split()):.200}).") from None
