"""The report of a law: its numbers are the law's, far answers are marked, and doubts are said."""

import json

import numpy as np
import pytest

from malmoi.plan import scaling_report as report
from malmoi.plan.scaling import Point, ScalingLaw, fit

TRUTH = ScalingLaw(0.9, 30.0, 60.0, 0.35, 0.33)


def law_of(truth=TRUTH, noise=0.002):
    draw = np.random.default_rng(0)
    return fit(
        [
            Point(n, d, truth.loss(n, d) * (1 + noise * draw.standard_normal()))
            for n in np.geomspace(5e4, 1e6, 4)
            for d in np.geomspace(1e5, 2e6, 4)
        ],
        bootstraps=40,
    )


def facts(law, **options):
    return report.facts(law, unit="bits per byte", flops_per_second=1e10, **options)


def test_the_numbers_are_the_laws_and_survive_json():
    law = law_of()
    found = json.loads(json.dumps(facts(law, own=(1e6, 3e6))))
    twice = found["changes"][0]
    assert twice["gain"]["value"] == pytest.approx(law.loss(1e6, 2e6) - law.loss(1e6, 4e6))
    assert twice["gain"]["low"] <= twice["gain"]["value"] <= twice["gain"]["high"]
    hour = found["optimal"][0]
    assert hour["flops"] == 3.6e13
    assert hour["parameters"]["value"] == pytest.approx(law.optimal(3.6e13).parameters)
    assert found["own"]["loss"]["value"] == pytest.approx(law.loss(1e6, 3e6))
    assert found["foretold"]["measured"] == found["largest"]["loss"]


def test_far_answers_are_marked_and_too_far_ones_left_out():
    found = facts(law_of(), flops=[1e12, 6e13, 1e18])
    table = report.rows(found)["The best split of a budget"][1]
    assert [("*" in row[-1]) for row in table] == [each["beyond"] > report.FAR for each in found["optimal"]]
    assert "1e+18 FLOPs" in found["too_far"]
    assert any("Too far to say anything about: 1e+18 FLOPs" in remark for remark in found["remarks"])


def test_a_law_without_a_floor_and_repeated_text_are_said():
    found = facts(law_of(ScalingLaw(0.0, 8.0, 100.0, 0.12, 0.4), noise=0.0), unique_tokens=100_000, missing=2)
    said = " ".join(found["remarks"])
    for words in ("E came out as 0", "20.0 times", "gather text", "2 planned runs are not finished"):
        assert words in said
    assert report.rows(found)["The law"][1][0] == ("E", "0", "no floor seen")


def test_runs_that_lie_on_no_law_are_said():
    found = facts(law_of(noise=0.1))
    assert any("do not lie on one law" in remark for remark in found["remarks"])


def test_the_page_and_the_picture(tmp_path):
    law = law_of()
    found = facts(law, own=(1e6, 3e6))
    page = report.markdown(found, "mine", "malmoi scale mine.yaml --budget 1min", True)
    for words in (
        "# Scaling: mine",
        "twice the tokens",
        "The recipe's own run (1,000,000",
        "scale.png",
        "--budget 1min",
    ):
        assert words in page
    pytest.importorskip("matplotlib")
    assert report.draw(law, "bits per byte", tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
