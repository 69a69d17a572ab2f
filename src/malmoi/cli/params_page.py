"""How `malmoi params` looks in a terminal: the four kinds of parameters as tables, in English or Korean."""

from __future__ import annotations

from typing import Any

from malmoi.cli.console import console, count, short, table
from malmoi.plan.counts import FORMATS

WORDS = {
    "en": {
        "published": "Published",
        "conjecture": "Conjecture",
        "positional": "1. Positional",
        "learned": "2. Learned",
        "hyper": "3. Hyperparameters",
        "configuration": "4. Configuration",
        "numbers": "numbers",
        "active": "One token passes {active} of them ({share:.3g} %), the input embedding included; {without} "
        "without it.",
        "dense": "One token passes all of them; without the input embedding, {without}.",
        "tied": "lm_head.weight is model.embed_tokens.weight itself (tied) and counts once.",
        "more": "What one of them means: malmoi explain NAME. What positions do: malmoi params {model} --kind "
        "positional",
        "all": "Both meanings of active: docs/family.md. One of them: malmoi params NAME",
    },
    "ko": {
        "published": "공개된 것",
        "conjecture": "추측",
        "positional": "1. 위치",
        "learned": "2. 학습되는 값",
        "hyper": "3. 하이퍼파라미터",
        "configuration": "4. 구성",
        "numbers": "개",
        "active": "토큰 하나는 그 가운데 {active}개({share:.3g} %)를 거쳐요. 입력 임베딩을 빼면 {without}개예요.",
        "dense": "토큰 하나가 모두 거쳐요. 입력 임베딩을 빼면 {without}개예요.",
        "tied": "lm_head.weight는 model.embed_tokens.weight와 같은 표(공유)라서 한 번만 세요.",
        "more": "뜻이 궁금하면 malmoi explain 이름. 위치가 하는 일은 malmoi params {model} --kind positional",
        "all": "'활성'의 두 가지 뜻은 docs/family.ko.md에 있어요. 하나만 보려면 malmoi params 이름",
    },
}
KIND_WORDS = {
    "positional": ("a vector for each place", "자리마다 있는 벡터"),
    "attention": ("queries, keys, values, output, sinks", "질의, 키, 값, 출력, 싱크"),
    "feed_forward": ("dense feed-forward networks", "밀집 피드포워드 네트워크"),
    "expert": ("experts and their router", "전문가와 라우터"),
    "norm": ("norms, of queries and keys too", "정규화(질의와 키의 것도)"),
    "embedding": ("the tables that read tokens", "토큰을 읽는 표"),
    "head": ("the table that scores the next token", "다음 토큰에 점수를 매기는 표"),
}


def show(found: dict[str, Any], language: str) -> None:
    """Print what `describe` found; parts that are not there are left out."""
    words, screen = WORDS[language], console()
    for part in ("published", "conjecture"):
        if "about" in found:
            screen.print(f"[cyan]{words[part]}[/cyan]: ", end="")
            screen.print(found["about"][part], markup=False)
    if "positional" in found:
        positional = found["positional"]
        screen.print(f"[bold]{words['positional']}[/bold]: {positional['kind']}, {positional['what']}")
        rows = [(key, value) for key, value in positional.items() if key not in ("kind", "what")]
        screen.print(table(("", ""), rows))
    if "by_kind" in found:
        _show_learned(found, language)
    if "hyperparameters" in found:
        hyper = found["hyperparameters"]
        screen.print(f"[bold]{words['hyper']}[/bold] ({hyper['from']})")
        if len(hyper) > 1:
            screen.print(table(("setting", "value"), [(key, value) for key, value in hyper.items() if key != "from"]))
    if "configuration" in found:
        screen.print(f"[bold]{words['configuration']}[/bold]")
        for part, values in found["configuration"].items():
            if values:
                screen.print(table((part, "value"), [(key, cell(value)) for key, value in values.items()]))
        screen.print(words["more"].format(model=found["model"]), markup=False)


def _show_learned(found: dict[str, Any], language: str) -> None:
    words, screen = WORDS[language], console()
    total, korean = found["total"], language == "ko"
    screen.print(f"[bold]{words['learned']}[/bold]: {count(total)} ({short(total)}) {words['numbers']}")
    if "active_without_input_embedding" in found:
        active, without = found["active"], found["active_without_input_embedding"]
        sentence = words["dense"] if active == total else words["active"]
        screen.print(sentence.format(active=count(active), share=100 * active / total, without=count(without)))
    rows = [
        (kind, KIND_WORDS[kind][korean], count(sums["total"]), count(sums["active"]), f"{sums['share']:.2%}")
        for kind, sums in found["by_kind"].items()
        if sums["total"] or len(found["by_kind"]) == 1
    ]
    screen.print(table(("kind", "", ">parameters", ">active", ">share"), rows))
    tensors = [
        (
            item["name"],
            " x ".join(map(str, item["shape"])),
            item["copies"],
            count(item["parameters"]),
            f"{item['share']:.2%}",
        )
        for item in found["tensors"]
    ]
    if tensors:
        screen.print(table(("module", "shape", ">copies", ">parameters", ">share"), tensors))
    if found.get("tied_embeddings"):
        screen.print(words["tied"] + "\n")
    if "multi_token_prediction" in found:
        screen.print(f"multi-token prediction, beside the model: {count(found['multi_token_prediction'])}\n")
    if "bytes" in found:
        sizes = [(name, size_of(size), FORMATS[name]) for name, size in found["bytes"].items()]
        screen.print(table(("weights in", ">size", ""), sizes))


def show_list(rows: list[dict[str, Any]], language: str) -> None:
    """Every preset on one line."""
    columns = ("layers", "width", "heads", "experts", "context", "vocabulary")
    lines = [
        (
            row["model"],
            count(row["total"]),
            short(row["active"]),
            *(f"{row[column]:,}" if row.get(column) else "" for column in columns),
        )
        for row in rows
    ]
    screen = console()
    screen.print(table(("preset", ">parameters", ">active", *(f">{column}" for column in columns)), lines))
    screen.print(WORDS[language]["all"], markup=False)


def cell(value: Any) -> str:
    """A value on one line: a list of equal entries as `entry x times`."""
    if isinstance(value, list) and len(value) > 1:
        if len(set(map(str, value))) == 1:
            return f"{value[0]} x {len(value)}"
        if len(value) > 4 and value[2:] == value[:-2]:
            return f"{value[0]}, {value[1]}, ... x {len(value)}"
    return str(value)


def size_of(number: float) -> str:
    """12821456896 -> '11.9 GiB'."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:,.3g} TiB" if number < 1000 else f"{number:,.0f} TiB"
