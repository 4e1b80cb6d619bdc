"""The page as a person meets it: the real command, a real browser."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest

from pipeline.browse.app import MOST_TICKED
from tests.browser import chromium, visit
from tests.pipeline.browse.lake import MANY, N_VIDEOS, clip_id_of

__all__ = ["chromium"]
ROOT = Path(__file__).resolve().parents[3]
LOOKS = ["light", "dark"]


@pytest.fixture(scope="module")
def url(lake, chromium):  # noqa: ARG001 - without a browser nothing is started
    """The page of `reeltable browse`, which is stopped as a person stops it."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jobs", "browse", lake.out, "--json", "--no-open"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@contextmanager
def looking(chromium, url, **how):
    """A visit in which nothing goes wrong and nobody else is called."""
    with visit(chromium, url, **how) as seen:
        dialogs = []
        seen.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        yield seen
        assert seen.errors == []
        assert seen.off_machine() == []
        assert dialogs == []


def follow(page, link):
    """Click a way to another page, and be there: a click alone may return before the page stands."""
    with page.expect_navigation():
        link.click()


def captions(page):
    return page.locator("main .caption").all_inner_texts()


def wait_until_playing(seen, article):
    """The clip's own player, when time has passed in it."""
    article.locator("video").wait_for(timeout=60_000)
    handle = article.locator("video").element_handle()
    seen.until("v.currentTime > Number(v.dataset.start) + 0.2", handle, timeout_s=60)
    return handle


def test_filters_are_typed_and_stand_in_the_address(chromium, url):
    with looking(chromium, url) as seen:
        seen.page.get_by_label("Label", exact=True).fill("dog")
        seen.page.get_by_label("Score at least").fill("0.5")
        follow(seen.page, seen.page.get_by_role("button", name="Filter"))
        assert captions(seen.page) == ["A DOG runs; 100% sure.", "A dog on a lawn."]
        assert parse_qs(urlsplit(seen.page.url).query) == {"label": ["dog"], "min_score": ["0.5"]}
        follow(seen.page, seen.page.get_by_role("link", name="By time"))
        assert captions(seen.page)[0] == "A dog on a lawn."
        follow(seen.page, seen.page.get_by_role("link", name="Clear"))
        assert (
            seen.page.get_by_role("status").filter(has_text=f"clips of {N_VIDEOS} videos").count() == 1
        )


def test_a_chip_a_name_and_pages_are_ways_through_the_table(chromium, url):
    with looking(chromium, f"{url}?label=bird") as seen:
        assert len(captions(seen.page)) == 24
        follow(seen.page, seen.page.get_by_role("link", name="Next"))
        assert len(captions(seen.page)) == MANY - 24
        seen.page.go_back()
        follow(seen.page, seen.page.get_by_role("link", name="Only gone.mp4").first)
        assert "video=" in seen.page.url
        seen.page.goto(url)
        follow(seen.page, seen.page.get_by_role("link", name="Bark 0.70"))
        assert captions(seen.page) == ["A dog on a lawn."]


def test_a_clip_plays_from_its_second_to_its_end(chromium, url, lake):
    with looking(chromium, f"{url}?label=dog&min_score=0.9") as seen:
        seen.page.evaluate("""() => {
            window.times = [];
            const note = (e) => window.times.push(e.target.currentTime);
            document.addEventListener("timeupdate", note, true);
        }""")
        article = seen.page.locator("article").first
        article.get_by_role("button", name="Play plain.mp4, 0:04–0:08").click()
        player = wait_until_playing(seen, article)
        assert player.get_attribute("src") == f"/videos/{lake.ids['plain']}/original"
        seen.screenshot("browse_playing")
        seen.until("v.paused && !v.seeking && window.times.at(-1) >= 8", player)
        times = seen.page.evaluate("window.times")
        inside = [s for s in times if s < 8.0]
        assert inside == sorted(inside)
        assert 4.0 <= inside[0] < inside[-1] < times[-1] == 8.0
        assert max(times) < 8.3  # a busy machine draws late, and the element ticks each 0.25 s
        seen.page.evaluate("window.times = []")
        player.evaluate("v => v.play()")  # once more, from its own start
        seen.until("window.times.some((s) => s < 7.5)")
        assert min(seen.page.evaluate("window.times")) >= 4.0


def grey_at(seen, player, second):
    """How bright the player's picture is there, 0 to 255: it flashes at whole seconds."""
    player.evaluate("(v, s) => { v.pause(); v.currentTime = s }", second)
    seen.until(f"!v.seeking && Math.abs(v.currentTime - {second}) < 0.001", player)
    return player.evaluate("""v => {
        const canvas = Object.assign(document.createElement("canvas"), {width: 8, height: 8});
        const pen = canvas.getContext("2d");
        pen.drawImage(v, 0, 0, 8, 8);
        return pen.getImageData(4, 4, 1, 1).data[1];
    }""")


