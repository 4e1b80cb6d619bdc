"""Real published weights, with no network: Whisper hears what a talking head says, and when."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from pipeline.bundles.families import load_part
from pipeline.bundles.families.speech import glued
from pipeline.bundles.model import Model, whole_sound
from pipeline.bundles.spec import BundleError, find_bundle
from pipeline.config import load_config
from pipeline.media.audio import read_audio, resample
from pipeline.media.probe import probe
from pipeline.records import Word
from tests.batches import make_batch

LAST_WORD = {"a": "again", "n": "now", "p": "please", "s": "soon"}


@pytest.fixture(scope="module")
def grid(shared_media):
    folder = shared_media.parent / "data" / "grid"
    files = sorted(folder.glob("*.mp4"))
    if not files:
        pytest.skip(f"{folder} is not there: the talking heads are not part of the repository")
    return files


@pytest.fixture(scope="module")
def whisper():
    spec = find_bundle("embedded-speech")
    return load_part(spec.speech, spec.directory).to(torch.device("cpu"))


def sound_of(path):
    raw = read_audio(str(path), probe(str(path)), Fraction(0), Fraction(99))
    return resample(raw, 16_000).samples


def test_whisper_hears_the_sentences_of_talking_heads(whisper, grid):
    """The file's name says what is said: its last letter the last word, the fifth the digit."""
    chosen = grid[:: len(grid) // 6][:6]
    n_last = n_digit = 0
    for path in chosen:
        words = whisper.transcribe(sound_of(path))
        said = [word.word.strip(".,!").lower() for word in words]
        n_last += LAST_WORD[path.stem[5]] in said
        n_digit += path.stem[4].replace("z", "0") in "".join(said)
        assert all(0 <= w.start_s <= w.end_s <= 3.2 for w in words)
        assert all(0 < w.score <= 1 for w in words)
    assert n_last >= 5
    assert n_digit >= 3  # "four" and "away" for 4 and 8 are heard as words


def test_parts_of_a_word_are_glued():
    parts = [(" Mm", 0.0, 0.2, 0.9), ("-hmm.", 0.2, 0.5, 0.5), (" So", 1.0, 1.1, 0.8)]
    assert glued(parts) == [Word("Mm-hmm.", 0.0, 0.5, 0.5), Word("So", 1.0, 1.1, 0.8)]
    unspaced = [("你", 0.0, 0.2, 0.9), ("好", 0.2, 0.4, 0.9)]
    assert [word.word for word in glued(unspaced)] == ["你", "好"]


def test_whisper_hears_nothing_where_nobody_speaks(whisper):
    assert whisper.transcribe(np.zeros(48_000, np.float32)) == []
    rng = np.random.default_rng(0)
    assert whisper.transcribe(rng.normal(0, 0.05, 48_000).astype(np.float32)) == []


def test_a_word_across_a_border_of_clips_belongs_to_one_and_its_times_are_the_files(grid):
    """The same sentence in one clip and cut into clips of 0.75 s that begin at 60 s: the same words."""
    model = Model(find_bundle("embedded-speech"), load_config(overrides=["bundle=embedded-speech"]))
    samples = sound_of(grid[1])[:48_000]
    samples = np.pad(samples, (0, 48_000 - len(samples)))
    whole = replace(
        make_batch(1, has_video=False),
        samples=samples[None],
        audio_valid=np.array([[0, 48_000]], np.int32),
        end_s=np.array([3.0]),
    )
    start_s = 60 + 0.75 * np.arange(4)
    cut = replace(
        make_batch(4, has_video=False),
        samples=samples.reshape(4, 12_000),
        audio_valid=np.tile(np.array([[0, 12_000]], np.int32), (4, 1)),
        start_s=start_s,
        end_s=start_s + 0.75,
    )
    np.testing.assert_array_equal(whole_sound(cut, 16_000), samples)
    ((one,), four) = model.understand([whole, cut])
    words = [word for result in four for word in result.words]
    assert [word.word for word in words] == [word.word for word in one.words]
    assert len(words) >= 3
    for ours, theirs in zip(words, one.words, strict=True):
        assert ours.start_s == pytest.approx(theirs.start_s + 60, abs=1e-6)
    for result, start in zip(four, start_s, strict=True):
        assert all(start <= (w.start_s + w.end_s) / 2 < start + 0.75 for w in result.words)


def test_a_clip_without_sound_has_no_words_and_one_where_nobody_speaks_an_empty_list():
    model = Model(find_bundle("embedded-speech"), load_config(overrides=["bundle=embedded-speech"]))
    silent, quiet = make_batch(1, has_audio=False), make_batch(1)
    quiet = replace(quiet, samples=np.zeros_like(quiet.samples))
    ((none,), (empty,)) = model.understand([silent, quiet])
    assert none.words is None
    assert empty.words == ()


def test_a_damaged_speech_model_is_refused(tmp_path):
    spec = find_bundle("embedded-speech").speech
    (tmp_path / "model").mkdir()
    files = dict.fromkeys(spec.checkpoint.files)
    for file in spec.checkpoint.weight_files():
        source = file.path(tmp_path)
        content = source.read_bytes()
        (tmp_path / "model" / source.name).write_bytes(content[: len(content) // 2])
    import hashlib

    for name in files:
        files[name] = hashlib.sha256((tmp_path / "model" / name).read_bytes()).hexdigest()
    cut = spec.checkpoint.model_copy(update={"package": None, "files": files})
    with pytest.raises(BundleError, match="not loaded"):
        load_part(spec.model_copy(update={"checkpoint": cut}), tmp_path).to(torch.device("cpu"))
