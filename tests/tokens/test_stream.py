"""No broken character and no half of a stop string, whatever the borders between tokens."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.config import MalmoiError
from malmoi.tokens.stream import StopScanner, StreamDecoder

SYLLABLES = [chr(code) for code in range(0xAC00, 0xD7A4)]
SEQUENCES = ["👨‍👩‍👧‍👦", "❤️‍🔥", "🏳️‍🌈", "🇰🇷", "🇫🇷🇰🇷", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "👋🏽", "1️⃣", "क्‍ष", "각", "e\u0301"]


def decoder(pieces, **settings):
    return StreamDecoder(pieces.__getitem__, **settings)


def pushed(pieces):
    """Every text that is shown for tokens with these bytes, and the last one."""
    stream = decoder(pieces)
    return [stream.push(index) for index in range(len(pieces))], stream.finish()


def all_splits(data):
    for cuts in itertools.product((False, True), repeat=len(data) - 1):
        borders = [0, *(at + 1 for at, cut in enumerate(cuts) if cut), len(data)]
        yield [data[a:b] for a, b in itertools.pairwise(borders)]


def cut(data, borders):
    places = sorted({min(border, len(data)) for border in borders} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def test_every_hangul_syllable_in_every_split_appears_whole():
    assert len(SYLLABLES) == 11_172
    for syllable in SYLLABLES:
        for pieces in all_splits(syllable.encode()):
            shown, rest = pushed(pieces)
            assert shown == [""] * (len(pieces) - 1) + [syllable]
            assert rest == ""


def test_two_syllables_over_one_border():
    for first, second in itertools.pairwise(SYLLABLES[::97]):
        for pieces in all_splits((first + second).encode()):
            shown, rest = pushed(pieces)
            assert "".join(shown) + rest == first + second
            assert all(set(text) <= {first, second} for text in shown)


@pytest.mark.parametrize("text", SEQUENCES)
def test_sequences_come_back_whole_and_never_end_on_a_joiner_or_half_a_flag(text):
    data = text.encode()
    for border in range(1, len(data)):
        for pieces in ([data[:border], data[border:]], [data[i : i + 1] for i in range(len(data))]):
            shown, rest = pushed(pieces)
            assert "".join(shown) + rest == text
            for end in range(len(shown)):
                visible = "".join(shown[: end + 1])
                assert not visible.endswith("\u200d")
                flags = len(visible) - len(visible.rstrip("".join(chr(0x1F1E6 + i) for i in range(26))))
                assert flags % 2 == 0


@given(st.text(), st.lists(st.integers(0, 200)))
def test_valid_text_in_any_pieces_is_shown_without_a_replacement_character(text, borders):
    shown, rest = pushed(cut(text.encode(), borders))
    assert "".join(shown) + rest == text
    assert "".join(shown).count("\ufffd") == text.count("\ufffd")


@given(st.binary(max_size=40), st.lists(st.integers(0, 40)))
def test_any_bytes_give_what_decoding_them_at_once_gives(data, borders):
    pieces = cut(data, borders)
    stream = decoder(pieces)
    shown = "".join(stream.push(index) for index in range(len(pieces)))
    unfinished = stream.unfinished
    whole = data[: len(data) - len(unfinished)]
    assert shown + stream.finish() == whole.decode("utf-8", errors="replace")


def test_a_character_that_never_ends_is_not_shown():
    stream = decoder(["한".encode()[:2]])
    assert stream.push(0) == ""
    assert stream.unfinished == "한".encode()[:2]
    assert stream.finish() == ""
    assert stream.unfinished == b""


def test_a_lone_flag_half_is_shown_in_the_end():
    stream = decoder(["🇰".encode(), b"!"])
    assert (stream.push(0), stream.push(1)) == ("", "🇰!")
    assert stream.push(0) == ""
    assert stream.finish() == "🇰"


def test_the_spaces_at_the_edges_of_a_text_and_of_every_text_after_it():
    words = [b" the", b" cat "]
    for settings, shown in (
        ({}, [" the", " cat ", ""]),
        ({"strip_first_space": True}, ["the", " cat ", ""]),
        ({"strip_last_space": True}, [" the", " cat", ""]),
        ({"strip_last_space": True, "prefix": " "}, ["  the", " cat", ""]),
    ):
        stream = decoder(words, **settings)
        for _ in range(2):  # `finish` makes it ready for another text
            assert [stream.push(0), stream.push(1), stream.finish()] == shown
    stream = decoder([b"a ", b"b "], strip_last_space=True)
    assert [stream.push(0), stream.push(1), stream.push(0), stream.finish()] == ["a", " b", " a", ""]


def test_skipped_tokens_are_nothing_and_do_not_break_a_character():
    first, second = "글".encode()[:1], "글".encode()[1:]
    stream = decoder([first, b"<|end|>", second], skip={1})
    assert [stream.push(index) for index in range(3)] == ["", "", "글"]


def test_real_tokens_stream_to_what_they_decode_to(tokenizer, texts):
    for text in [*texts, "".join(SYLLABLES[::7])]:
        ids = tokenizer.encode(text)
        stream = tokenizer.stream()
        shown = [stream.push(index) for index in ids]
        assert "".join(shown) + stream.finish() == text == tokenizer.decode(ids)
        assert "\ufffd" not in "".join(shown)


# -------------------------------------------------------------------- stop strings


def expected(text, stops):
    """By `str.find` on the whole text: the stop string that is complete first; of two, the one that begins first."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(found)[1]] if found else text