@pytest.mark.parametrize(("name", "source_s"), [("plain.mp4", 0), ("film.mkv", 4)])
def test_what_is_seen_is_what_the_clip_shows_at_its_second(chromium, url, name, source_s):
    with looking(chromium, f"{url}?video={name}&start_from=4&start_to=5") as seen:
        article = seen.page.locator("article").first
        article.locator("button.play").click()
        player = wait_until_playing(seen, article)
        assert grey_at(seen, player, 5.02 - source_s) > 200
        assert grey_at(seen, player, 5.5 - source_s) < 60
        assert grey_at(seen, player, 7.02 - source_s) > 200


def test_sound_alone_is_heard(chromium, url):
    with looking(chromium, f"{url}?label=rain") as seen:
        article = seen.page.locator("article").first
        article.get_by_role("button", name="Play sound.m4a, 0:00–0:04, sound only").click()
        player = wait_until_playing(seen, article)
        assert player.get_attribute("src").endswith("/original")


def test_as_many_ticks_as_may_be_fit_into_an_address(chromium, url, lake):
    ids = [clip_id_of(lake.ids["gone"], i) for i in range(MOST_TICKED)]
    with looking(chromium, f"{url}?label=dog&ticked={','.join(ids)}") as seen:
        assert seen.page.get_by_text(f"{MOST_TICKED} ticked").is_visible()
        seen.page.locator(".tick input").first.click()
        assert seen.page.get_by_text(f"No more than {MOST_TICKED} clips can be ticked").is_visible()
        assert not seen.page.locator(".tick input").first.is_checked()
        follow(seen.page, seen.page.get_by_role("link", name="By time"))
        assert seen.page.get_by_text(f"{MOST_TICKED} ticked").is_visible()
        assert seen.page.evaluate("document.documentElement.outerHTML.length") < 300_000


@pytest.mark.parametrize("name", ["film.mkv", "new.mp4"])
def test_what_browsers_do_not_play_is_shown_as_a_preview(chromium, url, name):
    with looking(chromium, f"{url}?video={name}") as seen:
        article = seen.page.locator("article").first
        article.locator("button.play").click()
        player = wait_until_playing(seen, article)
        assert player.get_attribute("src").endswith("/excerpt.mp4")
        assert player.evaluate("v => v.duration") == pytest.approx(4.0, abs=0.2)
        assert article.locator(".problem").inner_text() == ""


def test_a_source_that_fails_in_the_browser_is_followed_by_its_preview(chromium, url):
    with visit(chromium, f"{url}?label=dog&min_score=0.9") as seen:
        seen.page.route("**/original", lambda route: route.fulfill(status=200, body="no film"))
        article = seen.page.locator("article").first
        article.locator("button.play").click()
        player = wait_until_playing(seen, article)
        assert player.get_attribute("src").endswith("/excerpt.mp4")


def test_why_a_clip_cannot_be_played_stands_on_it(chromium, url):
    with looking(chromium, f"{url}?label=bird") as seen:
        article = seen.page.locator("article").first
        article.locator("button.play").click()
        problem = article.get_by_text("Cannot be played: the file is not there any more")
        problem.wait_for()
        assert article.locator("button.play").is_visible()


def test_similar_clips_play_beside_the_chosen_one(chromium, url, lake):
    with looking(chromium, f"{url}?label=dog") as seen:
        follow(seen.page, seen.page.get_by_role("link", name="Similar to plain.mp4, 0:00–0:04"))
        assert captions(seen.page)[:2] == ["A DOG runs; 100% sure.", "A cat asleep."]
        assert f"like={clip_id_of(lake.ids['plain'], 0)}" in seen.page.url
        chosen, nearest = seen.page.locator(".chosen article"), seen.page.locator("main article").first
        left, right = chosen.bounding_box(), nearest.bounding_box()
        assert left["x"] + left["width"] <= right["x"]
        chosen.locator("button.play").click()
        first = wait_until_playing(seen, chosen)
        nearest.locator("button.play").click()
        second = wait_until_playing(seen, nearest)
        assert 0 <= first.evaluate("v => v.currentTime") <= 4
        assert 4 <= second.evaluate("v => v.currentTime") <= 8
        seen.screenshot("browse_similar")
        follow(seen.page, seen.page.get_by_role("link", name="Other videos only"))
        assert captions(seen.page)[0] == "A cat asleep."
        follow(seen.page, seen.page.get_by_role("link", name="Back to the clips"))
        assert len(captions(seen.page)) == 3


