"""Accuracy over labelled videos: looked at in many views, and by what each sense tells."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from pytorchvideo.models import hub
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.bundles.spec import BundleError, find_bundle
from pipeline.config import CONFIG_DIR, load_config
from pipeline.evaluation.labelled import Examiner, Example, accuracy, measured
from pipeline.records import Unit
from pipeline.understand import decode
from tests.media_factory import flash_and_click
from tests.pipeline.bundles.families.published import randomised, sha256


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """`kinetics-x3d` with X3D-XS of random weights."""
    folder = tmp_path_factory.mktemp("bundle")
    path = folder / "X3D_XS.pyth"
    torch.save({"model_state": randomised(hub.x3d_xs(pretrained=False)).state_dict()}, path)
    values = yaml.safe_load((CONFIG_DIR / "bundles" / "kinetics-x3d.yaml").read_text())
    weights = {"file": path.name, "sha256": sha256(path)}
    values["video"] |= {"options": {"model": "x3d_xs"}, "weights": weights}
    values["pictures"] = {"rate_hz": 2.5, "short_side_px": 182}
    (folder / "bundle.yaml").write_text(yaml.safe_dump(values))
    return find_bundle(str(folder))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(flash_and_click(tmp_path_factory.mktemp("video") / "a.mp4", seconds=8))


CONFIG = load_config(overrides=["labels.actions=[running, falling]", "run.precision=float32"])


def examined(bundle, examples, n_temporal=1, n_spatial=1, config=CONFIG, space=None):
    examiner = Examiner(
        bundle, config, examples, n_temporal=n_temporal, n_spatial=n_spatial, space=space
    )
    return examiner, list(examiner.answers(examples))


def test_the_answer_is_the_mean_over_views_in_time_and_space(bundle, video):
    """Against pytorchvideo's own forward on views that this test cuts by itself."""
    _, (answer,) = examined(bundle, [Example(video, "archery")], n_temporal=2, n_spatial=3)
    net = hub.x3d_xs(pretrained=False).eval()
    net.load_state_dict(torch.load(bundle.directory / "X3D_XS.pyth", weights_only=True)["model_state"])
    clips = CONFIG.clips.model_copy(
        update={"length_s": 8.0, "stride_s": 8.0, "unit_s": 8.0, "frames_per_clip": 20}
    )
    batch = decode(
        Unit("", "", video, "", 0.0, 8.0), CONFIG.model_copy(update={"clips": clips}), 16_000
    ).batch
    frames = torch.from_numpy(batch.frames[0]).float() / 255  # (20, H, W, 3), 2.5 a second
    height, width = frames.shape[1:3]
    looks = []
    for start in (0, 16):  # the first and the last 1.6 s
        for left in (0, round((width - height) / 2), width - height):
            square = frames[start : start + 4, :, left : left + height].permute(3, 0, 1, 2)
            scaled = torch.nn.functional.interpolate(
                ((square - 0.45) / 0.225).transpose(0, 1), size=(182, 182), mode="bilinear"
            )
            looks.append(scaled.transpose(0, 1))
    with torch.inference_mode():
        expected = net(torch.stack(looks)).mean(0)
    for name, score in answer.best:
        from pipeline.bundles.weights import label_space

        assert score == pytest.approx(expected[label_space("kinetics400").index(name)].item(), abs=1e-4)
    own = label_space("kinetics400").index("archery")
    assert answer.rank == int((expected >= expected[own]).sum())


def test_accuracy_counts_what_could_be_read(bundle, video, tmp_path):
    _, (probe,) = examined(bundle, [Example(video, "archery")])
    names = [name for name, _ in probe.best]
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    examples = [
        Example(video, names[0]),
        Example(video, names[3]),
        Example(video, "archery", 1.0, 3.0),
        Example(str(tmp_path / "bad.mp4"), "archery"),
        Example(video, "archery", 9.0),
    ]
    examiner, answers = examined(bundle, examples)
    assert [a.rank for a in answers[:2]] == [1, 4]
    assert "not a readable media file" in answers[3].problem
    assert "nothing from 9 s" in answers[4].problem
    found = accuracy(answers, examiner)
    assert (found.n, found.n_unreadable) == (3, 2)
    n_first = sum(a.rank == 1 for a in answers if a.rank)
    assert found.top1 == pytest.approx(n_first / 3)


