"""Text that a spreadsheet would calculate, or not."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pyarrow as pa
import pytest

from pipeline.browse.export import csv_lines, safe_text
from pipeline.browse.snapshot import Snapshot


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "  @x", "＝1+1", "\u00a0=1"]
)
def test_what_would_be_calculated_gets_an_apostrophe(text):
    assert safe_text(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a dog", "1 - 1", "a=b", "'=1", "dog@home"])
def test_all_other_text_stays_as_it_is(text):
    assert safe_text(text) == text


def test_a_cell_holds_quotes_commas_and_lines(lake):
    snapshot = Snapshot.read(lake.out)
    text = "".join(csv_lines(snapshot, list(range(len(snapshot.clips)))))
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    assert [row["clip_id"] for row in rows] == snapshot.clips["clip_id"].to_pylist()
    assert rows[0]["start_s"] == "0.0"


def test_numbers_have_the_digits_that_they_have(lake):
    snapshot = Snapshot.read(lake.out)
    single = pa.array([0.95, None] + [1 / 3] * (len(snapshot.clips) - 2), pa.float32())
    place = snapshot.clips.schema.get_field_index("top_score")
    changed = replace(snapshot, clips=snapshot.clips.set_column(place, "top_score", single))
    rows = list(csv.DictReader("".join(csv_lines(changed, [0, 1, 2])).splitlines()))
    assert [row["top_score"] for row in rows] == ["0.95", "", "0.3333333"]
