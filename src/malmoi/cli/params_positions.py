"""`malmoi params MODEL --kind positional`: what places do in this model, in words, numbers and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.cli.console import console, count, print_json, table
from malmoi.cli.folders import model_folder
from malmoi.config import MalmoiError, ModelConfig

if TYPE_CHECKING:
    from malmoi.interpret.positions import Learned, Positions, Rotary

WORDS = {
    "en": {
        "rotary": "Rotary positions: no table. Each head's numbers form {pairs} pairs, and pair i turns by its own "
        "angle at every token. What a head sees of two tokens is the difference of their angles, so the distance "
        "counts and not the place. Nothing is learned for it.",
        "turns": "Within the context of {context} tokens {turning} of {pairs} pairs come round at least once: they "
        "tell near places apart. The angles of the other {still} never repeat: they tell how far apart two tokens "
        "are.",
        "stretched": "Stretched ({kind}) from {trained} to {context} tokens: {kept} pairs turn as before, {partly} "
        "are slowed in part and {whole} by the whole factor {factor:g}.",
        "linear": "Stretched (linear): every pair turns {factor:g} times slower.",
        "sharp": "Turned queries and keys are multiplied by {scale:.4g}, which keeps attention sharp over a longer "
        "text.",
        "learned": "Learned positions: a table with a vector of {width} numbers for each of {context} places, added "
        "to the token's vector. A place beyond the table does not exist.",
        "table": "Neighbours' vectors have a cosine of {near:.3f} on average, places half the context apart "
        "{far:.3f}. Lengths lie between {low:.3g} and {high:.3g}; the longest is place {longest}'s.",
        "untrained": "A preset has no weights; give a trained model's folder to see what its table has become.",
        "whole": "Every layer sees the whole past.",
        "windows": "{few} of {layers} layers see the last {window} tokens only; the others see the whole past.",
        "all_windows": "Every layer sees the last {window} tokens only.",
        "reach": "What a token knows can come from {first} tokens after the first layer and from {last} after the "
        "last, because each windowed layer reaches the window less one further than the layer below.",
        "picture": "Picture: {path}",
        "headings": ("pair", ">tokens for one turn", ">before stretching", ">turns in the context"),
    },
    "ko": {
        "rotary": "회전 위치: 표가 없어요. 헤드의 숫자들이 {pairs}쌍을 이루고, 쌍마다 토큰 하나를 지날 때 제 "
        "각도만큼 돌아요. 헤드에는 두 토큰의 각도 차이만 보이니, 자리가 아니라 거리가 중요해요. 학습하는 값은 "
        "없어요.",
        "turns": "문맥 {context}토큰 안에서 {pairs}쌍 가운데 {turning}쌍은 적어도 한 바퀴를 돌아요. 가까운 자리를 "
        "구별하는 쌍들이에요. 나머지 {still}쌍은 같은 각도가 되풀이되지 않아서 두 토큰이 얼마나 먼지 알려 줘요.",
        "stretched": "{trained}토큰에서 {context}토큰으로 늘렸어요({kind}). {kept}쌍은 그대로 돌고, {partly}쌍은 "
        "조금 느려지고, {whole}쌍은 {factor:g}배 느려졌어요.",
        "linear": "늘렸어요(linear). 모든 쌍이 {factor:g}배 느리게 돌아요.",
        "sharp": "돌린 질의와 키에 {scale:.4g}을 곱해서, 글이 길어져도 어텐션이 흐려지지 않게 해요.",
        "learned": "학습되는 위치: {context}개의 자리마다 {width}개의 숫자로 된 벡터가 있고, 토큰의 벡터에 더해요. "
        "표 너머의 자리는 없어요.",
        "table": "이웃한 자리의 코사인은 평균 {near:.3f}, 문맥의 절반만큼 떨어진 자리는 {far:.3f}이에요. 벡터의 "
        "길이는 {low:.3g}에서 {high:.3g} 사이이고, 가장 긴 것은 {longest}번 자리예요.",
        "untrained": "프리셋에는 가중치가 없어요. 학습된 표를 보려면 모델 폴더를 알려 주세요.",
        "whole": "모든 층이 앞의 글 전체를 봐요.",
        "windows": "{layers}층 가운데 {few}층은 마지막 {window}토큰만 보고, 나머지는 앞의 글 전체를 봐요.",
        "all_windows": "모든 층이 마지막 {window}토큰만 봐요.",
        "reach": "한 토큰이 아는 것은 첫 층 뒤에는 {first}토큰, 마지막 층 뒤에는 {last}토큰에서 올 수 있어요. 창이 "
        "있는 층은 아래층보다 (창 - 1)만큼 더 멀리 닿기 때문이에요.",
        "picture": "그림: {path}",
        "headings": ("쌍", ">한 바퀴의 토큰 수", ">늘리기 전", ">문맥 안의 바퀴 수"),
    },
}


def tell(name: str, png: Path | None, language: str, as_json: bool) -> None:
    """Print what positions do, and draw it: into `png`, or beside the run, or as ./positions-NAME.png.

    As JSON, a picture is drawn only where `png` says so. Without matplotlib only a picture that was asked for fails.
    """
    from malmoi.cli.params import read
    from malmoi.interpret.positions import positions
    from malmoi.interpret.positions_plot import draw
    from malmoi.plan import deepseek

    if name == deepseek.NAME:
        raise MalmoiError(f"{name}: is counted in closed form only; Malmoi does not build its latent attention.")
    config = read(name)[0]
    found = positions(config, _table(name, config))
    lines = _sentences(found, config, language)
    if as_json:
        print_json({"model": name, "explanation": lines, **facts(found)})
    else:
        screen = console()
        for line in lines:
            screen.print(line, markup=False)
        if found.rotary:
            screen.print(table(WORDS[language]["headings"], _hands(found.rotary, found.context)))
    if as_json and png is None:
        return
    folder = Path(name)
    default = folder / "positions.png" if folder.is_dir() else Path(f"positions-{folder.name}.png")
    try:
        drawn = draw(found, folder.resolve().name if folder.is_dir() else name, png or default)
    except MalmoiError as error:
        if png is not None:
            raise
        console(stderr=True).print(str(error), markup=False)
        return
    if not as_json:
        console().print(WORDS[language]["picture"].format(path=drawn), markup=False)


def _table(name: str, config: ModelConfig) -> Any:
    """The learned table of places (T, D) of a model folder; None where there is none."""
    if config.positions != "learned" or not Path(name).exists():
        return None
    from malmoi.model.gpt import GPT4LMHeadModel

    embedding = GPT4LMHeadModel.from_pretrained(model_folder(name)).model.embed_positions
    assert embedding is not None
    return embedding.weight


def facts(found: Positions) -> dict[str, Any]:
    """The numbers of a model's positions as plain data."""
    plain: dict[str, Any] = {"context": found.context, "windows": list(found.windows), "reach": list(found.reach)}
    if found.rotary:
        rotary = found.rotary
        plain["rotary"] = {
            "rope_type": rotary.rope_type,
            "theta": rotary.theta,
            "wavelengths_in_tokens": list(rotary.wavelengths),
            "wavelengths_before_stretching": list(rotary.unscaled),
            "pairs_that_turn_fully": rotary.full_turns(found.context),
            "attention_factor": rotary.attention_factor,
            "trained_context": rotary.trained_context,
        }
    if found.learned:
        learned = found.learned
        plain["learned"] = {
            "norms": learned.norms.tolist(),
            "mean_cosine_by_distance": learned.by_distance.tolist(),
            "stride": learned.stride,
        }
    return plain