def scan(pieces, stops):
    scanner = StopScanner(stops)
    shown = []
    for piece in pieces:
        safe, stopped = scanner.push(piece)
        shown.append(safe)
        assert stopped == scanner.stopped
        if stopped:
            return "".join(shown), scanner
    return "".join(shown) + scanner.finish(), scanner


letters = st.text(alphabet="ab가나", max_size=24)
stop_lists = st.lists(st.text(alphabet="ab가나", min_size=1, max_size=5), max_size=4)


@given(letters, stop_lists, st.lists(st.integers(0, 24)))
def test_stop_strings_across_any_borders_agree_with_find(text, stops, borders):
    places = sorted({min(border, len(text)) for border in borders} | {0, len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    shown, scanner = scan(pieces, stops)
    assert shown == expected(text, stops)
    assert scanner.stopped == any(stop in text for stop in stops)
    assert (scanner.found in stops) == scanner.stopped


@given(letters, stop_lists)
def test_nothing_that_is_clear_is_held_back(text, stops):
    scanner = StopScanner(stops)
    seen = ""
    shown = ""
    for character in text:
        seen += character
        safe, stopped = scanner.push(character)
        shown += safe
        if stopped:
            break
        held = seen[len(shown) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_a_stop_string_over_three_tokens():
    scanner = StopScanner(["\n끝."])
    assert scanner.push("이야기\n") == ("이야기", False)
    assert scanner.push("끝") == ("", False)
    assert scanner.push(".더") == ("", True)
    assert scanner.found == "\n끝."
    assert scanner.push("more") == ("", True)


def test_what_looked_like_a_stop_string_is_shown_in_the_end():
    scanner = StopScanner("STOP")
    assert scanner.push("go STO") == ("go ", False)
    assert scanner.finish() == "STO"


@pytest.mark.parametrize("stops", [[""], ["a", ""], [3]])
def test_an_empty_stop_string_is_refused(stops):
    with pytest.raises(MalmoiError, match="not empty"):
        StopScanner(stops)


def test_stop_strings_over_the_borders_of_real_tokens(tokenizer):
    text = "할머니가 말했습니다.\nUser: 👨‍👩‍👧 고양이는"
    for stop in ("\nUser:", "말했", "👩", "🐈", "고양이는"):
        stream, scanner, shown = tokenizer.stream(), StopScanner([stop]), ""
        for index in tokenizer.encode(text):
            safe, stopped = scanner.push(stream.push(index))
            shown += safe
            if stopped:
                break
        else:
            shown += scanner.push(stream.finish())[0] + scanner.finish()
        assert shown == text.split(stop)[0]
