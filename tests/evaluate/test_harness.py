"""The adapter to lm-evaluation-harness: request by request the numbers of its own backend for transformers."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval")

from exams import CONTEXT, SENTENCES, data_folder, model_folder

from malmoi.config import MalmoiError
from malmoi.evaluate import harness
from malmoi.evaluate.benchmarks import TASKS
from malmoi.evaluate.harness import malmoi_lm

LONG = " ".join(SENTENCES)


def requests(*arguments):
    return [SimpleNamespace(args=one) for one in arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("harness") / "model")


@pytest.fixture(scope="module")
def ours(folder):
    return malmoi_lm()(pretrained=str(folder), batch_size=3)


@pytest.fixture(scope="module")
def theirs(folder):
    pytest.importorskip("accelerate")
    backend = pytest.importorskip("lm_eval.models.huggingface").HFLM
    return backend(pretrained=str(folder), device="cpu", batch_size=4)


PAIRS = [
    *(
        (question, f" {answer}")
        for question in ("Who is it?", "그 사전의 이름은")
        for answer in ("the cat", "말", "말모이")
    ),
    ("", "The people of the village gathered words"),
    ("", "할머니"),
    ("A space at the end belongs to the answer: ", "cat"),
    ("A line break too\n", "cat and dog"),
    ("Answer:", " A"),
    ("Answer:", " B"),
    ("Answer:", " B"),
    ("an answer that", " " + SENTENCES[0]),
    (LONG, " the context is cut from the left"),
    (LONG[::-1], " cat"),
    ("한 마을에", "서 할머니가"),
]


def test_every_pair_is_as_probable_as_for_transformers(ours, theirs):
    found, expected = ours.loglikelihood(requests(*PAIRS)), theirs.loglikelihood(requests(*PAIRS))
    for pair, (mine, greedy), (yours, also) in zip(PAIRS, found, expected, strict=True):
        assert mine == pytest.approx(yours, abs=1e-4), pair
        assert greedy == also, pair
    assert len({round(logprob, 3) for logprob, _ in found}) > len(PAIRS) - 4  # two questions were asked twice


def test_some_continuations_are_what_greedy_decoding_writes(ours, theirs):
    """With a random model `is_greedy` would hardly ever be true: let the model itself say what comes."""
    contexts = [sentence[:length] for sentence in SENTENCES for length in range(5, 60, 3)]
    said = ours.generate_until(requests(*((context, {"max_gen_toks": 1}) for context in contexts)))
    pairs = [
        (context, text)
        for context, text in zip(contexts, said, strict=True)
        if len(ours.tok_encode(context + text)) > len(ours.tok_encode(context)) and "\ufffd" not in text
    ]
    assert pairs
    found, expected = ours.loglikelihood(requests(*pairs)), theirs.loglikelihood(requests(*pairs))
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert any(greedy for _, greedy in found)


def test_whole_texts_of_any_length(ours, theirs):
    texts = [(text,) for text in (*SENTENCES, LONG, LONG * 3, "말")]
    found, expected = ours.loglikelihood_rolling(requests(*texts)), theirs.loglikelihood_rolling(requests(*texts))
    assert found == pytest.approx(expected, abs=1e-3, rel=1e-6)


@pytest.mark.parametrize("until", [["\n"], ["a", "말"], [], ["e ", "<|end|>"]], ids=str)
def test_what_is_written(ours, theirs, until):
    settings = {"until": until, "max_gen_toks": 20, "do_sample": False}
    asked = [(text, settings) for text in ("The cat", "옛날", LONG, "A", "Its name was Malmoi and")]
    found, expected = ours.generate_until(requests(*asked)), theirs.generate_until(requests(*asked))
    assert found == expected
    assert all(stop not in text for text in found for stop in until)
    assert any(found)


def test_a_conversation_reads_the_same(ours, theirs):
    messages = [{"role": "user", "content": "Who likes the cat?"}]
    mine, yours = (lm.apply_chat_template(messages) for lm in (ours, theirs))
    assert mine == yours
    half = [*messages, {"role": "assistant", "content": "The old"}]
    opened = [lm.apply_chat_template(half, add_generation_prompt=False) for lm in (ours, theirs)]
    assert opened[0] == opened[1]
    assert opened[0].endswith("The old")
    assert ours.tok_encode(mine) == theirs.tok_encode(yours)
    pair = requests((mine, " The cat"), (opened[0], " woman"))
    try:
        found, expected = ours.loglikelihood(pair), theirs.loglikelihood(pair)
    finally:
        ours._conversing = False
    assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in expected], abs=1e-4)
    assert ours.chat_template(True) == theirs.chat_template(True)


def test_outside_a_conversation_control_tokens_are_text(ours):
    assert not set(ours.tok_encode("<|endoftext|><|end|>")) & set(ours.tokenizer.special_tokens.values())


def test_what_lm_eval_asks_of_a_model(ours, theirs):
    for name in ("eot_token_id", "prefix_token_id", "max_length", "tokenizer_name", "rank", "world_size"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.get_model_info()["model_num_parameters"] == theirs.get_model_info()["model_num_parameters"]


@pytest.mark.parametrize("size", [1, 2, 64, "auto"])
def test_batches_change_nothing(folder, ours, size):
    lm = malmoi_lm()(pretrained=str(folder), batch_size=size, max_batch_size=50)
    assert [a for a, _ in lm.loglikelihood(requests(*PAIRS))] == pytest.approx(
        [a for a, _ in ours.loglikelihood(requests(*PAIRS))], abs=1e-4
    )
    asked = requests(*((text[:30], {"until": ["."], "max_gen_toks": 9}) for text in SENTENCES))
    assert lm.generate_until(asked) == ours.generate_until(asked)


def test_where_context_and_answer_grow_together_their_token_is_scored(ours):
    """lm_eval's own split would leave nothing to score, and stops there."""
    tokens = (ours.tokenizer.decode([token]) for token in range(400) if token not in ours.tokenizer._special_ids)
    words = [word for word in tokens if len(word) > 1 and word.isalpha() and len(ours.tok_encode(word[:-1])) == 1]
    assert words
    for word in words:
        head, tail = ours._encode_pair(word[:-1], word[-1])
        assert (head, tail) == ([ours.prefix_token_id], ours.tok_encode(word)), word
        head, tail = ours._encode_pair(f"The cat and {word[:-1]}", word[-1])
        assert [*head, *tail] == ours.tok_encode(f"The cat and {word}")
        assert tail, word
    ((logprob, _),) = ours.loglikelihood(requests((words[0][:-1], words[0][-1])))
    assert logprob < 0


