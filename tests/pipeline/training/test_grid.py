"""Talking heads: what a name says, noise of the loudness asked for, a mouth that is found, files read once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline.records import MediaError
from pipeline.training import grid
from tests.pipeline.training.talking_heads import made_up

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


def test_a_name_is_a_sentence():
    heads = dataclasses.replace(
        made_up(2), words=np.array([grid.words_of("bbaf2n.mp4"), grid.words_of("swwzzs.mp4")])
    )
    assert heads.sentences() == ["bin blue at f two now", "set white with z zero soon"]


@pytest.mark.parametrize("name", ["bbaf2.mp4", "xbaf2n.mp4", "bbaw2n.mp4", "bbaf0n.mp4", "holiday.mp4"])
def test_another_name_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected a sentence of GRID"):
        grid.words_of(name)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 7.0])
def test_noise_is_as_loud_as_asked_for(snr_db):
    random = np.random.default_rng(0)
    sound, noise = (random.normal(0, s, 48_000).astype(np.float32) for s in (0.1, 3.0))
    under = grid.mixed(sound, noise, snr_db) - sound
    assert 10 * np.log10((sound**2).mean() / (under**2).mean()) == pytest.approx(snr_db, abs=0.01)


def test_no_noise_leaves_the_sound_as_it_is():
    sound = np.ones(10, np.float32)
    assert np.array_equal(grid.mixed(sound, np.zeros(10, np.float32), -10.0), sound)
    assert np.array_equal(grid.mixed(sound, sound, float("inf")), sound)


def test_nobody_babbles_over_himself():
    heads = made_up(5)
    marks = 10.0 ** np.arange(5, dtype=np.float32)
    heads = dataclasses.replace(heads, sounds=np.tile(marks[:, None], (1, grid.N_SAMPLES)))
    random = np.random.default_rng(0)
    for _ in range(20):
        voices = f"{round(float(heads.noise_for(2, 'babble', random)[0])):05}"
        assert voices[2] == "0"  # 10² is not among them
        assert voices.count("1") == 3


def test_a_mouth_is_found_in_a_real_file():
    if not (DATA / "grid").is_dir():
        pytest.skip(f"{DATA} is not there: talking heads are not part of the repository")
    for file in sorted((DATA / "grid").glob("*.mp4"))[:2]:
        found = grid.read_head(str(file))
        assert found["pictures"].shape == (grid.N_PICTURES, *grid.MOUTH_PX)
        assert np.diff(found["times_s"][found["shown"]]) == pytest.approx(0.04, abs=1e-6)
        # The middle of what is kept moves more than its edges: a mouth, not a collar.
        change = np.abs(np.diff(found["pictures"].astype(float), axis=0)).mean(0)
        edges = np.concatenate([change[:6].ravel(), change[-6:].ravel(), change[:, :8].ravel()])
        assert change[12:28, 18:38].mean() > 1.5 * edges.mean()


def test_a_file_is_read_once(tmp_path):
    calls = []

    def read(file):
        calls.append(file)
        if "bad" in file:
            raise MediaError("read", "undecodable", f"{file}: broken")
        return {"sound": np.arange(3)}

    good, bad, told = tmp_path / "good", tmp_path / "bad", []
    good.write_text("a")
    bad.write_text("b")
    for _ in range(2):
        assert grid._kept(good, tmp_path / "read", read, told.append)["sound"].tolist() == [0, 1, 2]
    assert calls == [str(good)]
    assert grid._kept(bad, tmp_path / "read", read, told.append) is None
    assert told == [f"left out: {bad}: broken"]
    good.write_text("changed")
    grid._kept(good, tmp_path / "read", read, told.append)
    assert calls.count(str(good)) == 2


def test_a_folder_without_talking_heads_is_told(tmp_path):
    (tmp_path / "esc10.csv").write_text("file,label,fold\n")
    with pytest.raises(FileNotFoundError, match="expected talking heads in grid/"):
        grid.load(tmp_path, tmp_path / "work", "train")
