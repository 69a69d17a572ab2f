"""What comes back: rectangles of ids without torch's help until somebody wants a tensor; text without torch at all."""

import subprocess
import sys

import torch
from speakers import made_up

from malmoi.generate.backend import FunctionBackend
from malmoi.generate.engine import generate
from malmoi.generate.request import Text


def test_sequences_are_a_tensor_of_prompts_and_what_follows():
    made = generate(FunctionBackend(made_up(9), 9), [[3, 4], [5]], max_new_tokens=3, eos_token_id=(), pad_token_id=0)
    assert made.sequences.dtype == torch.int64
    assert made.sequences[:, :2].tolist() == [[3, 4], [0, 5]]
    assert made.sequences[:, 2:].tolist() == made.new_tokens


def test_text_holds_back_what_may_be_a_stop_string(tokenizer):
    text, shown = Text(tokenizer, ("끝!",)), []
    for token in tokenizer.encode("a끝b끝!c"):
        if text.push(token):
            break
        shown.append(text.take(ended=False))
    assert "".join(shown) + text.take() == "a끝b"


def test_an_engine_over_a_backend_needs_no_torch():
    code = """
import sys, numpy as np
from malmoi.generate.backend import FunctionBackend
from malmoi.generate.engine import Engine, Request, generate
backend = FunctionBackend(lambda past: np.arange(5.0), 5)
assert generate(backend, [1], max_new_tokens=3, temperature=0.5, seed=1).seed == 1
assert generate(backend, [1], max_new_tokens=3).new_tokens == [[4, 4, 4]]
print([name for name in sys.modules if name == "torch"])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert result.stdout.strip() == "[]", result.stderr
