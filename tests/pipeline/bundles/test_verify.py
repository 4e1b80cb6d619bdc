"""`models verify`: a bundle answers a fixed input as it did, or says in what it differs."""

from __future__ import annotations

import json
import shutil

import pytest

from pipeline.bundles.spec import BundleError, find_bundle, golden_file
from pipeline.bundles.verify import fixed_input, verify


@pytest.fixture
def copy(tmp_path):
    """The embedded bundle as a directory of one's own."""
    shutil.copytree(find_bundle("embedded").directory, tmp_path / "mine")
    return find_bundle(str(tmp_path / "mine"))


@pytest.mark.parametrize("name", ["embedded", "embedded-speech"])
def test_a_shipped_bundle_answers_as_it_did(name):
    assert verify(find_bundle(name)).golden == "equal"


def test_another_answer_says_in_what_it_differs(copy):
    path = golden_file(copy)
    stored = json.loads(path.read_text())
    stored["clips"][0]["labels"]["audioset/audio/Sine wave"] -= 0.01
    stored["clips"][0]["embedding"][3] += 0.1
    path.write_text(json.dumps(stored))
    with pytest.raises(BundleError, match=r"(?s)Sine wave is off by 0.0100.*clip 0: the embedding"):
        verify(copy)


def test_a_bundle_without_a_stored_answer_says_so_and_can_keep_one(copy):
    golden_file(copy).unlink()
    assert verify(copy).golden == "none stored"
    assert verify(copy, record=True).golden == "equal"
    assert golden_file(copy).is_file()


def test_the_fixed_input_is_the_same_everywhere():
    batch = fixed_input(8, 16_000)
    assert batch.frames.shape == (2, 8, 256, 340, 3)
    assert batch.frames.sum() == 533_381_120
    assert (batch.frames[0, 0] != batch.frames[0, 1]).any()
