"""The page's files: served under a policy that lets nothing else in, and true to it themselves."""

import re

import pytest

from malmoi.serve.page import FOLDER, POLICY, read_files

FILES = read_files()
MODULES = sorted(name for name in FILES if name.endswith(".js"))


def test_the_page_is_served_under_its_policy(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', answer.text):
        assert client.get(path).status_code == 200


def test_a_file_is_asked_for_by_its_hash(client):
    first = client.get("/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/page/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert not again.content
    assert client.get("/page/main.js", headers={"If-None-Match": '"other"'}).content == first.content
    assert client.head("/page/style.css").status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "../page.py", "..%2Fpage.py", "%2e%2e/app.py"])
def test_only_the_pages_files_are_served(client, name):
    assert client.get(f"/page/{name}").status_code == 404


def test_every_file_of_the_folder_is_served():
    assert set(FILES) == {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_keeps_to_the_house(name):
    """It imports only neighbours that exist, makes no HTML of text, calls nobody, and stays readable."""
    source = FILES[name].content.decode()
    assert source.startswith("// "), "a module begins with a sentence that teaches its idea"
    assert len(source.splitlines()) <= 450
    for target in re.findall(r'^import .*? from "([^"]+)"', source, re.M):
        assert target.startswith("./")
        assert target[2:] in FILES
    for banned in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert banned not in source
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)\w", source)


def test_both_languages_say_the_same_things():
    source = FILES["i18n.js"].content.decode()
    english, korean = source.split("\n  ko: {")
    keys = [set(re.findall(r'(?:^ {4}|", |\], )(?:"([\w.]+)"|(\w+)): ["\[]', part, re.M)) for part in (english, korean)]
    assert len(keys[0]) > 100
    assert keys[0] == keys[1]
    used = {key for name in MODULES for key in re.findall(r'\bt\("([\w.]+)"', FILES[name].content.decode())}
    known = {quoted or plain for quoted, plain in keys[0]}
    assert used <= known, used - known
