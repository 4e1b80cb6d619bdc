"""Footage is read once, in windows on the clock of the file."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.training.footage import (
    RATE_HZ,
    SIZE_PX,
    WINDOW_S,
    picture_steps,
    read_footage,
    varied_steps,
)
from tests.media_factory import flash_and_click


def test_windows_follow_each_other_and_are_read_once(video_file, tmp_path):
    found = read_footage([video_file], 2, tmp_path, "made")
    assert found.pictures.shape == (2, RATE_HZ * WINDOW_S, *SIZE_PX)
    assert found.files == (video_file.name,) * 2
    assert found.start_s == (0.0, 2.0)
    brightest = found.pictures[0].mean((1, 2)).argmax()
    assert brightest / RATE_HZ == pytest.approx(1.0, abs=0.05)  # the flash
    kept = next(tmp_path.glob("made*.npy")).stat().st_mtime_ns
    again = read_footage([video_file], 2, tmp_path, "made")
    assert np.array_equal(again.pictures, found.pictures)
    assert next(tmp_path.glob("made*.npy")).stat().st_mtime_ns == kept
    assert len(found.without([video_file.name])) == 0


def test_what_was_read_otherwise_does_not_stand_in(video_file, tmp_path):
    """Fewer windows, or a file that changed, are read anew into the same folder."""
    own = shutil.copy(video_file, tmp_path)
    files = [Path(own)]
    assert len(read_footage(files, 2, tmp_path / "kept", "made")) == 2
    assert len(read_footage(files, 1, tmp_path / "kept", "made")) == 1
    flash_and_click(files[0], seconds=2.2)
    assert len(read_footage(files, 2, tmp_path / "kept", "made")) == 1


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="none of 0 files has a picture"):
        read_footage([], 1, tmp_path, "none")


def test_what_a_network_looks_at_lies_within_a_window():
    assert picture_steps()[-1] < RATE_HZ * WINDOW_S
    for seed in range(50):
        steps = varied_steps(np.random.default_rng(seed))
        assert steps.min() >= 0
        assert steps.max() < RATE_HZ * WINDOW_S
        assert (np.diff(steps) >= 1).mean() > 0.9
