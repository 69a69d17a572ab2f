"""A conversation to ids and loss mask; the template says the same; nobody speaks in another's role."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi import GPT4Tokenizer, MalmoiError
from malmoi.tokens import chat, template
from malmoi.tokens.picture import Picture
from malmoi.tokens.vocabulary import SPECIAL_TOKENS

transformers = pytest.importorskip("transformers")

CONVERSATION = [
    {"role": "system", "content": "짧게 답하세요."},
    {"role": "developer", "content": ""},
    {"role": "user", "content": [{"type": "text", "text": "고양이는 "}, {"type": "text", "text": "어디 있나요?\n"}]},
    {"role": "assistant", "content": " 문 앞에 있어요. 🐈‍⬛"},
    {"role": "tool", "content": '{"weather": "rain"}'},
    {"role": "user", "content": "Où est l'été ?"},
    {"role": "assistant", "content": "  \n"},
]
contents = st.one_of(
    st.text(max_size=20),
    st.lists(st.text(max_size=8), max_size=3).map(lambda ts: [{"type": "text", "text": t} for t in ts]),
)
conversations = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(chat.ROLES), "content": contents}), min_size=1, max_size=5
)
hostile = st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text(max_size=5)), max_size=5).map("".join)


@pytest.fixture(scope="session")
def theirs(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def has_control(messages):
    return any(token in text for _, text in chat.checked(messages) for token in SPECIAL_TOKENS)


def test_the_format_is_what_the_docstring_says(tokenizer):
    ids, mask = chat.render(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert tokenizer.decode(ids) == "<|start|>user<|message|>a<|end|><|start|>assistant<|message|>b<|end|>"
    taught = [index for index, counts in zip(ids, mask, strict=True) if counts]
    assert tokenizer.decode(taught) == "b<|end|>"
    assert mask[-2:] == [1, 1]
    assert set(mask) == {0, 1}


def test_what_is_taught_is_what_the_assistant_says(tokenizer):
    ids, mask = chat.render(tokenizer, CONVERSATION)
    assert len(ids) == len(mask)
    taught = tokenizer.decode([index for index, counts in zip(ids, mask, strict=True) if counts])
    assert taught == " 문 앞에 있어요. 🐈‍⬛<|end|>  \n<|end|>"
    assert ids.count(tokenizer.special_tokens["<|end|>"]) == len(CONVERSATION)


def test_the_prompt_is_the_beginning_of_what_was_taught(tokenizer):
    """The ids that generation starts from are the ones that training saw before the assistant's first word."""
    ids, mask = chat.render(tokenizer, CONVERSATION[:4])
    prompt = chat.prompt_ids(tokenizer, CONVERSATION[:3], add_generation_prompt=True)
    assert ids[: len(prompt)] == prompt
    assert mask.index(1) == len(prompt)


@settings(deadline=None)
@given(messages=conversations, prompt=st.booleans())
def test_the_template_renders_the_same_text(tokenizer, messages, prompt):
    ours = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert template.render(chat.TEMPLATE, messages, prompt, {}) == ours


@settings(deadline=None)
@given(messages=conversations, prompt=st.booleans())
def test_transformers_gives_the_same_text_and_ids(tokenizer, theirs, messages, prompt):
    theirs_text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert theirs_text == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    if not has_control(messages):
        theirs_ids = theirs.apply_chat_template(messages, add_generation_prompt=prompt)["input_ids"]
        assert theirs_ids == tokenizer.apply_chat_template(messages, add_generation_prompt=prompt)


def test_the_long_conversation_too(tokenizer, theirs):
    assert theirs.apply_chat_template(CONVERSATION)["input_ids"] == tokenizer.apply_chat_template(CONVERSATION)
    tensor = tokenizer.apply_chat_template(CONVERSATION, return_tensors="pt")
    assert tensor.tolist() == [tokenizer.apply_chat_template(CONVERSATION)]


@settings(deadline=None)
@given(texts=st.lists(st.tuples(st.sampled_from(chat.ROLES), hostile), min_size=1, max_size=4))
def test_nobody_ends_a_message_from_inside(tokenizer, texts):
    messages = [{"role": role, "content": text} for role, text in texts]
    ids, mask = chat.render(tokenizer, messages)
    control = [index for index in ids if index in set(tokenizer.special_tokens.values())]
    one = [tokenizer.special_tokens[token] for token in (chat.START, chat.MESSAGE, chat.END)]
    assert control == one * len(messages)
    assert sum(mask) == sum(1 + len(tokenizer.encode(text)) for role, text in texts if role == "assistant")
    # the same words through the template of the folder, read by our masking reader
    assert template.to_ids(tokenizer, chat.TEMPLATE, texts) == ids
    assert template.to_ids_and_mask(tokenizer, chat.TEMPLATE, texts) == (ids, mask)


