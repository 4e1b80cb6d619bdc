"""`reeltable train` on a real, local Ray: a manifest in, a bundle out that a run uses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from pipeline.bundles.spec import find_bundle
from tests.films import clouds, write_film
from tests.media_factory import flash_and_click

N_EACH = 6
SMALL = {
    "clips.length_s": 1,
    "clips.stride_s": 1,
    "clips.frames_per_clip": 2,
    "learning.dim": 16,
    "learning.depth": 1,
    "learning.context_depth": 1,
    "loop.n_epochs": 6,
    "loop.batch_size": 4,
    "loop.learning_rate": 0.003,
    "loop.checkpoint_steps": 1,
    "run.precision": "float32",
}


def command(config, *arguments, **settings):
    chosen = [f"--set={key}={value}" for key, value in (SMALL | settings).items()]
    return [sys.executable, "-m", "jobs", "train", str(config), *chosen, *map(str, arguments)]


def train(config, *arguments, **settings):
    return subprocess.run(
        command(config, *arguments, **settings),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Short videos of two kinds, one that is no video, and a config; features are kept beside it."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(N_EACH):
        write_film(folder / f"cloud{i}.mp4", clouds(rng, 25), sound_s=1.0)
        flash_and_click(folder / f"flash{i}.mp4", seconds=1.2, size=(192, 108))
        rows += [f"cloud{i}.mp4,drifting", f"flash{i}.mp4,flashing"]
    (folder / "broken.mp4").write_text("no video")
    (folder / "labels.csv").write_text("\n".join(["uri,label", *rows, "broken.mp4,drifting", ""]))
    (folder / "mine.yaml").write_text(
        f"name: mine\nmanifest: labels.csv\nfeatures: {folder / 'features'}\n"
        "spaces: {kind: {column: label}}\n"
    )
    return folder


@pytest.fixture(scope="module")
def trained(lake):
    done = train(lake / "mine.yaml", "--out", lake / "bundle", "--json")
    assert done.returncode == 3, done.stderr  # the broken file
    return json.loads(done.stdout), done.stderr


def test_what_cannot_be_read_is_told_and_the_rest_is_learned_from(trained, lake):
    found, said = trained
    assert f"not read: {lake / 'broken.mp4'}" in said
    assert list(found["failed"]) == [str(lake / "broken.mp4")]
    assert (found["n_videos"], found["n_train"], found["n_held_out"]) == (13, 8, 4)
    assert "accuracy 100.0%" in found["measured"]["kind"]
    assert "epoch 6, step 12" in said


def test_the_bundle_says_what_it_learned_and_how_well(trained, lake):
    spec = find_bundle(str(lake / "bundle"))
    assert trained[0]["bundle_digest"] == spec.digest() != find_bundle("embedded").digest()
    (part,) = spec.learned
    assert part.spaces["kind"].names == ("drifting", "flashing")
    assert set(part.streams) >= {"video", "audio"}
    assert spec.spaces["kind"].role == "actions"
    assert spec.measured["kind"].startswith("held-out videos, which chose")
    assert spec.pictures.rate_hz == 2.0


@pytest.mark.usefixtures("trained")
def test_there_are_scalars_for_tensorboard(lake):
    pytest.importorskip("tensorboard", reason="pip install 'reeltable[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (lake / "bundle.work").glob("training-*/scalars")
    scalars = EventAccumulator(str(folder)).Reload()
    assert {"train/loss", "held_out/kind", "held_out/watched_loss"} <= set(scalars.Tags()["scalars"])
    assert len(scalars.Scalars("held_out/kind")) == 6


def test_a_run_with_the_bundle_writes_its_labels(trained, lake):
    films = [str(lake / "cloud0.mp4"), str(lake / "flash0.mp4")]
    run = ["run", *films, "--out", str(lake / "t"), "--config", trained[0]["config"]]
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *run], capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr
    clips = pd.read_parquet(lake / "t" / "clips")
    for film, name in zip(films, ("drifting", "flashing"), strict=True):
        mine = clips[clips["uri"] == film]
        (first,) = [x for x in mine.iloc[0]["labels"] if x["space"] == "kind"]
        assert (first["label"], first["modality"]) == (name, "fused")
        assert mine.iloc[0]["top_label"] == name
        assert name in mine.iloc[0]["caption"]
    segments = pd.read_parquet(lake / "t" / "segments")
    assert {"drifting", "flashing"} <= set(segments["label"])
    assert set(clips["bundle"]) == {"mine"}


@pytest.mark.usefixtures("trained")
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(lake):
    """SIGKILL in mid-epoch, then the same command again; the features are there already."""
    settings = {"loop.n_epochs": 60}
    calm = train(lake / "mine.yaml", "--out", lake / "calm", **settings)
    assert calm.returncode in (0, 3), calm.stderr
    begun = subprocess.Popen(
        command(lake / "mine.yaml", "--out", lake / "killed", **settings),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not list((lake / "killed.work").glob("training-*/loop/checkpoint.pt")):
        assert begun.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    assert not (lake / "killed" / "bundle.yaml").exists()
    again = train(lake / "mine.yaml", "--out", lake / "killed", **settings)
    assert again.returncode in (0, 3), again.stderr
    weights = [load_file(lake / name / "learned.safetensors") for name in ("calm", "killed")]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert tensor.equal(weights[1][name]), name


@pytest.mark.usefixtures("trained")
def test_two_workers_learn_together(lake):
    done = train(
        lake / "mine.yaml", "--out", lake / "two", "--json", **{"workers.n": 2, "workers.cpus": 0.5}
    )
    assert done.returncode in (0, 3), done.stderr
    assert json.loads(done.stdout)["n_steps"] == 12
    assert find_bundle(str(lake / "two")).learned


@pytest.mark.usefixtures("trained")
def test_an_encoder_is_trained_along_and_stays_apart_from_the_bundles_own(lake):
    settings = {"unfreeze.streams": "[audio]", "loop.n_epochs": 1}
    done = train(lake / "mine.yaml", "--out", lake / "tuned", **settings)
    assert done.returncode in (0, 3), done.stderr
    spec = find_bundle(str(lake / "tuned"))
    assert list(spec.learned[0].tuned) == ["audio"]
    assert spec.audio == find_bundle("embedded").audio
    from pipeline.bundles.model import Model
    from pipeline.bundles.tuned import begun
    from pipeline.config import load_config
    from tests.batches import make_batch

    own = load_file(lake / "tuned" / "audio.safetensors")
    first = begun("audio", find_bundle("embedded")).state_dict()
    assert any(not own[name].equal(first[name]) for name in first)
    (results,) = Model(spec, load_config(overrides=["labels.min_score={kind: 0}"])).understand(
        [make_batch(1)]
    )
    assert {x.label for x in results[0].labels if x.space == "kind"} == {"drifting", "flashing"}


def test_a_dry_run_says_what_would_be_trained(lake):
    done = train(lake / "mine.yaml", "--dry-run", "--json", "--out", lake / "never")
    plan = json.loads(done.stdout)
    assert plan["spans"] == {"kind": {"drifting": N_EACH + 1, "flashing": N_EACH}}
    assert (plan["n_videos"], plan["n_train"] + plan["n_held_out"]) == (13, 13)
    assert plan["base"] == "embedded"
    assert not (lake / "never.work").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"spaces": "{kind: {column: what}}"}, "no column 'what'; the manifest has: uri, label"),
        ({"manifest": "nowhere.csv"}, "nowhere.csv: not a readable manifest"),
        ({"bundle": "nothing"}, "bundle 'nothing' is unknown"),
        ({"learning.size": "3"}, "unknown key 'learning.size'"),
        ({"caption": "text"}, "caption: no column 'text'"),
        (
            {"spaces": "{actions: {column: label}}"},
            "has a vocabulary of that name; expected another name",
        ),
    ],
)
def test_what_cannot_be_trained_is_one_line(lake, settings, said):
    done = train(lake / "mine.yaml", "--dry-run", **settings)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_where_every_file_fails_nothing_is_trained(lake, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text("no video")
    (tmp_path / "labels.csv").write_text("uri,label\na.mp4,x\nb.mp4,y\n")
    (tmp_path / "mine.yaml").write_text((lake / "mine.yaml").read_text())
    done = train(tmp_path / "mine.yaml", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "no labelled clip could be read; nothing to train on" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("trained")
def test_other_labels_of_the_same_videos_make_another_training(lake):
    """Nothing is decoded again, and nothing of what was learned from the old labels is gone on from."""
    swapped = (lake / "labels.csv").read_text().replace("drifting", "x").replace("flashing", "y")
    (lake / "swapped.csv").write_text(swapped.replace("broken.mp4,x\n", ""))
    done = train(lake / "mine.yaml", "--out", lake / "bundle", manifest=lake / "swapped.csv")
    assert done.returncode == 0, done.stderr
    assert "features of 12 units are there" in done.stderr
    assert find_bundle(str(lake / "bundle")).learned[0].spaces["kind"].names == ("x", "y")
