"""The pictures of the page in README and docs/page.md, made by the page itself in a real browser.

    malmoi serve runs/quickstart &
    python docs/images/make.py http://127.0.0.1:8000

It talks to the served model, opens a word, moves a slider, looks into the layers, and writes docs/images/*.png. Needs
playwright and Debian's chromium; `--out` writes elsewhere, `--only NAME` makes one picture.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 760}
ENGLISH = ("Hello. Who are you?", "What happened in the village?")
KOREAN = ("안녕하세요?", "마을에 무슨 일이 있었어요?")
LARGEST = 200_000  # bytes


def say(page: Page, *texts: str) -> None:
    for text in texts:
        page.fill("#message", text)
        page.press("#message", "Enter")
        page.wait_for_selector(".send:not(.stop)", timeout=120_000)


def word(page: Page) -> None:
    """Open a token that surprised the model a little, the newest if there are several, or any where none did."""
    tokens = page.locator(".message.assistant .token")
    surprising = page.locator(".message.assistant").locator(".token.heat-2, .token.heat-1")
    (surprising if surprising.count() else tokens).last.click()
    page.wait_for_selector(".panel .stage")


def prefer(page: Page, preferences: dict) -> None:
    page.evaluate("chosen => localStorage.setItem('malmoi.preferences', JSON.stringify(chosen))", preferences)
    page.reload()
    page.wait_for_selector(".title:not(:empty)")


def chat(page: Page) -> None:
    prefer(page, {"settings": {"temperature": 0.6}})
    say(page, *ENGLISH)


def heat(page: Page) -> None:
    prefer(page, {"heat": True, "settings": {"temperature": 0.6}})
    say(page, *KOREAN)


def open_word(page: Page) -> None:
    prefer(page, {"heat": True, "settings": {"temperature": 0.7, "top_k": 4, "top_p": 0.9}})
    say(page, *ENGLISH)
    word(page)


def layers(page: Page) -> None:
    prefer(page, {"settings": {"temperature": 0.6}})
    say(page, *KOREAN)
    word(page)
    page.click(".layers .small")
    page.wait_for_selector(".lens", timeout=120_000)
    page.locator(".layers").evaluate("view => view.closest('section').scrollIntoView()")


def settings(page: Page) -> None:
    say(page, ENGLISH[1])
    page.click(".settings-button")
    page.wait_for_selector(".preview .stage")
    page.locator("#setting-temperature").fill("1.6")
    page.locator("#setting-top_k").fill("6")
    page.wait_for_selector(".preview .stage:nth-child(3)")


def side_by_side(page: Page) -> None:
    prefer(page, {"settings": {"n": 3, "temperature": 0.6}})
    say(page, ENGLISH[1])


def parameters(page: Page) -> None:
    page.goto(page.url.split("#")[0] + "#/parameters")
    page.wait_for_selector(".parameters .chart")


PICTURES = {
    "chat": (chat, DESKTOP, "en", "light"),
    "word": (open_word, DESKTOP, "en", "light"),
    "layers": (layers, DESKTOP, "ko", "dark"),
    "settings": (settings, DESKTOP, "en", "dark"),
    "side-by-side": (side_by_side, DESKTOP, "en", "light"),
    "parameters": (parameters, DESKTOP, "ko", "light"),
    "phone": (heat, PHONE, "ko", "dark"),
    "phone-word": (open_word, PHONE, "en", "light"),
    "welcome": (lambda page: page.wait_for_selector(".welcome"), DESKTOP, "ko", "light"),
}


def save(picture: bytes, path: Path) -> None:
    """As a PNG that is as small as it goes."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.save(path, optimize=True)
    assert path.stat().st_size <= LARGEST, f"{path} is too large: {path.stat().st_size:,} bytes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", choices=PICTURES, nargs="*", default=list(PICTURES))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name in asked.only:
            act, size, language, scheme = PICTURES[name]
            locale = {"en": "en-GB", "ko": "ko-KR"}[language]
            context = browser.new_context(viewport=size, locale=locale, color_scheme=scheme, reduced_motion="reduce")
            page = context.new_page()
            page.on("console", lambda message: print(f"  console: {message.text}"))
            page.on("pageerror", lambda error: print(f"  error: {error}"))
            page.goto(asked.address)
            page.wait_for_selector("#message")
            act(page)
            page.wait_for_timeout(300)
            save(page.screenshot(), asked.out / f"{name}.png")
            print(name)
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
