"""The page in a real Chromium, over the real server, as a person uses it: Debian's chromium by playwright.

Every test also holds that nothing was reported on the console and that no request left the origin.
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from malmoi.generate.backend import FunctionBackend
from malmoi.generate.engine import Engine
from malmoi.serve.service import Service
from malmoi.tokens.interleave import with_images
from malmoi.tokens.vocabulary import learn
from serve import drawing
from serve.conftest import ANSWER, Running, rambles, service_of, slowly
from serve.opened import opened

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")

SEND, STOP = ".send:not(.stop)", ".send.stop"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """visit(address, ...): a new person's page there. At the end: no error was told, and nobody else was asked."""
    contexts, wrong = [], []

    def open_page(address, refused=False, **options):
        settings = {"locale": "en-GB", "viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"}
        context = browser.new_context(**{**settings, **options})
        contexts.append(context)
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if is_wrong(message, refused) else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if is_own(request.url, address) else wrong.append(request.url))
        page.goto(address)
        page.wait_for_selector(".title:not(:empty)")  # the model's name: the server has answered
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def is_wrong(message, refused):
    """The browser itself reports what a server `refused`."""
    told = message.type in ("error", "warning")
    return told and not (refused and message.text.startswith("Failed to load resource"))


def is_own(url, address):
    return url.startswith((address, "data:", "blob:"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    made = Running(opened(tmp_path_factory.mktemp("page")))
    yield made
    made.close()


def say(page, text):
    page.fill("#message", text)
    page.press("#message", "Enter")
    page.wait_for_selector(".message.assistant .facts")
    page.wait_for_selector(SEND)


def answers(page):
    return [each.strip() for each in page.locator(".message.assistant .body").all_inner_texts()]


def count(page):
    return page.locator(".message.assistant .count").last.inner_text()


def test_a_conversation_is_kept_exported_and_deleted(visit, running):
    page = visit(running.address)
    say(page, "hi")
    say(page, "and again")
    assert answers(page) == [ANSWER, ANSWER]
    assert page.locator(".message.user .said").all_inner_texts() == ["hi", "and again"]
    page.reload()
    page.wait_for_selector(".message.assistant")
    assert answers(page) == [ANSWER, ANSWER]
    page.click(".menu summary")
    with page.expect_download() as saved:
        page.locator(".menu-items button").first.click()
    assert saved.value.suggested_filename == "hi.md"
    assert saved.value.path().read_text("utf-8").count(ANSWER) == 2
    page.click(".list .tiny")
    page.click("dialog .primary")
    page.wait_for_selector(".welcome")
    page.reload()
    page.wait_for_selector(".welcome")
    assert page.locator(".list li").count() == 0


def test_an_answer_is_stopped_and_kept(visit, rambling):
    page = visit(rambling.address)
    page.fill("#message", "hi")
    page.press("#message", "Enter")
    page.wait_for_selector(".token >> nth=5")
    page.click(STOP)
    page.wait_for_selector(".message.assistant .facts")
    assert "stopped" in page.locator(".facts").inner_text()
    assert page.locator(".token").count() >= 5


def test_answers_and_questions_have_versions(visit, running):
    page = visit(running.address)
    say(page, "one")
    page.click('.message.assistant [aria-label="Answer again"]')
    page.wait_for_selector(".message.assistant .count")
    assert count(page) == "2/2"
    page.click('.message.assistant [aria-label="Previous version"]')
    assert count(page) == "1/2"
    page.hover(".message.user")
    page.click('.message.user [aria-label="Edit"]')
    page.fill(".edit", "two")
    page.press(".edit", "Enter")
    page.wait_for_selector(".message.user .count")
    page.wait_for_selector(SEND)
    assert page.locator(".message.user .said").inner_text() == "two"
    page.click('.message.user [aria-label="Previous version"]')
    assert page.locator(".message.user .said").inner_text() == "one"
    assert count(page) == "1/2"


def test_a_word_is_opened_and_another_one_chosen(visit, small):
    page = visit(small.address)
    page.evaluate("""localStorage["malmoi.preferences"] = JSON.stringify(
        {settings: {max_completion_tokens: 6, temperature: 0.7, top_k: 5, seed: 3}})""")
    page.reload()
    say(page, "hi")
    page.click('[aria-label="Open the words of this answer"]')
    page.wait_for_selector(".panel .word")
    assert page.locator(".panel .stage").count() == 3  # the model alone, temperature, top-k
    assert page.locator(".panel .stage .moved").count() == 2
    page.keyboard.press("ArrowRight")
    assert "token 2 of 6" in page.locator(".word-title").inner_text()
    before = page.evaluate(KEPT)
    other = page.locator("button.alternative:not(:disabled)").first
    text = other.locator(".alternative-text").inner_text()
    other.click()
    page.wait_for_selector(".note")
    page.wait_for_selector(SEND)
    page.wait_for_selector(".message.assistant .count")
    assert count(page) == "2/2"
    assert page.locator(".panel .word").inner_text() == text
    nodes = page.evaluate(KEPT)
    old, new = (each["tokens"] for each in nodes[-2:])
    assert before[-1]["tokens"] == old
    assert [token["id"] for token in new[:1]] == [token["id"] for token in old[:1]]
    assert new[1]["id"] != old[1]["id"]
    assert len(new) == 2 + 6


KEPT = """() => new Promise((resolve) => {
  indexedDB.open("malmoi").onsuccess = (event) => {
    const asked = event.target.result.transaction("conversations").objectStore("conversations").getAll();
    asked.onsuccess = () => resolve(Object.values(asked.result[0].nodes).sort((a, b) => a.order - b.order));
  };
})"""


def test_layers_and_attention_of_a_token(visit, small):
    page = visit(small.address)
    page.evaluate("""localStorage["malmoi.preferences"] = JSON.stringify({settings: {max_completion_tokens: 4}})""")
    page.reload()
    say(page, "hi")
    page.click('[aria-label="Open the words of this answer"]')
    page.click(".layers button")
    page.wait_for_selector(".lens")
    assert page.locator(".lens tbody tr").count() == 3  # embeddings and two layers
    assert page.locator(".head-cell").count() == 2 * (1 + 4)
    said = page.locator(".layers [role=status]").inner_text()
    page.locator(".head-cell").first.click()
    assert page.locator(".layers [role=status]").inner_text() != said
    assert page.locator('.head-cell[aria-pressed="true"]').count() == 1


def test_sliders_show_what_they_do_and_are_kept(visit, running):
    page = visit(running.address)
    page.click(".settings-button")
    page.wait_for_selector(".preview .stage")
    assert page.locator(".preview .stage").count() == 1
    page.locator("#setting-temperature").fill("2")
    page.wait_for_selector(".preview .stage:nth-child(2)")
    page.locator("#setting-top_k").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".preview .stage:nth-child(3)")
    assert "100 %" in page.locator(".preview .alternative").first.inner_text()
    page.reload()
    page.click(".settings-button")
    page.wait_for_selector(".preview .stage:nth-child(3)")
    assert page.locator("#setting-temperature").input_value() == "2"
    page.click(".panel > .wide-button")
    page.wait_for_selector(".preview .stage:nth-child(2)", state="detached")


def test_answers_side_by_side(visit, running):
    page = visit(running.address)
    page.evaluate("""localStorage["malmoi.preferences"] = JSON.stringify({settings: {n: 2}})""")
    page.reload()
    say(page, "hi")
    page.wait_for_selector(".columns .message:nth-child(2) .facts")
    assert answers(page) == [ANSWER, ANSWER]
    page.locator(".columns .small").last.click()
    assert count(page) == "2/2"


def test_an_answer_is_copied_coloured_and_exported_with_its_traces(visit, running):
    page = visit(running.address, permissions=["clipboard-read", "clipboard-write"])
    say(page, "hi")
    page.click('.message.assistant [aria-label="Copy"]')
    page.wait_for_selector(".shown >> text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER
    colour = "getComputedStyle(document.querySelector('.message.assistant .token.heat-0')).backgroundColor"
    page.evaluate("document.querySelector('.token').className = 'token heat-4'")
    surprised = "getComputedStyle(document.querySelector('.token.heat-4')).backgroundColor"
    assert page.evaluate(colour) == page.evaluate(surprised)  # no colours yet
    page.click('[aria-label="Colour words by surprise"]')
    page.evaluate("document.querySelector('.token').className = 'token heat-4'")
    assert page.evaluate(colour) != page.evaluate(surprised)
    page.click(".menu summary")
    with page.expect_download() as saved:
        page.locator(".menu-items button").last.click()
    kept = json.loads(saved.value.path().read_text("utf-8"))
    tokens = next(node for node in kept["nodes"].values() if node["role"] == "assistant")["tokens"]
    assert b"".join(bytes(token["bytes"]) for token in tokens[:-1]).decode() == ANSWER
    assert tokens[0]["alternatives"] and kept["model"]["model_hash"]


def test_every_setting_says_what_it_is_why_and_what_to_try(visit, running):
    page = visit(running.address, locale="ko-KR")
    page.click(".settings-button")
    page.wait_for_selector("#setting-min_p")
    told = page.locator(".settings").text_content()
    for words in page.request.get(f"{running.address}/inside/settings?lang=ko").json():
        assert page.locator(f"#setting-{words['name']}").count() == 1
        for kind in ("what", "why", "try"):
            assert words[kind] in told, (words["name"], kind)


def test_the_four_kinds_of_parameters(visit, small):
    page = visit(small.address)
    page.goto(small.address + "/#/parameters")
    page.wait_for_selector(".parameters .chart")
    assert page.locator(".parameters .card").count() == 4
    assert page.locator(".parameters .tree").count() == 1
    text = page.locator(".parameters").text_content()
    for word in ("q_proj", "32", "learning_rate", "0.003", "hidden_size", "num_hidden_layers"):
        assert word in text, word
    page.click("text=Back to the conversation")
    page.wait_for_selector(".welcome")


def test_enter_that_composes_a_syllable_does_not_send(visit, running):
    """Korean is typed through an input method: Enter may end a syllable, and is no wish to send."""
    page = visit(running.address, locale="ko-KR")
    assert page.locator("#message").get_attribute("placeholder") == "메시지를 쓰세요"
    page.focus("#message")
    keyboard = page.context.new_cdp_session(page)
    keyboard.send("Input.imeSetComposition", {"text": "하", "selectionStart": 1, "selectionEnd": 1})
    composing = {"type": "rawKeyDown", "key": "Process", "code": "Enter", "windowsVirtualKeyCode": 229}
    keyboard.send("Input.dispatchKeyEvent", composing)
    page.dispatch_event("#message", "keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    assert page.locator(".message").count() == 0
    keyboard.send("Input.imeSetComposition", {"text": "한", "selectionStart": 1, "selectionEnd": 1})
    keyboard.send("Input.insertText", {"text": "한"})
    assert page.input_value("#message") == "한"
    page.press("#message", "Enter")
    page.wait_for_selector(".message.assistant .facts")
    assert page.locator(".message.user .said").inner_text() == "한"


def test_markdown_is_shown_and_nothing_in_it_runs(visit, running):
    page = visit(running.address)
    dangerous = (
        '# Title\n\n**bold** `code` <img src=x onerror="window.hurt=1"> [bad](javascript:window.hurt=1) '
        "[good](https://example.org)\n\n1. one\n2. two\n   - in\n\n```python\nprint('<b>')\n```\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n> said\n"
    )
    made = page.evaluate(
        """async (text) => {
            const { render } = await import("/page/markdown.js");
            const place = document.createElement("div");
            place.append(...render(text, (start, end) => [text.slice(start, end)]));
            document.body.append(place);
            const names = [...place.querySelectorAll("*")].map((each) => each.tagName.toLowerCase());
            return { names, links: [...place.querySelectorAll("a")].map((each) => each.href), text: place.textContent };
        }""",
        dangerous,
    )
    assert "img" not in made["names"]
    assert "script" not in made["names"]
    assert made["links"] == ["https://example.org/"]
    assert {"h3", "strong", "code", "ol", "ul", "pre", "table", "blockquote"} <= set(made["names"])
    assert '<img src=x onerror="window.hurt=1">' in made["text"]
    assert page.evaluate("window.hurt") is None


def test_it_fits_a_phone(visit, small):
    page = visit(small.address, viewport={"width": 375, "height": 700}, has_touch=True)
    page.evaluate("""localStorage["malmoi.preferences"] = JSON.stringify({settings: {max_completion_tokens: 20}})""")
    page.reload()
    say(page, "hello world " * 8 + "hello" * 12)
    page.click('[aria-label="Open the words of this answer"]')
    page.wait_for_selector(".panel .stage")
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") == 375
        assert page.evaluate("document.querySelector('.scroll').scrollWidth") <= 375
        page.goto(small.address + "/#/parameters")
        page.wait_for_selector(".parameters .chart")


def test_dark_and_light(visit, running):
    page = visit(running.address, color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.click('[aria-label="Light colours"]')
    light = page.evaluate(colour)
    assert sum(map(int, dark[4:-1].split(","))) < 150 < 600 < sum(map(int, light[4:-1].split(",")))
    page.reload()
    assert page.evaluate(colour) == light


def test_the_language_can_be_switched(visit, running):
    page = visit(running.address)
    page.click(".side-row .side-link")
    assert page.locator("html").get_attribute("lang") == "ko"
    assert page.locator(".new").inner_text() == "새 대화"
    page.reload()
    assert page.locator(".new").inner_text() == "새 대화"


def test_a_server_with_a_key_is_asked_with_it(visit, browser):
    served = Running(service_of(), keys=["secret"])
    try:
        context = browser.new_context(locale="en-GB")
        page = context.new_page()
        page.goto(served.address)
        page.fill("dialog input", "secret")
        page.click("dialog .primary")
        page.wait_for_selector(".title:not(:empty)")
        say(page, "hi")
        assert answers(page) == [ANSWER]
        context.close()
    finally:
        served.close()


def test_an_error_is_told_in_the_conversation(visit):
    served = Running(service_of(slowly(rambles), max_position=64))
    try:
        page = visit(served.address, refused=True)
        page.fill("#message", "hello world. " * 40)
        page.press("#message", "Enter")
        page.wait_for_selector(".message .error")
        assert "64" in page.locator(".message .error").inner_text()
    finally:
        served.close()


def test_a_picture_is_attached_where_the_model_reads_them(visit, running, tmp_path):
    page = visit(running.address)
    assert page.locator('.composer [title="This model reads text only"]').is_disabled()
    tokenizer = with_images(learn(["hello world. 안녕하세요 세상."] * 20, vocab_size=290), drawing.untrained())
    backend = FunctionBackend(lambda past: 20.0 * (np.arange(len(tokenizer)) == 65), len(tokenizer), max_position=512)
    served = Running(Service(Engine(backend, tokenizer), tokenizer, "seeing"))
    try:
        page = visit(served.address)
        page.evaluate("""localStorage["malmoi.preferences"] = JSON.stringify({settings: {max_completion_tokens: 2}})""")
        page.reload()
        page.wait_for_selector('.composer [title="Attach a picture"]:not(:disabled)')
        Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
        page.set_input_files("input[type=file]", tmp_path / "red.png")
        page.wait_for_selector(".thumb img")
        with page.expect_request("**/v1/chat/completions") as asked:
            say(page, "what is it?")
        parts = asked.value.post_data_json["messages"][0]["content"]
        assert [part["type"] for part in parts] == ["image_url", "text"]
        assert parts[0]["image_url"]["url"].startswith("data:image/png;base64,")
        assert page.locator(".message.user .pictures img").count() == 1
        assert page.locator(".thumb").count() == 0
        assert page.locator(".message .error").count() == 0
    finally:
        served.close()


def test_a_picture_that_the_model_draws_is_shown_in_its_place(visit, tmp_path):
    served = Running(drawing.drawing())
    try:
        page = visit(served.address)
        say(page, "draw")
        shown = page.locator(".message.assistant .body > *")
        assert [each.strip() for each in shown.all_inner_texts()] == ["a red", "", "circle"]
        assert shown.nth(1).locator("img").get_attribute("alt") == "a picture drawn by the model"
        assert page.evaluate("document.querySelector('.drawn img').naturalWidth") == 32
        source = page.locator(".drawn img").get_attribute("src")
        page.reload()
        page.wait_for_selector(".drawn img")
        assert page.locator(".drawn img").get_attribute("src") == source
        with page.expect_request("**/v1/chat/completions") as asked:
            page.fill("#message", "and now?")
            page.press("#message", "Enter")
        parts = asked.value.post_data_json["messages"][1]["content"]
        assert [part.get("text") or part["image_url"]["url"] for part in parts] == ["a red ", source, " circle"]
        page.wait_for_selector(".message.assistant:last-child .facts")
        page.locator(".message.assistant .token").last.click()  # after the picture ...
        page.locator("button.alternative:not(:disabled)").first.click()  # ... another word: the picture stays
        page.wait_for_selector(SEND)
        assert page.locator(".message.assistant").last.locator(".drawn img").get_attribute("src") == source
        assert page.locator(".message .error").count() == 0
        page.click(".menu summary")
        with page.expect_download() as saved:
            page.locator(".menu-items button").first.click()
        assert f"![picture]({source})" in saved.value.path().read_text("utf-8")
    finally:
        served.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_problem(visit, small, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = visit(small.address, color_scheme=scheme)
    page.evaluate("""localStorage["malmoi.preferences"] = JSON.stringify(
        {heat: true, settings: {max_completion_tokens: 12, temperature: 0.9}})""")
    page.reload()
    page.wait_for_selector(".welcome")
    check(axe, page, "welcome")
    say(page, "hi")
    page.click('[aria-label="Open the words of this answer"]')
    page.click(".layers button")
    page.wait_for_selector(".lens")
    check(axe, page, "word")
    page.click(".settings-button")
    page.wait_for_selector(".preview .stage")
    check(axe, page, "settings")
    page.goto(small.address + "/#/parameters")
    page.wait_for_selector(".parameters .chart")
    check(axe, page, "parameters")


def check(axe, page, state):
    found = axe.Axe().run(page).response["violations"]
    serious = [
        (problem["id"], problem["nodes"][0]["html"][:120], problem["nodes"][0]["failureSummary"][:300])
        for problem in found
        if problem["impact"] in ("serious", "critical")
    ]
    assert not serious, (state, serious)