def downloaded(page, link):
    with page.expect_download() as download:
        link.click()
    return download.value.path()


def test_the_selection_is_taken_along(chromium, url, lake):
    with looking(chromium, f"{url}?label=dog") as seen:
        file = downloaded(seen.page, seen.page.get_by_role("link", name="CSV of all 3"))
        with open(file, encoding="utf-8-sig", newline="") as lines:
            rows = [(row["video_id"], row["clip_index"]) for row in csv.DictReader(lines)]
        plain = lake.ids["plain"]
        assert rows == [(plain, "1"), (plain, "0"), (lake.ids["hostile"], "0")]
        file = downloaded(seen.page, seen.page.get_by_role("link", name="Parquet of all 3"))
        assert pq.read_table(file).num_rows == 3


def test_ticks_last_through_pages_and_are_taken_along(chromium, url, lake):
    gone = lake.ids["gone"]
    with looking(chromium, f"{url}?label=bird") as seen:
        seen.page.get_by_label("Tick gone.mp4, 0:12–0:16").check()
        follow(seen.page, seen.page.get_by_role("link", name="Next"))
        seen.page.get_by_label("Tick gone.mp4, 1:44–1:48").check()
        assert seen.page.get_by_text("2 ticked").is_visible()
        seen.page.get_by_label("Label", exact=True).fill("cat")
        follow(seen.page, seen.page.get_by_role("button", name="Filter"))
        assert captions(seen.page) == ["A cat asleep.", "A cat awake."]
        file = downloaded(seen.page, seen.page.get_by_role("link", name="Parquet of ticked"))
        assert pq.read_table(file)["clip_id"].to_pylist() == [clip_id_of(gone, 3), clip_id_of(gone, 26)]
        address = seen.page.url
        seen.page.goto("about:blank")
        seen.page.goto(address)  # as somebody to whom it was sent
        assert seen.page.get_by_text("2 ticked").is_visible()
        follow(seen.page, seen.page.get_by_role("link", name="Untick all"))
        assert seen.page.get_by_text("ticked", exact=False).first.is_hidden()
        assert "ticked" not in seen.page.url


def test_the_keyboard_reaches_everything_and_plays(chromium, url):
    with looking(chromium, f"{url}?label=dog") as seen:
        page = seen.page
        page.evaluate("""() => {
            window.reached = new Set();
            document.addEventListener("focusin", (e) => window.reached.add(e.target));
        }""")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        for _ in range(120):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement === document.body"):
                break
        missed = page.evaluate("""() =>
            [...document.querySelectorAll("a[href], button, input, select, summary")]
            .filter((e) => e.checkVisibility() && e.type !== "hidden" && !window.reached.has(e))
            .map((e) => e.outerHTML)""")
        assert missed == []
        page.locator("button.play").first.focus()
        page.keyboard.press("Enter")
        player = wait_until_playing(seen, page.locator("article").first)
        assert player.evaluate("v => document.activeElement === v")
        page.keyboard.press("Space")
        seen.until("v.paused", player)


@pytest.mark.parametrize("width_px", [1280, 360])
def test_hostile_and_endless_text_is_clipped_and_does_nothing(chromium, url, lake, width_px):
    with looking(chromium, f"{url}?video={lake.ids['hostile']}", size=(width_px, 900)) as seen:
        assert seen.page.locator("article script, article b, article img[src=x]").count() == 0
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert seen.page.locator("article .caption").bounding_box()["height"] < 120
        seen.page.locator("summary").click()
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        seen.screenshot(f"browse_hostile_{width_px}")


@pytest.mark.parametrize("colours", LOOKS)
def test_nobody_is_shut_out(chromium, url, lake, colours):
    like = clip_id_of(lake.ids["plain"], 0)
    for name, address in {
        "clips": url,
        "ticked": f"{url}?label=dog&ticked={like}",
        "similar": f"{url}?like={like}",
        "none": f"{url}?label=ir",
    }.items():
        with looking(chromium, address, colours=colours) as seen:
            for summary in seen.page.locator("summary").all()[:2]:
                summary.click()
            assert seen.barriers() == []
            seen.screenshot(f"browse_{name}_{colours}")
    with visit(chromium, f"{url}?page=x", colours=colours) as seen:
        assert seen.barriers() == []


def test_a_player_shuts_nobody_out(chromium, url):
    with looking(chromium, f"{url}?label=dog&min_score=0.9") as seen:
        seen.page.locator("button.play").first.click()
        wait_until_playing(seen, seen.page.locator("article").first)
        assert seen.barriers() == []
