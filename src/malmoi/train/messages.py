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
        "en": "Step {step} was skipped: loss {loss}, gradient norm {norm} (skipped so far: {count}).",
        "ko": "{step}단계를 건너뛰었습니다: 손실 {loss}, 기울기 크기 {norm} (지금까지 {count}번).",
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
