"""What the content says of the offset between sound and picture, and that it says nothing without cause."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import Config
from pipeline.media.audio import AudioTrack, read_audio
from pipeline.media.probe import probe
from pipeline.media.video import Motion, index_packets, read_motion
from pipeline.records import Unit
from pipeline.sync import lips
from pipeline.sync.align import read_clips
from pipeline.sync.offset import estimate_offset, loudest_span
from tests.media_factory import flash_and_click

SURE = Config().sync.min_confidence


def read(path, end_s=7):
    info = probe(str(path))
    span = Fraction(0), Fraction(end_s)
    motion = read_motion(str(path), info, index_packets(str(path), info, *span), *span)
    return motion, read_audio(str(path), info, *span)


def moved(track, by_ms):
    return dataclasses.replace(track, start_s=track.start_s + Fraction(by_ms, 1000))


@pytest.fixture(scope="module")
def impacts(tmp_path_factory):
    """Flashes and clicks at uneven distances, so that only one offset fits."""
    path = tmp_path_factory.mktemp("impacts") / "a.mp4"
    motion, track = read(flash_and_click(path, seconds=8, fps=25), end_s=8)
    samples, grey = track.samples.copy(), motion.grey.copy()
    at_s = np.arange(len(samples)) / track.rate_hz
    for taken_out in (2, 4, 5, 7):
        grey[np.abs(motion.times_s - taken_out) < 0.5] = motion.grey[0]
        samples[np.abs(at_s - taken_out) < 0.5] = 0
    return Motion(grey, motion.times_s), dataclasses.replace(track, samples=samples)


@pytest.mark.parametrize("by_ms", [-400, -130, 0, 77, 300])
def test_a_click_that_was_moved_is_found(impacts, by_ms):
    motion, track = impacts
    found = estimate_offset(motion, moved(track, by_ms))
    assert found.confidence > SURE
    assert found.offset_ms == pytest.approx(by_ms, abs=25)


def test_noise_over_a_still_picture_tells_nothing():
    random = np.random.default_rng(0)
    motion = Motion(np.full((150, 96, 128), 90, np.uint8), np.arange(150) / 25)
    samples = random.normal(0, 0.1, 16_000 * 7).astype(np.float32)
    found = estimate_offset(motion, track_of(samples))
    assert found is None or found.confidence < SURE


def test_too_few_pictures_tell_nothing():
    motion = Motion(np.zeros((20, 96, 128), np.uint8), np.arange(20) / 25)
    assert estimate_offset(motion, track_of(np.zeros(16_000, np.float32))) is None
    slow = Motion(np.zeros((60, 96, 128), np.uint8), np.arange(60) / 10)
    assert estimate_offset(slow, track_of(np.ones(96_000, np.float32))) is None


def track_of(samples):
    return AudioTrack(samples, 16_000, Fraction(0), np.array([[0, len(samples)]]))


def test_the_part_looked_at_is_where_the_sound_changes():
    samples = np.zeros(16_000 * 20, np.float32)
    samples[16_000 * 12 : 16_000 * 15 : 400] = 1.0
    first, last = loudest_span(track_of(samples), Fraction(0), Fraction(20), Fraction(4))
    assert first <= 12 <= 15 <= last
    assert last - first == 4


def test_the_network_is_the_one_that_was_trained():
    """NumPy says what torch says, batch normalisation folded away."""
    from pipeline.training.lips import Lips

    torch.manual_seed(0)
    net = Lips().train()
    x = torch.randn(2, 60, 96, 120)
    columns = torch.randn(2, 240, lips.N_BANDS)
    present = torch.ones(2, 240, dtype=torch.bool)
    net(x, columns, present)  # running statistics
    net.eval()
    with torch.no_grad():
        expected = net(x, columns, present)[0].numpy()
    weights = {k: v.numpy() for k, v in net.exported().items()}
    seen, heard = lips.see(weights, x[0].numpy()), lips.hear(weights, columns[0].numpy())
    found = lips.logits(weights, seen, heard, np.arange(60) / 25)
    assert found == pytest.approx(expected, abs=2e-3)


@pytest.fixture(scope="module")
def grid() -> list[Path]:
    """Talking heads; the test is skipped where they are not."""
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "grid"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: talking heads are not part of the repository")
    return sorted(folder.glob("*.mp4"))


@pytest.mark.parametrize("by_ms", [-500, -200, 0, 160, 500])
def test_a_talking_head_tells_by_how_much_its_sound_was_moved(by_ms, grid):
    from pipeline.training.lips import TEST_FOLDS, fold_of

    kept = [p for p in grid if fold_of(p.name) in TEST_FOLDS][::16]
    found = [estimate_offset(motion, moved(track, by_ms)) for motion, track in map(read_grid, kept)]
    answers = [f.offset_ms for f in found if f is not None and f.confidence >= SURE]
    assert len(answers) >= 0.6 * len(kept)
    right = [abs(a - by_ms) <= 40 for a in answers]
    assert sum(right) >= 0.8 * len(answers)  # of 8 files; `make bench-offset` measures all


def test_sound_of_another_sentence_has_no_offset(grid):
    kept = grid[::60]
    read_in = [read_grid(path) for path in kept]
    pairs = [(read_in[i][0], read_in[i - 1][1]) for i in range(len(read_in))]
    sure = [f for f in (estimate_offset(*pair) for pair in pairs) if f and f.confidence >= SURE]
    assert len(sure) <= 0.2 * len(pairs)


def read_grid(path: Path):
    return read(path, end_s=4)


def test_sound_is_moved_where_the_config_asks_for_it(tmp_path, grid):
    """A file whose sound is 300 ms late, read with `sync.correct`: the clip's sound is the original's."""
    import av

    source = grid[2]  # one that the network is sure of
    late = tmp_path / "late.mkv"
    with av.open(str(source)) as original, av.open(str(late), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in original.streams}
        for packet in original.demux():
            if packet.dts is None:
                continue
            moved_by = round(0.3 / packet.time_base) if packet.stream.type == "audio" else 0
            packet.pts, packet.dts = packet.pts + moved_by, packet.dts + moved_by
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    config = Config()
    correct = config.model_copy(update={"sync": config.sync.model_copy(update={"correct": True})})
    unit = Unit("u", "v", str(late), "1", 0.0, None)
    as_is, report = read_clips(unit, probe(str(late)), config, 16_000)
    assert report.offset_ms == pytest.approx(300, abs=60)
    assert report.offset_confidence >= SURE
    put_right, _ = read_clips(unit, probe(str(late)), correct, 16_000)
    asked = Unit("u", "v", str(source), "1", 0.0, None)
    original_clips, _ = read_clips(asked, probe(str(source)), config, 16_000)
    assert lag_ms(as_is, original_clips) == pytest.approx(300, abs=2)
    assert lag_ms(put_right, original_clips) == pytest.approx(300 - report.offset_ms, abs=2)


def lag_ms(clips, original):
    """By how much the first clip's sound lies behind the original's, by correlation."""
    a, b = clips.samples[0], original.samples[0]
    size = 2 * len(a)
    crossed = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    lag = int(crossed.argmax())
    return (lag - size if lag > size // 2 else lag) / 16
