"""The page as a person meets it: opened from disk in a browser, read, filtered, played, with the keys alone."""

from __future__ import annotations

import io
import shutil

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.media.preview import Previewer
from pipeline.report.facts import read_facts
from pipeline.report.previews import choose, make_previews
from pipeline.report.render import write_report
from pipeline.tables.store import Store
from tests.browser import chromium, visit
from tests.pipeline.report.lake import make_lake

__all__ = ["chromium"]

TAGS = "</script><script>window.hit=1</script><!--<img src=x onerror=window.hit=1>\"' &amp; {{7*7}}"
TURNED = "\u202e gnp.elif \u2066 \u0643\u0644\u0628"
LONG = "W" * 4_000
NAME = "/lake/<img src=x onerror=window.hit=1>\"'\u202e.mp4"
LABEL = "dog</script><b>"
CLIPS_A_VIDEO, N_VIDEOS = 5, 8
READY = "html[data-ready=all]"


def grey_level(second: int) -> int:
    return 20 + 10 * second


def film(path):
    """Twenty seconds, each of its own grey: what is seen tells when it is."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for k in range(200):
            picture = np.full((120, 160, 3), grey_level(k // 10), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a small lake: one video that is there, texts that mean harm, a failure."""
    folder = tmp_path_factory.mktemp("report")
    store = Store(str(folder / "out"))
    source = film(folder / "film.mp4")
    label = {"label": LABEL, "score": 0.9, "space": "objects", "modality": "video"}
    texts = {
        10: {"caption": TAGS, "top_label": LABEL, "labels": [label]},
        11: {"caption": TURNED, "top_label": TURNED},
        12: {"caption": LONG, "top_label": LONG},
        20: {"words": [{"word": "ah", "start_s": 1.0, "end_s": 1.5, "score": 0.9}], "transcript": "ah"},
        13: {"caption": None, "caption_problem": TAGS},
    }
    failures = {"not_media": f"/bad/x.mp4: {TAGS}", "from_the_future": LONG}
    uris = {0: str(source), 2: NAME}
    make_lake(store, N_VIDEOS, CLIPS_A_VIDEO, uris=uris, texts=texts, failures=failures)
    facts = read_facts(store.root)
    with Previewer() as previewer:
        previews = make_previews(store, choose(facts.clips, 1_000), previewer)
    write_report(store, facts, previews, [previews.says])
    return folder / "out" / "report" / "index.html"


@pytest.fixture
def seen(chromium, page):
    with visit(chromium, page.as_uri()) as seen:
        seen.page.wait_for_selector(READY, state="attached")
        yield seen
        assert (seen.errors, seen.off_machine()) == ([], [])


def found(seen) -> str:
    return seen.page.text_content("#found")


def of_video(seen, part: str) -> None:
    """Filter by a video's name, and wait for its clips."""
    seen.page.fill("#find-video", part)
    seen.until(f"document.querySelector('#found').textContent.startsWith('{CLIPS_A_VIDEO} of')")