def test_sampling_repeats_with_its_seed_and_each_time_is_a_draw_of_its_own(folder, ours):
    wish = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    first = ours.generate_until(requests(*[("The cat", wish)] * 4))
    assert len(set(first)) > 1
    assert first == ours.generate_until(requests(*[("The cat", wish)] * 4))
    other = malmoi_lm()(pretrained=str(folder), seed=7)
    assert first != other.generate_until(requests(*[("The cat", wish)] * 4))
    cold = {**wish, "temperature": 0.0, "top_p": 0.5}
    assert ours.generate_until(requests(("The cat", cold))) == ours.generate_until(
        requests(("The cat", {"max_gen_toks": 12}))
    )


def test_answers_are_remembered_for_who_asked(folder, tmp_path):
    """lm_eval's cache: the second time nothing is computed, and the answers are the same."""
    from lm_eval.api.model import CachingLM

    seen: list[int] = []
    lm = malmoi_lm()(pretrained=str(folder), progress=lambda done, total: seen.append(done))
    cached = CachingLM(lm, str(tmp_path / "answers.db"))
    asked = {
        "loglikelihood": requests(*PAIRS[:4]),
        "loglikelihood_rolling": requests((LONG,)),
        "generate_until": requests(("The cat", {"until": ["."], "max_gen_toks": 5})),
    }
    first = {kind: getattr(cached, kind)(some) for kind, some in asked.items()}
    assert seen
    seen.clear()
    assert {kind: getattr(cached, kind)(some) for kind, some in asked.items()} == first
    assert not seen


def test_mistakes_are_one_sentence(folder, tmp_path, ours):
    lm = malmoi_lm()
    with pytest.raises(MalmoiError, match=r"'batch_siez'.*Did you mean 'batch_size'"):
        lm(pretrained=str(folder), batch_siez=4)
    with pytest.raises(MalmoiError, match="batch_size='many'"):
        lm(pretrained=str(folder), batch_size="many")
    with pytest.raises(MalmoiError, match=r"config\.json"):
        lm(pretrained=str(tmp_path))
    with pytest.raises(MalmoiError, match="tokenizer"):
        lm(pretrained=ours.model)
    with pytest.raises(MalmoiError, match=f"500 tokens.*{CONTEXT}.*max_gen_toks"):
        ours.generate_until(requests(("The cat", {"max_gen_toks": 500})))
    with pytest.raises(MalmoiError, match="needs a model with a longer"):
        ours.loglikelihood(requests(("The cat", LONG)))
    with pytest.raises(MalmoiError, match="no argument 'num_beam_groups'"):
        ours.generate_until(requests(("The cat", {"max_gen_toks": 5, "num_beam_groups": 2})))


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(MalmoiError, match=r"pip install 'malmoi\[eval\]'"):
        harness.lm_eval("api.model")


@pytest.mark.slow
def test_lm_evals_own_command_line_finds_us(folder, tmp_path):
    """`python -m malmoi.evaluate.harness` is lm_eval with the model 'malmoi' and our tasks in it."""
    data = data_folder(tmp_path / "data")
    command = [sys.executable, "-m", "malmoi.evaluate.harness", "--model", "malmoi", "--tasks", "arc_easy_local"]
    options = ["--model_args", f"pretrained={folder}", "--metadata", f'{{"data": "{data}"}}', "--batch_size", "2"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "arc_easy_local" in done.stdout
    assert "acc_norm" in done.stdout


def test_a_mistake_on_lm_evals_command_line_is_one_sentence(folder, tmp_path, monkeypatch, capsys):
    """What lm_eval does with its arguments stands in the test above; here it only opens the model."""
    seen: list[str] = []

    def opens_the_model() -> None:
        seen.extend(sys.argv)
        get_model = sys.modules["lm_eval.api.registry"].get_model
        get_model("malmoi").create_from_arg_string(f"pretrained={tmp_path}", {"batch_size": 1, "device": None})

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", opens_the_model)
    monkeypatch.setattr(sys, "argv", ["harness", "--model", "malmoi"])
    assert harness.main() == 1
    assert "config.json" in capsys.readouterr().err
    assert seen[-1] == str(TASKS)
