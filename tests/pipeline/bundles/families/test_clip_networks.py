"""Video networks published as one file: they load strictly and answer as their library does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from pytorchvideo.models import hub
from torchvision.models import get_model, get_weight
from torchvision.transforms import _functional_video

from pipeline.bundles.accelerate import LEAST_COSINE, fold_norms
from pipeline.bundles.families import load_part
from pipeline.bundles.families.base import Sampling, cut, frame_places
from pipeline.bundles.spec import BundleError
from tests.pipeline.bundles.families.published import file_part, randomised

N_CLASSES = 7
# Model → frames, short side and crop of the library's own tutorial and model zoo.
ZOO = {
    "x3d_xs": (4, 182, 182),
    "x3d_s": (13, 182, 182),
    "x3d_m": (16, 256, 256),
    "x3d_l": (16, 356, 356),
    "slow_r50": (8, 256, 256),
    "slowfast_r50": (32, 256, 256),
    "r2plus1d_r50": (16, 256, 256),
    "csn_r101": (32, 256, 256),
    "mvit_base_16x4": (16, 224, 224),
}
TORCHVISION = {"r2plus1d_18": 16, "s3d": 16, "mvit_v2_s": 16, "swin3d_t": 32}


def hub_model(name, n_classes=N_CLASSES):
    key = "head_num_classes" if name.startswith("mvit") else "model_num_class"
    return getattr(hub, name)(pretrained=False, **{key: n_classes})


def pyth(folder, name, change=lambda state: state):
    """A .pyth as the zoo lays it out."""
    path = folder / f"{name}.pyth"
    torch.save({"model_state": change(randomised(hub_model(name)).state_dict())}, path)
    return path


@pytest.fixture(scope="module")
def zoo_transforms():
    """pytorchvideo's functional transforms; its package of transforms does not import any more."""
    root = Path(next(iter(importlib.util.find_spec("pytorchvideo").submodule_search_locations)))
    spec = importlib.util.spec_from_file_location("ptv_functional", root / "transforms/functional.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures(n, size=(120, 160), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, n, *size, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", ZOO)
def test_a_model_of_the_zoo_answers_as_pytorchvideo_does(name, tmp_path, zoo_transforms):
    n_frames, side_px, crop_px = ZOO[name]
    path = pyth(tmp_path, name)
    ours = load_part(file_part("pytorchvideo", path, model=name, classes=N_CLASSES), tmp_path)
    assert ours.sampling.n_frames == n_frames
    reference = hub_model(name).eval()
    reference.load_state_dict(torch.load(path, weights_only=True)["model_state"])
    frames = pictures(n_frames)
    video = (frames[0].permute(3, 0, 1, 2).float() / 255 - 0.45) / 0.225
    video = zoo_transforms.short_side_scale(video, side_px)
    video = _functional_video.center_crop(video, (crop_px, crop_px))[None]
    if name == "slowfast_r50":
        slow = zoo_transforms.uniform_temporal_subsample(video, n_frames // 4, temporal_dim=2)
        video = [slow, video]
    with torch.inference_mode():
        expected, found = reference(video), ours(frames)
        scores = ours.scores(frames)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(scores.sum(1), torch.ones(1), atol=1e-4, rtol=0)
    assert found.std() > 1e-4  # weights are such that the answer is no constant


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_model_of_torchvision_answers_as_torchvision_does(name, tmp_path):
    reference = randomised(get_model(name, weights=None, num_classes=N_CLASSES))
    path = tmp_path / f"{name}.pth"
    torch.save(reference.state_dict(), path)
    n_frames = TORCHVISION[name]
    options = {"frames": n_frames} if name == "s3d" else {}
    part = file_part("torchvision", path, model=name, classes=N_CLASSES, **options)
    ours = load_part(part, tmp_path)
    assert ours.sampling.n_frames == n_frames
    frames = pictures(n_frames)
    weights = {
        "mvit_v2_s": "MViT_V2_S",
        "r2plus1d_18": "R2Plus1D_18",
        "s3d": "S3D",
        "swin3d_t": "Swin3D_T",
    }
    preset = get_weight(f"{weights[name]}_Weights.KINETICS400_V1").transforms()
    with torch.inference_mode():
        expected = reference(preset(frames[0].permute(0, 3, 1, 2))[None])
        torch.testing.assert_close(ours(frames), expected, atol=1e-4, rtol=0)


def test_class_names_of_kinetics_stand_in_the_order_of_the_published_classifiers():
    from pipeline.bundles.weights import label_space

    names = label_space("kinetics400")
    # Ids as the data set's public list of classes numbers them.
    assert (names[0], names[81], names[115], names[290]) == (
        "abseiling", "cutting nails", "eating ice cream", "sharpening knives",
    )  # fmt: skip


class Trap:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: {f"net.{k}": t for k, t in s.items()}, r"missing blocks\.0.*unexpected net\.blocks\.0"),
        (lambda s: s | {"blocks.5.proj.weight": torch.zeros(9, 2048)}, r"shape \(9, 2048\), expected \(7"),
        (lambda s: {k: t for k, t in s.items() if k != "blocks.5.proj.bias"}, r"missing blocks\.5\.proj\.bias"),
        (lambda s: s | {"trap": Trap()}, "not a pickle of tensors alone"),
    ],
    ids=["wrong keys", "wrong shape", "missing key", "code"],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_with_the_reason(tmp_path, change, reason):
    path = pyth(tmp_path, "x3d_xs", change)
    with pytest.raises(BundleError, match=f"(?s){reason}"):
        load_part(file_part("pytorchvideo", path, model="x3d_xs", classes=N_CLASSES), tmp_path)