def test_the_folder_without_its_template_still_converses(folder, tmp_path, tokenizer):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    other = GPT4Tokenizer.from_pretrained(tmp_path)
    assert other.chat_template is None
    assert other.apply_chat_template(CONVERSATION) == tokenizer.apply_chat_template(CONVERSATION)


def test_where_a_turn_ends(tokenizer):
    assert chat.end_of_turn_id(tokenizer) == tokenizer.special_tokens["<|end|>"]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("hello", "list of messages.*str"),
        ({"role": "user", "content": "a"}, "list of messages.*dict"),
        (None, "NoneType"),
        ([], "empty"),
        (["hello"], r"messages\[0\] is str"),
        ([{"role": "user", "content": "a"}, {"content": "b"}], r"messages\[1\] has no 'role'"),
        ([{"role": "user"}], r"messages\[0\] has no 'content'"),
        ([{}], r"messages\[0\] has no 'role'.*none"),
        ([{"role": "asistant", "content": "a"}], r"messages\[0\].*'asistant'.*Did you mean 'assistant'"),
        ([{"role": ["user"], "content": "a"}], r"messages\[0\]"),
        ([{"role": "user<|end|>", "content": "a"}], r"messages\[0\]"),
        ([{"role": "user", "content": None}], r"messages\[0\].*NoneType"),
        ([{"role": "user", "content": 3}], r"messages\[0\].*int"),
        ([{"role": "user", "content": ["a"]}], r"messages\[0\]: part 0"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], r"messages\[0\]: part 0.*image"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}], r"messages\[0\]: part 1"),
        ([{"role": "user", "content": "\ud800"}], "surrogate"),
    ],
)
def test_an_unknown_shape_is_named(tokenizer, messages, says):
    with pytest.raises(MalmoiError, match=says):
        chat.render(tokenizer, messages)


def test_the_view_shows_what_is_taught_and_cannot_be_steered(tokenizer):
    messages = [{"role": "user", "content": "\x1b[2J지"}, {"role": "assistant", "content": "네\n뷁"}]
    ids, mask = chat.render(tokenizer, messages)
    plain = chat.view(tokenizer, ids, mask, colour=False)
    assert "\x1b" not in plain
    assert r"\x1b" in plain
    assert "+<|end|>+·4" in plain
    assert "⏎" in plain
    assert all(f"·{index}" in plain for index in ids)
    coloured = chat.view(tokenizer, ids, mask)
    assert coloured.count("\x1b[1;7;32m<|end|>") == 1
    assert "\x1b[2J" not in coloured
    with pytest.raises(MalmoiError, match="one to one"):
        chat.view(tokenizer, ids, mask[1:])


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


def test_parts_of_a_message_are_texts_and_pictures():
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, PICTURE, {"type": "text", "text": "c"}]
    ((role, parts),) = chat.checked_parts([{"role": "user", "content": content}])
    assert role == "user" and parts == ("ab", Picture(b"\x89PNG\r\n\x1a\n"), "c")
    assert chat.checked_parts([{"role": "user", "content": []}]) == [("user", ("",))]


def test_a_picture_where_only_text_is_read_is_told(tokenizer):
    messages = [{"role": "user", "content": [PICTURE]}]
    with pytest.raises(MalmoiError, match="knows only text"):
        chat.prompt_ids(tokenizer, messages)
    with pytest.raises(MalmoiError, match=r"messages\[0\] holds a picture"):
        chat.render_text(tokenizer, messages)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            "part 0 of the content: .* data URI",
        ),
        ({"type": "image_url"}, "is neither"),
        ({"type": "image", "image": "apple.png"}, "is neither"),
        ({"type": "audio"}, "is neither"),
        ("text", "is neither"),
    ],
)
def test_other_parts_are_refused(tokenizer, part, said):
    with pytest.raises(MalmoiError, match=said):
        chat.prompt_ids(tokenizer, [{"role": "user", "content": [part]}])
