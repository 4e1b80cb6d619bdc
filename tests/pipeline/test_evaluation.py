"""Accuracy over labelled videos, each looked at in many views."""

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
from pipeline.evaluation import Example, accuracy, evaluate
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


def test_the_answer_is_the_mean_over_views_in_time_and_space(bundle, video):
    """Against pytorchvideo's own forward on views that this test cuts by itself."""
    (answer,) = evaluate(bundle, CONFIG, [Example(video, "archery")], n_temporal=2, n_spatial=3)
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
    (probe,) = evaluate(bundle, CONFIG, [Example(video, "archery")], n_temporal=1, n_spatial=1)
    names = [name for name, _ in probe.best]
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    examples = [
        Example(video, names[0]),
        Example(video, names[3]),
        Example(video, "archery", 1.0, 3.0),
        Example(str(tmp_path / "bad.mp4"), "archery"),
        Example(video, "archery", 9.0),
    ]
    answers = list(evaluate(bundle, CONFIG, examples, n_temporal=1, n_spatial=1))
    assert [a.rank for a in answers[:2]] == [1, 4]
    assert "not a readable media file" in answers[3].problem
    assert "nothing from 9 s" in answers[4].problem
    found = accuracy(answers, bundle, 1, 1)
    assert (found.n, found.n_unreadable) == (3, 2)
    n_first = sum(a.rank == 1 for a in answers if a.rank)
    assert found.top1 == pytest.approx(n_first / 3)


def test_an_unknown_class_is_named(bundle, video):
    with pytest.raises(BundleError, match="kinetics400 has no class 'flying'"):
        list(evaluate(bundle, CONFIG, [Example(video, "flying")], n_temporal=1, n_spatial=1))


def test_a_bundle_that_looks_at_single_pictures_is_refused(video):
    with pytest.raises(BundleError, match="expected a video network"):
        list(
            evaluate(
                find_bundle("embedded"), CONFIG, [Example(video, "dog")], n_temporal=1, n_spatial=1
            )
        )


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
    wrong = CliRunner().invoke(app, ["evaluate", str(manifest), "--views", "ten"])
    assert wrong.exit_code == 2
    manifest.write_text(f"uri\n{video}\n")
    unlabelled = CliRunner().invoke(app, ["evaluate", str(manifest), *more])
    assert unlabelled.exit_code == 2
    assert "expected a label" in unlabelled.stderr
