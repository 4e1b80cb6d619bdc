"""Stills and excerpts show and play the instant that was asked for."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.media.guard import Limits
from pipeline.media.preview import MAX_EXCERPT_S, Previewer
from pipeline.records import MediaError
from tests.browser import chromium, visit
from tests.media_factory import click_times, flash_and_click

__all__ = ["chromium"]


@pytest.fixture(scope="module")
def previews():
    with Previewer() as made:
        yield made


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    d = tmp_path_factory.mktemp("previews")
    return {
        "mp4": flash_and_click(d / "a.mp4", seconds=6),
        "mkv": flash_and_click(d / "a.mkv", seconds=6, acodec="libopus"),
        "ts": flash_and_click(d / "a.ts", seconds=6, audio_delay_s=0.3),
        "silent": flash_and_click(d / "silent.mp4", seconds=6, acodec=None),
        "sound": flash_and_click(d / "sound.m4a", seconds=6, vcodec=None),
        "turned": flash_and_click(d / "turned.mp4", seconds=2, rotate=90),
    }


def brightness(jpeg: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")).mean())


def played(mp4: bytes) -> tuple[list[float], list[float], dict[str, object]]:
    """When flashes and clicks of an excerpt come, in its own seconds, and its streams' facts."""
    flashes, facts = [], {}
    with av.open(io.BytesIO(mp4)) as container:
        for stream in container.streams:
            facts[stream.type] = stream.codec_context
        if container.streams.video:
            bright = [
                (frame.time, frame.to_ndarray(format="gray").mean() > 128)
                for frame in container.decode(video=0)
            ]
            flashes = [t for t, is_flash in bright if is_flash]
    with av.open(io.BytesIO(mp4)) as container:
        if not container.streams.audio:
            return flashes, [], facts
        frames = [frame for frame in container.decode(audio=0) if frame.pts >= 0]
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        starts_s = float(frames[0].pts * frames[0].time_base)
        return flashes, [starts_s + t for t in click_times(samples, frames[0].sample_rate)], facts


@pytest.mark.parametrize("name", ["mp4", "mkv", "ts", "silent"])
def test_a_still_is_the_picture_on_screen_at_its_second(name, files, previews):
    assert brightness(previews.still(str(files[name]), 2.0)) > 200
    assert brightness(previews.still(str(files[name]), 2.5)) < 40


def test_a_still_is_upright_and_of_the_size_asked_for(files, previews):
    jpeg = previews.still(str(files["turned"]), 0.5, short_side_px=60)
    assert Image.open(io.BytesIO(jpeg)).size == (60, 80)


@pytest.mark.parametrize("name", ["mp4", "mkv", "ts"])
def test_an_excerpt_shows_and_plays_its_span_from_its_first_instant(name, files, previews):
    flashes, clicks, facts = played(previews.excerpt(str(files[name]), 1.4, 4.4))
    # Flashes at 2, 3 and 4 s of a file are at 0.6, 1.6 and 2.6 s of the excerpt.
    assert flashes == pytest.approx([0.6, 1.6, 2.6], abs=1 / 15)
    assert clicks == pytest.approx([0.6, 1.6, 2.6], abs=0.03)
    assert (facts["video"].name, facts["video"].pix_fmt) == ("h264", "yuv420p")
    assert facts["audio"].name == "aac"


def test_an_excerpt_has_sound_only_where_the_source_has_and_pictures_only_where_there_are(
    files, previews
):
    flashes, _, facts = played(previews.excerpt(str(files["silent"]), 1.4, 2.4))
    assert set(facts) == {"video"}
    assert flashes == pytest.approx([0.6], abs=1 / 15)
    _, clicks, facts = played(previews.excerpt(str(files["sound"]), 1.4, 2.4))
    assert set(facts) == {"audio"}
    assert clicks == pytest.approx([0.6], abs=0.03)


def test_an_excerpt_can_begin_to_play_before_it_is_all_there(files, previews):
    mp4 = previews.excerpt(str(files["mp4"]), 0.0, 2.0)
    assert mp4.index(b"moov") < mp4.index(b"mdat")
    assert len(mp4) < 60_000


def test_an_excerpt_has_a_longest_length(tmp_path, previews):
    long = flash_and_click(tmp_path / "long.mp4", seconds=MAX_EXCERPT_S + 3, fps=5, acodec=None)
    with av.open(io.BytesIO(previews.excerpt(str(long), 0.0, 1e9))) as container:
        assert container.duration / 1e6 == pytest.approx(MAX_EXCERPT_S, abs=0.1)


def test_what_is_not_there_is_an_error_and_the_next_preview_is_made(tmp_path, files, previews):
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(files["mp4"].read_bytes()[:200])
    for uri, start_s, code in [
        (str(torn), 0.0, "not_media"),
        (str(tmp_path / "none.mp4"), 0.0, "not_found"),
        (str(files["mp4"]), 60.0, "nothing_to_play"),
    ]:
        with pytest.raises(MediaError) as error:
            previews.excerpt(uri, start_s, start_s + 2)
        assert error.value.failure.code == code
    with pytest.raises(MediaError) as error:
        previews.still(str(files["sound"]), 1.0)
    assert error.value.failure.code == "no_picture"
    assert brightness(previews.still(str(files["mp4"]), 3.0)) > 200


def test_a_file_that_takes_too_long_costs_only_its_preview(files):
    with Previewer(Limits(deadline_s=0.0, memory_mb=2048)) as hurried:
        with pytest.raises(MediaError) as error:
            hurried.excerpt(str(files["mp4"]), 0.0, 6.0)
        assert error.value.failure.code == "deadline"


def test_an_excerpt_plays_in_a_browser_with_its_sound(chromium, tmp_path, files, previews):
    (tmp_path / "a.mp4").write_bytes(previews.excerpt(str(files["mkv"]), 1.4, 4.4))
    (tmp_path / "a.html").write_text('<!doctype html><video src="a.mp4"></video>')
    with visit(chromium, (tmp_path / "a.html").as_uri()) as seen:
        seen.page.evaluate("() => document.querySelector('video').play()")
        seen.until("document.querySelector('video').currentTime > 0.7")
        width, length_s, n_heard = seen.page.evaluate(
            """() => { const v = document.querySelector('video');
                return [v.videoWidth, v.duration, v.webkitAudioDecodedByteCount]; }"""
        )
        assert (width, length_s) == (320, pytest.approx(3.0, abs=0.1))
        assert n_heard > 0
        assert seen.errors == []
