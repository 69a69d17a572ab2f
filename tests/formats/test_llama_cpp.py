"""The other side: llama.cpp itself (the `xllamacpp` wheel) opens what was exported and says the same as we do."""

import json
import random
import urllib.request
from pathlib import Path

import pytest
import torch
from exported_models import LAYOUTS, SENTENCES, build, byte_level, cut_by, sentencepiece
from torch.nn.utils.rnn import pad_sequence

from malmoi.formats import gguf, gguf_tokenizer, handover
from malmoi.formats.gguf_tokenizer import CUTS
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.tokenizer import GPT4Tokenizer

xllamacpp = pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.slow

WORDS = (
    *(
        "école",
        "ÉCOLE",
        "CŒUR",
        "NOËL",
        "l'ÉTAT",
        "garçon",
        "straße",
        "ПРИВЕТ",
        "приветМир",
        "e\u0301te\u0301",
        "don't",
    ),
    *("안녕하세요", "각", "\u1112\u1161\u11ab", "HelloWorld", "123456", "½²", "DON'T", "’s", "日本語", "हिन्दी", "ไทย"),
    *("🇰🇷", "👍🏽", "\n\n", "\r\n", "\t", " ", "  ", "/", "...", "--", "«", "_", "1,234.5", "ʰ", "ª", "'S"),
)


class LlamaCpp:
    """A model of llama.cpp behind its own HTTP server on this machine's loopback."""

    def __init__(self, path: Path) -> None:
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = 128, 1, 1
        settings.hostnames, settings.port = ["127.0.0.1"], 0
        settings.warmup, settings.fit_params, settings.verbosity, settings.n_gpu_layers = False, False, 0, 0
        # the cache at full width and attention written out: nothing rounded that we do not round
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(settings)

    def ask(self, path: str, question: dict) -> dict:
        request = urllib.request.Request(
            self.server.listening_address + path,
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return json.load(answer)

    def ids(self, text: str) -> list[int]:
        return self.ask("/tokenize", {"content": text, "add_special": True, "parse_special": False})["tokens"]

    def greedy(self, ids: list[int], count: int) -> list[int]:
        question = {"prompt": ids, "n_predict": count, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        return self.ask("/completion", question)["tokens"]


def trained(layout: str, tokenizer: GPT4Tokenizer, steps: int = 60) -> GPT4LMHeadModel:
    """A model that has learned its twenty sentences: it is sure of what it says."""
    model = build(layout, vocab_size=tokenizer.vocab_size, initializer_range=0.05)
    texts = [torch.tensor(tokenizer.encode(text)) for text in SENTENCES]
    rows = pad_sequence(texts, batch_first=True)
    labels = pad_sequence(texts, batch_first=True, padding_value=-100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0)
    torch.manual_seed(0)
    for _ in range(steps):
        loss = model(rows, labels=labels).loss
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def continued(model: GPT4LMHeadModel, prompts: list[list[int]], count: int, end: int) -> list[list[int]]:
    """What the model finds likeliest after each prompt, until `end`; no cache, the whole text anew for each token."""
    rows = [list(ids) for ids in prompts]
    for _ in range(count):
        # Shorter texts are filled up behind, where nobody looks back from.
        logits = model(pad_sequence([torch.tensor(row) for row in rows], batch_first=True)).logits
        for row, prompt, own in zip(rows, prompts, logits, strict=True):
            if row[-1] != end or len(row) == len(prompt):
                row.append(int(own[len(row) - 1].argmax()))
    return [row[len(ids) :] for row, ids in zip(rows, prompts, strict=True)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_llama_cpp_says_the_same(layout: str, tmp_path: Path):
    tokenizer = byte_level()
    model = trained(layout, tokenizer)
    llama = LlamaCpp(handover.to_gguf(model, tokenizer, tmp_path / "model.gguf", "f32").path)
    texts = [tokenizer.encode(text) for text in SENTENCES]
    assert [llama.ids(text) for text in SENTENCES] == texts
    prompts = [ids[: max(len(ids) // 3, 1)] for ids in texts]
    assert [llama.greedy(ids, 24) for ids in prompts] == continued(model, prompts, 24, end=0)


@pytest.mark.parametrize("kind", gguf.TYPES[1:])
def test_llama_cpp_opens_every_type(kind: str, tmp_path: Path):
    """Its arithmetic on blocks rounds on the way, so only what a sure model says first is compared."""
    tokenizer = byte_level()
    model = trained("qwen3", tokenizer)
    llama = LlamaCpp(handover.to_gguf(model, tokenizer, tmp_path / "model.gguf", kind).path)
    rounded = gguf.load(tmp_path / "model.gguf", model.config)
    prompts = [tokenizer.encode(text)[:8] for text in SENTENCES]
    expected = continued(rounded, prompts, 4, end=0)
    same = [llama.greedy(ids, 4) == tokens for ids, tokens in zip(prompts, expected, strict=True)]
    assert sum(same) >= 18, same


@pytest.mark.parametrize("cut", [*CUTS, None], ids=lambda cut: cut.name if cut else "sentencepiece")
def test_llama_cpp_cuts_as_the_table_says(cut, tmp_path: Path):
    """Every way of cutting, as llama.cpp applies it, on texts that were made to tell them apart."""
    draw = random.Random(0)
    texts = ["".join(draw.choice(WORDS) + draw.choice(("", " ", "'s", "\n")) for _ in range(8)) for _ in range(150)]
    learned = [*texts, *SENTENCES, *handover.SAMPLES] * 2
    tokenizer = cut_by(cut.patterns, cut.whole_words, learned) if cut else sentencepiece(learned)
    layout = "qwen3" if cut else "llama"
    model = build(layout, vocab_size=tokenizer.vocab_size, eos_token_id=None, pad_token_id=None)
    made = handover.to_gguf(model, tokenizer, tmp_path / "model.gguf", "f32")
    applied = gguf_tokenizer.rebuild(gguf_tokenizer.read(gguf.values(gguf.open_file(made.path))), as_applied=True)
    llama = LlamaCpp(made.path)
    begin = [] if cut else [1]
    asked = [*texts, *WORDS, *handover.SAMPLES, *handover.CASES]
    assert [text for text in asked if llama.ids(text) != begin + applied.encode(text).ids] == []
    if not (cut and cut.note):
        assert [text for text in asked if llama.ids(text) != tokenizer.encode(text)] == []
