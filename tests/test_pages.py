"""What the pages say, against what says it too: schema, remedies, model card, real files, each other."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config import load_config
from pipeline.records import Unit
from pipeline.remedies import REMEDIES
from pipeline.tables.schema import FACT_NAMES, FAILURES, SEGMENTS, UNITS, VIDEOS, clips_schema
from pipeline.understand import decode, media_facts
from tests.pages import PAGES, ROOT, anchors, section, table_rows

TABLES = {"clips": clips_schema(), "segments": SEGMENTS, "videos": VIDEOS, "failures": FAILURES}


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def told(kind: pa.DataType) -> str:
    """A type as the page calls it."""
    if pa.types.is_fixed_size_list(kind):
        return f"{told(kind.value_type)}[{kind.list_size}]"
    if pa.types.is_list(kind):
        return f"list<{told(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return "struct"
    return {"double": "float64", "float": "float32"}.get(str(kind), str(kind))


def columns(schema: pa.Schema) -> list[tuple[str, str]]:
    """Names and types, with the fields of lists of structs behind their column."""
    found = []
    for field in schema:
        found.append((f"`{field.name}`", told(field.type)))
        if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
            fields = field.type.value_type
            found += [(f"`{field.name}[].{inner.name}`", told(inner.type)) for inner in fields]
    return found


@pytest.mark.parametrize("table", TABLES)
def test_the_page_of_columns_is_the_schema(table):
    rows = table_rows(section(page("docs/tables.md"), f"### {table}"), "column")
    assert [(name, kind) for name, kind, _, _ in rows] == columns(TABLES[table])
    assert all(null for _, _, _, null in rows)


def test_the_page_has_what_units_hold_beside_the_other_tables():
    text = section(page("docs/tables.md"), "### The job's own")
    named = {row[0].strip("`") for row in table_rows(text, "column")}
    elsewhere = {*VIDEOS.names, *FAILURES.names, *FACT_NAMES}
    assert named == set(UNITS.names) - elsewhere


def test_every_failure_code_has_its_section_with_its_remedy():
    text = page("docs/errors.md")
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) == set(REMEDIES)
    for code, remedy in REMEDIES.items():
        words = " ".join(re.sub(r"[`*]", "", section(text, f"### {code}")).split())
        for sentence in remedy.rstrip(".").split(". "):
            assert sentence in words, f"docs/errors.md, {code}: {sentence!r} is not there"


def test_the_summary_of_failure_codes_links_every_section():
    linked = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\)", page("docs/errors.md"), re.MULTILINE)
    assert sorted(linked) == sorted((code, code) for code in REMEDIES)


def test_every_figure_of_the_limits_stands_in_the_model_card():
    card = table_rows(page("docs/models/embedded.md"), "measured")
    found = table_rows(page("docs/limits.md"), "measured")
    assert len(found) > 10
    missing = [row for row in found if row not in card]
    assert not missing


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name):
    text = re.sub(r"^```.*?^```", "", page(name), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+://", link):
            continue
        target, _, anchor = link.partition("#")
        file = (ROOT / name).parent / target if target else ROOT / name
        assert file.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name}: {link}"


def decoded(file: Path):
    assert file.is_file()
    return decode(Unit("u", "v", str(file), "1", 0.0, 60.0), load_config(), 16_000)


def test_the_table_of_real_files_is_what_they_say(shared_media):
    rows = table_rows(page("docs/sync.md"), "file")
    assert len(rows) == 4
    for name, origin_s, video_s, audio_s, skew_ms, gap_s in rows:
        found = decoded(shared_media / "vectors" / name.strip("`"))
        facts = media_facts(found.info, found.sync)
        assert float(found.info.origin_s) == pytest.approx(float(origin_s), abs=5e-5)
        assert facts["video_start_s"] == pytest.approx(float(video_s), abs=5e-5)
        assert facts["audio_start_s"] == pytest.approx(float(audio_s), abs=5e-5)
        assert facts["av_skew_ms"] == pytest.approx(float(skew_ms), abs=0.05)
        assert facts["gap_s"] == pytest.approx(float(gap_s), abs=5e-5)


def test_the_drawn_timeline_is_the_files(shared_media):
    """Every number of the drawing, and every mark at its place: nine columns a second."""
    drawing = re.search(r"```text\n(.*?)```", page("docs/sync.md"), re.DOTALL).group(1).splitlines()
    lines = {line[:20].strip(): line for line in drawing if line[:20].strip()}
    found = decoded(shared_media / "vectors" / "x_mp4_edit_list_positive_shift.mp4")
    batch = found.batch

    def marked(name: str, mark: str) -> list[float]:
        return [(i - 20) / 9 for i, sign in enumerate(lines[name]) if sign == mark]

    shown = sorted(t for row in batch.frame_time_s.tolist() for t in row if t == t)
    assert marked("pictures used", "▴") == pytest.approx(shown, abs=1 / 9)
    asked = [0.25 + 0.5 * i for i in range(len(marked("instants asked for", "·")))]
    assert marked("instants asked for", "·") == pytest.approx(asked, abs=1 / 18 + 1e-6)
    assert asked[-1] < found.info.duration_s <= asked[-1] + 0.5
    assert marked("clips", "│")[:3] == batch.start_s.tolist()
    assert marked("picture", "┣") == [found.sync.video_start_s]
    numbers = {name: re.findall(r"-?\d+(?:\.\d+)?", line[20:]) for name, line in lines.items()}
    assert numbers["start_pts"] == [str(pts) for pts in batch.start_pts]
    assert numbers["n_frames"] == [str(n) for n in batch.frame_valid.sum(1)]
    assert numbers["av_skew_ms"] == [f"{skew:g}" for skew in batch.av_skew_ms]
    assert float(numbers["is_padded"][0]) == pytest.approx(batch.end_s[-1], abs=5e-4)
    assert batch.is_padded.tolist() == [False, False, True]