def test_an_unknown_class_or_vocabulary_is_named(bundle, video):
    with pytest.raises(BundleError, match="kinetics400 has no class 'flying'"):
        examined(bundle, [Example(video, "archery|flying")])
    with pytest.raises(BundleError, match="no vocabulary 'colours'"):
        examined(bundle, [Example(video, "archery")], space="colours")


ACTIONS = load_config(overrides=["labels.actions=[driving car, riding a bike, training dog, cooking]"])


@pytest.fixture(scope="module")
def dog(shared_media):
    """One clip seen and heard, one only seen, one whose file is damaged."""
    clips = shared_media / "clips"
    return [
        Example(str(clips / "vggsound_3qesirWAGt4_dog.mp4"), "training dog", 0.0, 4.0),
        Example(str(clips / "skv_bikes.mp4"), "riding a bike", 0.0, 4.0),
    ]


def test_each_sense_and_both_are_told_from_one_pass(dog):
    examiner, answers = examined(find_bundle("embedded"), dog, config=ACTIONS)
    assert examiner.vocabulary.space == "actions"
    assert list(answers[0].scores) == ["all senses", "sight", "sound"]
    assert list(answers[1].scores) == ["all senses", "sight"]  # it has no sound
    assert (answers[1].scores["all senses"] == answers[1].scores["sight"]).all()
    assert answers[0].rank == 1
    assert dict(answers[0].best)["training dog"] == pytest.approx(
        answers[0].scores["all senses"].max(), abs=1e-6
    )
    figures = {f.key: f for f in measured(answers, examiner).figures}
    assert [figures[key].n for key in ("all_senses_top1", "sight_top1", "sound_top1")] == [2, 2, 1]
    assert figures["sound_of_both_top1"].n == 1
    assert figures["sight_top1"].low < figures["sight_top1"].value


def test_several_labels_give_mean_average_precision(dog):
    several = [Example(dog[0].uri, "training dog | cooking", 0.0, 4.0), dog[1]]
    examiner, answers = examined(find_bundle("embedded"), several, config=ACTIONS)
    assert answers[0].rank == 1  # one of its labels is first
    found = measured(answers, examiner)
    keys = [figure.key for figure in found.figures]
    assert "all_senses_map" in keys
    assert [plot.kind for plot in found.plots] == ["reliability", "precision_recall"]


def test_the_vocabulary_of_one_sense_is_asked_of_that_sense(dog):
    heard = [Example(dog[0].uri, "Dog", 0.0, 4.0), Example(dog[1].uri, "Speech", 0.0, 4.0)]
    examiner, answers = examined(find_bundle("embedded"), heard, config=ACTIONS)
    assert examiner.vocabulary.space == "audioset"
    assert answers[0].rank is not None
    assert answers[1].problem.endswith("no sound")


def test_the_command_reads_a_manifest_and_tells_accuracy(bundle, video, tmp_path):
    manifest = tmp_path / "val.csv"
    manifest.write_text(f"uri,label,start_s,end_s\n{video},archery,0,4\n{video},bowling,4,8\n")
    more = ["--set", f"bundle={bundle.directory}", "--set", "labels.actions=[running]", "--json"]
    ended = CliRunner().invoke(app, ["evaluate", str(manifest), "--views", "1x1", *more])
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert told["accuracy"]["n"] == 2  # spans of one video are examples of their own
    assert [answer["label"] for answer in told["answers"]] == ["archery", "bowling"]
    assert told["accuracy"]["views"] == "1 × 1"
    assert len(told["answers"][0]["best"]) == 5
    assert {f["key"] for f in told["measured"]["figures"]} == {
        "sight_top1",
        "sight_top5",
        "sight_calibration_error",
    }
    written = CliRunner().invoke(
        app, ["evaluate", str(manifest), "--views", "1x1", *more, "--out", str(tmp_path / "card")]
    )
    assert written.exit_code == 0, written.output
    card = (tmp_path / "card" / "val.md").read_text()
    assert "sight: top-1" in card
    assert "(val/val-confusion.png)" in card
    assert (tmp_path / "card" / "val" / "val-confusion.png").stat().st_size > 1000
    assert json.loads((tmp_path / "card" / "val.json").read_text())["bundle"] == bundle.name
    wrong = CliRunner().invoke(app, ["evaluate", str(manifest), "--views", "ten"])
    assert wrong.exit_code == 2
    manifest.write_text(f"uri\n{video}\n")
    unlabelled = CliRunner().invoke(app, ["evaluate", str(manifest), *more])
    assert unlabelled.exit_code == 2
    assert "expected a label" in unlabelled.stderr
