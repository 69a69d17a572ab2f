"""/v1/images/generations: pictures by seed, as many as asked for; pictures in a conversation; bombs."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient

from malmoi.generate.backend import FunctionBackend
from malmoi.generate.engine import Engine
from malmoi.serve import completions, responses, schema
from malmoi.serve.app import create_app
from malmoi.serve.service import Service
from malmoi.tokens import vocabulary
from malmoi.tokens.interleave import with_images
from serve import drawing
from serve.conftest import HERE

image_module = pytest.importorskip("PIL.Image")

URL, CHAT = "/v1/images/generations", "/v1/chat/completions"


@pytest.fixture(scope="module")
def painter():
    tokenizer = with_images(vocabulary.learn(["a red circle, two blue circles"] * 9, 275), drawing.untrained())
    backend = FunctionBackend(lambda past: np.zeros(len(tokenizer)), len(tokenizer), num_blocks=1024, block_size=8)
    with TestClient(create_app(Service(Engine(backend, tokenizer), tokenizer, "painter")), base_url=HERE) as client:
        yield client


def test_pictures_by_seed(painter):
    made = painter.post(URL, json={"prompt": "a red circle", "n": 2, "seed": 5}).json()
    again = painter.post(URL, json={"prompt": "a red circle", "n": 2, "seed": 5}).json()
    assert made["data"] == again["data"] and made["data"][0] != made["data"][1] and made["seed"] == 5
    for one in made["data"]:
        picture = image_module.open(io.BytesIO(base64.b64decode(one["b64_json"])))
        assert (picture.format, picture.size) == ("PNG", (32, 32))
    assert painter.get("/v1/models").json()["data"][0]["draws_images"]


@pytest.mark.parametrize("fields", [{"n": 9}, {"size": "4096x4096"}, {"response_format": "url"}, {"temperature": -1}])
def test_what_cannot_be_drawn_is_a_400(painter, fields):
    assert painter.post(URL, json={"prompt": "x", **fields}).status_code == 400


def asked(data, kind="png"):
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 3}


def png_of(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    lines = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def test_a_picture_in_a_conversation_is_read(painter):
    buffer = io.BytesIO()
    image_module.new("RGB", (20, 20), "red").save(buffer, "PNG")
    made = painter.post(CHAT, json=asked(buffer.getvalue()))
    assert made.status_code == 200 and made.json()["usage"]["prompt_tokens"] > 64


@pytest.mark.parametrize(
    "data",
    [png_of(100_000, 100_000), png_of(5000, 5000), b"SIMPLE  =  T", b"\x1f\x8b" + b"x" * 99, b"", b"<svg/>"],
    ids=["huge", "large", "fits", "gzip", "empty", "svg"],
)
def test_bombs_and_other_formats_are_refused_by_their_beginning(painter, data):
    """CVE-2026-22773 and Pillow's FITS bomb: what a file claims is read before anything of it is unpacked."""
    answer = painter.post(CHAT, json=asked(data))
    assert answer.status_code == 400 and "Traceback" not in answer.text


def test_more_pictures_than_the_context_holds_are_refused_before_one_is_unpacked(painter, monkeypatch):
    monkeypatch.setattr("malmoi.tokens.picture.open_picture", lambda *_: pytest.fail("a picture was unpacked"))
    (part, _) = asked(png_of(2000, 2000))["messages"][0]["content"]
    answer = painter.post(CHAT, json={"messages": [{"role": "user", "content": [part] * 60}]})
    assert answer.status_code == 400 and "60 pictures" in answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def drawer():
    with TestClient(create_app(drawing.drawing()), base_url=HERE) as client:
        yield client


def pixels(part):
    assert part["type"] == "image_url"
    kind, _, data = part["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(image_module.open(io.BytesIO(base64.b64decode(data))))


QUESTION = {"messages": [{"role": "user", "content": "draw"}], "max_tokens": 200}


def test_a_picture_drawn_in_an_answer_comes_with_it(drawer):
    (choice,) = drawer.post(CHAT, json=QUESTION).json()["choices"]
    assert choice["message"]["content"] == "a red  circle"
    (picture,) = choice["message"]["images"]
    wanted = drawing.TOKENIZER.image_tokenizer.decode(np.array(drawing.CODES) - drawing.IDS.first)
    assert np.array_equal(pixels(picture), np.asarray(wanted))
    made = drawer.post(CHAT, json={**QUESTION, "stream": True, "n": 2, "seed": 1}).text
    deltas = [json.loads(line.removeprefix("data: "))["choices"][0] for line in made.split("\n\n")[:-2]]
    said = [delta["delta"] for delta in deltas if delta["index"] == 1]
    (place,) = [place for place, delta in enumerate(said) if "images" in delta]
    assert said[place]["images"] == [picture]
    assert "".join(delta.get("content", "") for delta in said[:place]) == "a red "
    again = {"role": "assistant", "content": [{"type": "text", "text": "a red "}, picture]}
    assert (
        drawer.post(CHAT, json={"messages": [*QUESTION["messages"], again, *QUESTION["messages"]]}).status_code == 200
    )


@pytest.mark.parametrize("count", [5, 20, 70], ids=["in its first rows", "in the middle", "after it"])
def test_an_answer_goes_on_within_a_picture_and_after_it(drawer, count):
    begun = drawing.SAID[: len(drawing.BEFORE) + count]
    message = drawer.post(CHAT, json={**QUESTION, "answer_ids": begun}).json()["choices"][0]["message"]
    assert len(message.get("images", [])) == (0 if count == 70 else 1)
    if count != 70:
        assert message["images"] == drawer.post(CHAT, json=QUESTION).json()["choices"][0]["message"]["images"]
    assert drawer.post("/inside/next", json={"messages": QUESTION["messages"], "answer_ids": begun}).status_code == 200


def test_ids_of_pictures_that_are_none_are_refused(drawer):
    known, begun = drawing.IDS, drawing.PICTURE
    for ids in ([known.first], [known.end], [known.begin, known.first], [*begun[:9], 20], [*begun[:-1], 20]):
        answer = drawer.post(CHAT, json={**QUESTION, "answer_ids": ids})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"answer_ids.{len(ids) - 1}")
    assert drawer.post("/detokenize", json={"tokens": begun}).status_code == 400  # no text


def test_a_text_model_takes_no_pictures(client):
    assert client.post(CHAT, json=asked(png_of(2, 2))).status_code == 400


def test_an_answer_that_has_no_place_for_a_picture_begins_none(painter):
    made = painter.post("/v1/completions", json={"prompt": "a", "max_tokens": 150, "n": 8, "seed": 1, "explain": True})
    written = [token["id"] for choice in made.json()["choices"] for token in choice["explain"]]
    assert len(written) > 500 and max(written) < min(drawing.IDS.begin, 275)
    service = drawing.drawing()
    for request in (
        completions._request(service, schema.CompletionRequest(prompt="a"), "a"),
        responses._request(service, schema.ResponsesRequest(input="a"), None),
    ):
        assert request.config.logit_bias == {drawing.IDS.begin: -1e9}
