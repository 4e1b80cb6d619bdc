"""The model card: every figure with its interval, nothing left out, the same text each time."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import ConfigError
from pipeline.evaluation.card import render, write
from pipeline.evaluation.config import Source
from pipeline.evaluation.records import (
    Figure,
    Measured,
    Outcome,
    Report,
    Table,
    confusion_plot,
    precision_recall_plot,
    reliability_plot,
    share,
)

SCORES, RIGHT = np.array([0.9, 0.8, 0.3, 0.6]), np.array([True, True, False, False])
FOUND = Measured(
    how="Two of four.",
    figures=(
        share("right", "sounds: right", RIGHT),
        Figure(key="gain", told="both less one", value=-0.021, unit="points", low=-0.05, high=0.01),
        Figure(key="ms", told="a clip", value=2.44, unit="ms"),
    ),
    tables=(Table(title="Some", columns=("a", "b"), rows=(("x | y", "z"),)),),
    plots=(
        reliability_plot("reliability", "Sounds", SCORES, RIGHT),
        confusion_plot("confusion", "Sounds", ["cat", "dog"], np.array([0, 1]), np.array([0, 0])),
        precision_recall_plot("pr", "Sounds", {"dog": (SCORES, RIGHT)}),
    ),
)
REPORT = Report(
    bundle="b",
    bundle_digest="d",
    outcomes=(
        Outcome(name="sounds", kind="k", state="measured", measured=FOUND),
        Outcome(name="videos", kind="k", state="not measured", why="../shared/data/x is absent"),
        Outcome(name="broken", kind="k", state="failed", why="ValueError: no"),
    ),
)
SOURCES = {"esc10": Source(files=("data/esc10",), what="sounds", licence="CC BY 3.0", source="ESC")}
TEMPLATE = """# Card

{{sounds.right}} ({{sounds.right.interval}}, n {{sounds.right.n}})

<!-- measured: sounds -->

<!-- sources -->
"""


def test_figures_stand_in_the_text_with_unit_interval_and_n():
    text = render(TEMPLATE, REPORT, SOURCES, "card")
    assert "50.0 % (15.0 to 85.0, n 4)" in text
    assert "| sounds: right | 50.0 % | 15.0 to 85.0 | 4 |" in text
    assert "| both less one | -2.1 points | -5.0 to +1.0 |  |" in text
    assert "| a clip | 2.4 ms |  |  |" in text
    assert "| x \\| y | z |" in text
    assert "![Sounds, n = 4](card/sounds-reliability.png)" in text
    assert "| esc10 | sounds | CC BY 3.0 | ESC |" in text


def test_what_was_not_measured_is_told_though_the_template_forgot_it():
    text = render(TEMPLATE, REPORT, SOURCES, "card")
    assert "## videos\n\n**Not measured**: ../shared/data/x is absent." in text
    assert "**Failed**: ValueError: no." in text
    assert "(not measured)" in render("{{videos.right}}", REPORT, SOURCES, "card")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("<!-- measured: sound -->", "names 'sound'; expected some of sounds"),
        ("{{sound.right}}", "names 'sound'"),
        ("{{sounds.wrong}}", "names sounds.wrong; expected some of right"),
    ],
)
def test_a_name_that_is_not_there_is_an_error(template, said):
    with pytest.raises(ConfigError, match=said):
        render(template, REPORT, SOURCES, "card")


def test_a_card_written_twice_is_the_same_to_the_byte(tmp_path):
    first = write(TEMPLATE, REPORT, SOURCES, tmp_path / "a", "card")
    second = write(TEMPLATE, REPORT, SOURCES, tmp_path / "b", "card")
    assert [f.name for f in first] == [
        "sounds-reliability.png",
        "sounds-confusion.png",
        "sounds-pr.png",
        "card.json",
        "card.md",
    ]
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]
    kept = Report.model_validate_json((tmp_path / "a" / "card.json").read_text())
    assert kept == REPORT
    assert render(TEMPLATE, kept, SOURCES, "card") == (tmp_path / "a" / "card.md").read_text()
