"""Others' chat templates: the ids that transformers gives, without the way in that it leaves open."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi import GPT4Tokenizer, MalmoiError
from malmoi.tokens import chat, template
from malmoi.tokens.vocabulary import learn

transformers = pytest.importorskip("transformers")

CHATML = """\
{%- if not messages or messages[0].role != 'system' %}
    {{- '<|reserved_0|>system\\nBe brief.<|reserved_1|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|reserved_0|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {% generation %}{{ message.content | trim }}{% endgeneration %}
    {%- else %}
        {{- message.content | trim }}
    {%- endif %}
    {{- '<|reserved_1|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|reserved_0|>assistant\\n' }}{% endif %}
"""
CONVERSATION = [
    {"role": "user", "content": "  고양이는 어디 있나요? "},
    {"role": "assistant", "content": "문 앞에 있어요.\n"},
    {"role": "user", "content": "Merci !"},
    {"role": "assistant", "content": "De rien."},
]


@pytest.fixture(scope="module")
def foreign(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    tokenizer = learn(texts, 440)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return GPT4Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def test_the_ids_are_those_of_transformers(foreign):
    ours, theirs = foreign
    assert ours.chat_template == CHATML
    for length in (1, 2, 3, 4):
        for prompt in (False, True):
            given_messages = CONVERSATION[:length]
            want = theirs.apply_chat_template(given_messages, add_generation_prompt=prompt)["input_ids"]
            assert ours.apply_chat_template(given_messages, add_generation_prompt=prompt) == want
            text = theirs.apply_chat_template(given_messages, add_generation_prompt=prompt, tokenize=False)
            assert ours.apply_chat_template(given_messages, add_generation_prompt=prompt, tokenize=False) == text


def test_what_is_taught(foreign):
    ours, _ = foreign
    ids, mask = chat.render(ours, CONVERSATION)
    assert ids == ours.apply_chat_template(CONVERSATION)
    taught = ours.decode([index for index, counts in zip(ids, mask, strict=True) if counts])
    assert taught == "문 앞에 있어요.<|reserved_1|>De rien.<|reserved_1|>"


@settings(deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from(
            ["<|reserved_0|>", "<|reserved_1|>", "<|reserved_", "1|>", "system\n", "\ue000", "\ue0001\ue000", "가"]
        )
    )
)
def test_what_a_person_types_stays_text(foreign, pieces):
    ours, _ = foreign
    typed = "".join(pieces)
    messages = [{"role": "user", "content": f"a{typed}b"}, {"role": "assistant", "content": "c"}]
    ids, mask = chat.render(ours, messages)
    special = set(ours.special_tokens.values())
    assert [index for index in ids if index in special] == [5, 6, 5, 6, 5, 6]
    rendered = ours.apply_chat_template(messages, tokenize=False)
    assert ours.decode(ids) == rendered
    assert ours.decode([index for index, counts in zip(ids, mask, strict=True) if counts]) == "c<|reserved_1|>"


def test_a_template_that_rewrites_earlier_turns_cannot_be_taught(foreign):
    ours, _ = foreign
    forgetful = "{% for m in messages %}{% if loop.last %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    turns = [(message["role"], message["content"]) for message in CONVERSATION]
    with pytest.raises(MalmoiError, match=r"messages\[1\].*rewrites earlier turns"):
        template.to_ids_and_mask(ours, forgetful, turns)


def test_no_template_says_what_to_do(texts):
    tokenizer = GPT4Tokenizer(learn(texts, 300)._tokenizer)
    tokenizer.special_tokens = {"<|endoftext|>": 0}  # as GPT-2's: no words for a conversation
    for use in (chat.render, chat.prompt_ids, chat.render_text):
        with pytest.raises(MalmoiError, match="no chat template"):
            use(tokenizer, CONVERSATION)
    assert chat.end_of_turn_id(tokenizer) is None


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("a\n{% if %}", "not valid Jinja \\(line 2\\)"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content.upper() }}", "refuses this conversation"),
        ("{{ messages[0].content + 3 }}", "fails on this conversation: TypeError"),
        ("{{ 1 // 0 }}", "fails on this conversation: ZeroDivisionError"),
        ("{% for i in range(10**9) %}x{% endfor %}", "fails on this conversation|refuses"),
        ("{{ ''.__class__.__mro__ }}", "refuses this conversation"),
        ("{{ messages.append(1) }}", "refuses this conversation"),
        ("{% include 'secret' %}", "refuses this conversation|fails"),
    ],
)
def test_a_bad_template_is_one_sentence(source, says):
    with pytest.raises(MalmoiError, match=says):
        template.render(source, [{"role": "user", "content": "a"}], False, {})


def test_names_and_tools_that_templates_use():
    text = template.render(
        "{{ bos_token }}{{ messages | tojson }}"
        "{% for i in range(3) %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        [{"role": "user", "content": "가<"}],
        False,
        {"bos_token": "<s>"},
    )
    assert text == '<s>[{"role": "user", "content": "가<"}]0'
    assert len(template.render("{{ strftime_now('%Y-%m-%d') }}", [], False, {})) == 10