def test_every_chart_is_drawn_and_has_its_numbers_as_text(seen):
    charts = seen.page.locator("[data-chart]")
    assert charts.count() >= 10
    for i in range(charts.count()):
        assert charts.nth(i).locator("svg path, svg rect").count() > 2
        assert charts.nth(i).get_attribute("role") == "graphics-document"
        assert len(charts.nth(i).get_attribute("aria-label")) > 20
    assert seen.page.locator("figure details table tbody tr").count() > 40
    ids = seen.page.locator("[id]").evaluate_all("(nodes) => nodes.map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_clips_are_counted_paged_and_filtered_by_caption_label_and_video(seen):
    n = CLIPS_A_VIDEO * N_VIDEOS
    assert found(seen) == f"{n} of {n} clips"
    seen.page.click("#next")
    assert seen.page.text_content("#page-number") == "page 2 of 3"
    of_video(seen, "film.mp4")
    seen.page.fill("#find-text", "no such words")
    seen.until("document.querySelector('#found').textContent.startsWith('0 of')")
    seen.page.click("text=Clear")
    seen.until(f"document.querySelector('#found').textContent.startsWith('{n} of')")
    seen.page.locator("#find-label option", has_text=LABEL).first.evaluate("o => o.selected = true")
    seen.page.dispatch_event("#find-label", "change")
    assert found(seen) == f"1 of {n} clips"


def test_clips_are_sorted_by_a_column_and_back_the_other_way(seen):
    def scores():
        cells = seen.page.locator("#clip-table .score").all_text_contents()
        return [float(cell) for cell in cells]

    seen.page.click("[data-sort=score] button")
    assert scores() == sorted(scores(), reverse=True)
    assert seen.page.get_attribute("[data-sort=score]", "aria-sort") == "descending"
    seen.page.click("[data-sort=score] button")
    assert scores() == sorted(scores())


def test_a_clip_plays_what_is_at_its_second(seen):
    of_video(seen, "film.mp4")
    seen.page.click("button[aria-label='Play clip: film.mp4, 0:08–0:12']")
    seen.until("document.querySelector('#clip video').readyState >= 2")
    seen.page.evaluate(
        """() => new Promise((done) => { const v = document.querySelector('#clip video');
            v.pause(); v.onseeked = done; v.currentTime = 2.5; })"""
    )
    seen.page.evaluate("() => { document.querySelector('#clip video').controls = false; }")
    shot = Image.open(io.BytesIO(seen.page.locator("#clip video").screenshot())).convert("L")
    assert np.median(np.asarray(shot)) == pytest.approx(grey_level(10), abs=4)
    seen.page.keyboard.press("Escape")
    assert seen.page.locator("#clip video").count() == 0


def test_a_still_shows_its_clip(seen, page):
    of_video(seen, "film.mp4")
    src = seen.page.get_attribute("button[aria-label*='film.mp4, 0:04–0:08'] img", "src")
    picture = Image.open(page.parent / src).convert("L")
    assert np.median(np.asarray(picture)) == pytest.approx(grey_level(6), abs=4)


def test_the_timeline_of_another_video_is_shown_when_it_is_chosen(seen):
    seen.page.fill("#video-find", "video_000004")
    seen.until("document.querySelector('#video-facts').textContent.includes('video_000004')")
    seen.until(
        "document.querySelector('#timeline-chart').getAttribute('aria-label').includes('video_000004')"
    )
    rows = seen.page.locator("#timeline-rows tr").all_text_contents()
    assert any("shots" in row for row in rows)
    assert any("sound" in row for row in rows)
    assert any(row.startswith("0:010:01.5speech") for row in rows)
    told = "document.querySelector('#level-chart').getAttribute('aria-label')"
    seen.until(f"{told}.includes('video_000004') && / loudest -1\\d dB at /.test({told})")


def test_texts_that_mean_harm_are_shown_as_text(seen):
    seen.page.click("#next")
    of_video(seen, "onerror")
    seen.screenshot("report_hostile", of="#clips")
    cells = seen.page.locator("#clip-table bdi").all_text_contents()
    for text in (TAGS, TURNED, LONG, LABEL, NAME.rsplit("/", 1)[-1]):
        assert text in cells
    for text in (TAGS, LONG):  # of failures, as the server-side template writes them
        assert any(text in shown for shown in seen.page.locator("#failures bdi").all_text_contents())
    assert seen.page.evaluate("() => window.hit") is None
    assert seen.page.locator("img[src=x], td b, td script").count() == 0


@pytest.mark.parametrize("width", [1280, 420])
def test_nothing_is_wider_than_the_window(chromium, page, width):
    with visit(chromium, page.as_uri(), size=(width, 800)) as seen:
        seen.page.wait_for_selector(READY, state="attached")
        of_video(seen, "onerror")
        seen.screenshot(f"report_{width}", full=False)
        assert seen.page.evaluate("() => document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_nothing_shuts_anybody_out(chromium, page, colours):
    with visit(chromium, page.as_uri(), colours=colours, reduced_motion="reduce") as seen:
        seen.page.wait_for_selector(READY, state="attached")
        seen.page.evaluate(
            "() => document.querySelectorAll('details').forEach((d) => { d.open = true; })"
        )
        assert seen.barriers() == []
        seen.screenshot(f"report_{colours}")
        seen.page.locator("#clip-table .open").first.click()
        assert seen.barriers() == []
        seen.screenshot(f"report_clip_{colours}", full=False)
        assert seen.errors == []


def test_colours_can_be_chosen_against_the_system_and_stay(seen):
    def paper():
        return seen.page.evaluate("() => getComputedStyle(document.body).backgroundColor")

    def drawn():
        return seen.page.locator("#scores-top svg path[fill]").evaluate_all(
            "(paths) => paths.map((p) => p.getAttribute('fill'))"
        )

    light, fills = paper(), drawn()
    seen.page.select_option("#theme", "dark")
    assert paper() != light
    seen.page.wait_for_selector(READY, state="attached")
    seen.page.wait_for_timeout(1_000)  # the charts are drawn anew, one after the other
    assert drawn() != fills
    seen.page.reload()
    seen.page.wait_for_selector(READY, state="attached")
    assert paper() != light


def test_the_keyboard_reaches_everything_and_plays_a_clip(seen):
    of_video(seen, "film.mp4")
    wanted = {"theme", "find-text", "find-label", "find-video", "find-preview", "video-find"}
    wanted |= {"video-choice", "Play clip: film.mp4, 0:00–0:04", "#overview", "#main", "SUMMARY"}
    reached = set()
    for _ in range(90):
        seen.page.keyboard.press("Tab")
        reached |= set(
            seen.page.evaluate(
                """() => { const e = document.activeElement;
                return [e.id, e.getAttribute('aria-label'), e.getAttribute('href'), e.tagName]; }"""
            )
        )
    assert wanted <= reached
    seen.page.focus("button[aria-label='Play clip: film.mp4, 0:00–0:04']")
    seen.page.keyboard.press("Enter")
    seen.until("document.querySelector('#clip video').currentTime > 0.2")
    seen.page.keyboard.press("Escape")
    assert seen.page.evaluate("() => document.querySelector('#clip').open") is False
    focused = seen.page.evaluate("() => document.activeElement.getAttribute('aria-label')")
    assert focused == "Play clip: film.mp4, 0:00–0:04"


def test_a_missing_data_file_is_told_on_the_page(chromium, page, tmp_path):
    copy = shutil.copytree(page.parent, tmp_path / "report")
    next((copy / "data").glob("clips-*.js")).unlink()
    with visit(chromium, (copy / "index.html").as_uri()) as seen:
        seen.until("document.querySelector('#found').textContent.includes('not whole')")