def _sentences(found: Positions, config: ModelConfig, language: str) -> list[str]:
    words = WORDS[language]
    if found.rotary:
        lines = _rotary(found.rotary, found.context, words)
    else:
        lines = [words["learned"].format(width=count(config.hidden_size), context=count(found.context))]
        lines.append(_learned(found.learned, words) if found.learned else words["untrained"])
    windowed = [window for window in found.windows if window is not None]
    if not windowed:
        return [*lines, words["whole"]]
    sight = words["all_windows"] if len(windowed) == len(found.windows) else words["windows"]
    lines.append(sight.format(few=len(windowed), layers=len(found.windows), window=count(max(windowed))))
    return [*lines, words["reach"].format(first=count(found.reach[0]), last=count(found.reach[-1]))]


def _rotary(rotary: Rotary, context: int, words: dict[str, Any]) -> list[str]:
    pairs, turning = len(rotary.wavelengths), rotary.full_turns(context)
    lines = [
        words["rotary"].format(pairs=pairs),
        words["turns"].format(context=count(context), turning=turning, pairs=pairs, still=pairs - turning),
    ]
    factor = max(after / before for after, before in zip(rotary.wavelengths, rotary.unscaled, strict=True))
    if rotary.rope_type == "linear":
        lines.append(words["linear"].format(factor=round(factor, 2)))
    elif rotary.stretched:
        kept, partly, whole = rotary.slowed()
        trained = count(rotary.trained_context or context)
        lines.append(
            words["stretched"].format(
                kind=rotary.rope_type,
                trained=trained,
                context=count(context),
                kept=kept,
                partly=partly,
                whole=whole,
                factor=round(factor, 2),
            )
        )
    if rotary.attention_factor != 1.0:
        lines.append(words["sharp"].format(scale=rotary.attention_factor))
    return lines


def _learned(learned: Learned, words: dict[str, Any]) -> str:
    far = learned.by_distance[len(learned.by_distance) // 2]
    return words["table"].format(
        near=float(learned.by_distance[min(1, len(learned.by_distance) - 1)]),
        far=float(far),
        low=float(learned.norms.min()),
        high=float(learned.norms.max()),
        longest=int(learned.norms.argmax()),
    )


def _hands(rotary: Rotary, context: int) -> list[tuple[str, ...]]:
    """At most nine pairs from the fastest to the slowest."""
    last = len(rotary.wavelengths) - 1
    chosen = sorted({round(last * step / 8) for step in range(9)})
    return [
        (
            str(pair),
            f"{rotary.wavelengths[pair]:,.1f}",
            f"{rotary.unscaled[pair]:,.1f}",
            f"{turns:,.0f}" if (turns := context / rotary.wavelengths[pair]) >= 100 else f"{turns:.3g}",
        )
        for pair in chosen
    ]