def test_a_truncated_file_and_a_bad_sum_are_refused(tmp_path):
    path = pyth(tmp_path, "x3d_xs")
    part = file_part("pytorchvideo", path, model="x3d_xs", classes=N_CLASSES)
    path.write_bytes(path.read_bytes()[:-10_000])
    with pytest.raises(BundleError, match=r"x3d_xs\.pyth: sha256 is .*, expected"):
        load_part(part, tmp_path)
    cut = file_part("pytorchvideo", path, model="x3d_xs", classes=N_CLASSES)
    with pytest.raises(BundleError, match=r"x3d_xs\.pyth: damaged"):
        load_part(cut, tmp_path)
    path.write_bytes(b"")
    with pytest.raises(BundleError, match=r"x3d_xs\.pyth: damaged"):
        load_part(file_part("pytorchvideo", path, model="x3d_xs"), tmp_path)


def test_a_file_without_model_state_is_refused(tmp_path):
    path = tmp_path / "bare.pyth"
    torch.save(hub_model("x3d_xs").state_dict(), path)
    with pytest.raises(BundleError, match="expected a dict with 'model_state'"):
        load_part(file_part("pytorchvideo", path, model="x3d_xs", classes=N_CLASSES), tmp_path)


def test_files_of_pyslowfasts_wrapper_load_too(tmp_path):
    path = pyth(tmp_path, "x3d_xs", lambda s: {f"model.{k}": t for k, t in s.items()})
    load_part(file_part("pytorchvideo", path, model="x3d_xs", classes=N_CLASSES), tmp_path)


def test_an_unknown_model_names_the_known_ones(tmp_path):
    path = pyth(tmp_path, "x3d_xs")
    with pytest.raises(BundleError, match=r"'x3d_xxl' is unknown.*x3d_xs, x3d_s"):
        load_part(file_part("pytorchvideo", path, model="x3d_xxl"), tmp_path)


def test_a_clip_is_looked_at_at_the_rate_of_training():
    x3d_s = Sampling(13, 5.0, 182)
    assert x3d_s.views(4.0) == 2
    first, last = frame_places(x3d_s, 20, 4.0, 2).tolist()
    assert first == list(range(13))
    assert last == list(range(7, 20))
    (middle,) = frame_places(x3d_s, 20, 4.0, 1).tolist()
    assert middle == list(range(middle[0], middle[0] + 13))
    assert middle[0] in (3, 4)


