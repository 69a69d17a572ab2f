"""What the training loop says, in English and Korean."""

from __future__ import annotations

MESSAGES: dict[str, dict[str, str]] = {
    "started": {
        "en": "{parameters:,} parameters, {steps:,} steps of {tokens:,} tokens, computed in {dtype}.",
        "ko": "매개변수 {parameters:,}개, {steps:,}단계, 단계마다 토큰 {tokens:,}개, 계산 정밀도 {dtype}.",
    },
    "timed": {
        "en": "A step takes {seconds:.3f} s here, so {minutes:g} minutes are {steps:,} steps.",
        "ko": "이 컴퓨터에서 한 단계에 {seconds:.3f}초가 걸리므로 {minutes:g}분은 {steps:,}단계입니다.",
    },
    "resumed": {"en": "Resumed from {path}.", "ko": "{path}에서 이어서 시작합니다."},
    "nothing_to_resume": {
        "en": "No checkpoint in {path}: starting from the beginning.",
        "ko": "{path}에 체크포인트가 없어 처음부터 시작합니다.",
    },
    "threads": {
        "en": "The run began with {before} threads and goes on with {now}: results may differ in the last bits.",
        "ko": "처음에는 스레드 {before}개였는데 지금은 {now}개입니다. 결과의 끝자리가 다를 수 있습니다.",
    },
    "skipped": {
        "en": "Step {step} was skipped: {reason} (skipped so far: {count}).",
        "ko": "{step}단계를 건너뛰었습니다: {reason} (지금까지 {count}번).",
    },
    "not_finite": {
        "en": "loss {loss:g} and gradient norm {norm:g} are not both finite numbers",
        "ko": "손실 {loss:g}, 기울기 크기 {norm:g} 가운데 유한한 수가 아닌 것이 있음",
    },
    "spike": {
        "en": "its loss {loss:.3f} leapt above {limit:.3f}; {usual:.3f} is usual",
        "ko": "손실 {loss:.3f}이(가) 한계 {limit:.3f} 위로 튐(평소 {usual:.3f})",
    },
    "no_targets": {"en": "its batch holds nothing to learn", "ko": "배울 것이 없는 배치임"},
    "halved": {
        "en": (
            "Out of memory: from step {step} on each batch is worked on in {pieces} pieces of {rows} rows. The result "
            "is the same but for rounding; per_device_train_batch_size: {rows} with "
            "gradient_accumulation_steps: {steps} would have begun so."
        ),
        "ko": (
            "메모리가 모자랍니다. {step}단계부터 배치를 {rows}줄씩 {pieces}조각으로 나누어 계산합니다. 결과는 반올림 "
            "차이 말고는 같습니다. 처음부터 이렇게 하려면 per_device_train_batch_size: {rows}, "
            "gradient_accumulation_steps: {steps}로 하세요."
        ),
    },
    "disk": {
        "en": "A checkpoint takes {each:.1f} MB, up to {count} are kept: {needed:.1f} MB; {free:,.0f} MB are free.",
        "ko": "체크포인트 하나는 {each:.1f} MB, 최대 {count}개({needed:.1f} MB)를 둡니다. 남은 공간 {free:,.0f} MB.",
    },
    "saved": {"en": "Saved {path}.", "ko": "{path}에 저장했습니다."},
    "interrupted": {
        "en": "Interrupted after step {step}. All is saved in {path}; go on with resume (malmoi train ... --resume).",
        "ko": "{step}단계 뒤에 멈췄습니다. {path}에 저장했으니 resume(malmoi train ... --resume)으로 이어집니다.",
    },
    "interrupted_unsaved": {
        "en": "Interrupted after step {step}. Nothing was saved, since the run has no folder.",
        "ko": "{step}단계 뒤에 멈췄습니다. 실행 폴더가 없어 저장하지 않았습니다.",
    },
    "best_loaded": {
        "en": "The model now holds the best weights: step {step}, held-out loss {loss:.4f}.",
        "ko": "모델은 이제 가장 좋은 가중치를 담고 있습니다: {step}단계, 검증 손실 {loss:.4f}.",
    },
    "best_lost": {
        "en": "The best checkpoint (step {step}) is gone or damaged, so the model keeps its last weights.",
        "ko": "가장 좋은 체크포인트({step}단계)가 없거나 손상되어 모델은 마지막 가중치를 유지합니다.",
    },
    "no_plot": {
        "en": "No loss.png: matplotlib is not installed (pip install 'malmoi[plots]').",
        "ko": "matplotlib이 없어 loss.png를 그리지 않았습니다(pip install 'malmoi[plots]').",
    },
    "finished": {"en": "Finished after {step:,} steps.", "ko": "{step:,}단계를 마쳤습니다."},
}


def say(name: str, language: str, **values: object) -> str:
    return MESSAGES[name][language].format(**values)