def test_a_window_longer_than_the_clip_sees_all_of_it():
    places = frame_places(Sampling(32, 2.0, 224), 8, 4.0, 1)[0].tolist()
    assert places == sorted(places)
    assert set(places) == set(range(8))
    spread = frame_places(Sampling(8, 0.0, 224), 20, 4.0, 1)[0].tolist()
    assert spread == [1, 3, 6, 8, 11, 13, 16, 18]


def test_spatial_views_are_the_ends_and_the_middle():
    wide = torch.arange(10).expand(2, 3, 4, 10)
    assert [cut(wide, 4, i, 3)[0, 0, 0].tolist() for i in range(3)] == [
        [0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9],
    ]  # fmt: skip
    assert cut(wide.transpose(-1, -2), 4, 2, 3)[0, 0, :, 0].tolist() == [6, 7, 8, 9]
    assert cut(wide, 4, 0, 1)[0, 0, 0].tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("name", ["r2plus1d_18", "swin3d_t"])
def test_the_middle_of_three_crops_is_torchvisions_own_and_the_ends_are_the_pictures(name, tmp_path):
    path = tmp_path / f"{name}.pth"
    torch.save(get_model(name, weights=None, num_classes=N_CLASSES).state_dict(), path)
    ours = load_part(file_part("torchvision", path, model=name, classes=N_CLASSES), tmp_path)
    frames = torch.arange(171).view(1, 1, 1, 171, 1).expand(1, 2, 128, 171, 3).to(torch.uint8)
    left, middle, right = (ours.prepare(frames, i, 3) for i in range(3))
    torch.testing.assert_close(middle, ours.prepare(frames), atol=0.02, rtol=0)
    assert left.min() == ours.prepare(frames[..., :1, :].expand(1, 2, 128, 171, 3)).min()
    assert right.max() > middle.max() > left.max()
    assert left.shape == middle.shape == right.shape


@pytest.mark.parametrize(
    "name", ["x3d_xs", "x3d_s", "slow_r50", "slowfast_r50", "csn_r101", "mvit_base_16x4"]
)
def test_the_fast_way_gives_the_zoos_answer_within_tolerance(name, tmp_path):
    """Folded, laid out and cast: the same class first, and a cosine of 0.998 at least (docs/speed.md)."""
    part = file_part("pytorchvideo", pyth(tmp_path, name), model=name, classes=N_CLASSES)
    exact, fast = load_part(part, tmp_path), load_part(part, tmp_path).accelerate(torch.device("cpu"))
    frames = torch.cat([pictures(exact.sampling.n_frames, seed=seed) for seed in range(2)])
    with torch.inference_mode():
        expected, found = exact.scores(frames), fast.scores(frames)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, expected).min() > LEAST_COSINE
    best = expected.topk(2).values
    if (best[:, 0] - best[:, 1]).min() > 0.01:
        assert found.argmax(1).tolist() == expected.argmax(1).tolist()


@pytest.mark.parametrize("name", ["r2plus1d_18", "s3d", "swin3d_t"])
def test_the_fast_way_gives_torchvisions_answer_within_tolerance(name, tmp_path):
    path = tmp_path / f"{name}.pth"
    torch.save(randomised(get_model(name, weights=None, num_classes=N_CLASSES)).state_dict(), path)
    options = {"frames": 16} if name == "s3d" else {}
    part = file_part("torchvision", path, model=name, classes=N_CLASSES, **options)
    exact, fast = load_part(part, tmp_path), load_part(part, tmp_path).accelerate(torch.device("cpu"))
    frames = pictures(exact.sampling.n_frames)
    with torch.inference_mode():
        assert torch.cosine_similarity(fast.scores(frames), exact.scores(frames)).min() > LEAST_COSINE


def test_folding_finds_every_norm_of_x3d():
    net = randomised(hub_model("x3d_xs"))
    n_norms = sum(isinstance(m, torch.nn.BatchNorm3d) for m in net.modules())
    video = torch.randn(1, 3, 4, 160, 160)
    with torch.inference_mode():
        expected = net(video)
        assert fold_norms(net) == n_norms
        assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in net.modules())
        torch.testing.assert_close(net(video), expected, atol=1e-5, rtol=1e-3)
