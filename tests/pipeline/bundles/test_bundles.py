"""The published bundles as a whole, with shrunk checkpoints in their places: no clip gets another's result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf
import yaml
from pytorchvideo.models import hub

from pipeline.bundles.model import Model
from pipeline.bundles.spec import BundleError, bundle_names, find_bundle
from pipeline.config import CONFIG_DIR, load_config
from tests.batches import make_batch
from tests.pipeline.bundles.families import test_hub_folders as folders
from tests.pipeline.bundles.families.published import folder_part, randomised, sha256

ACTIONS = ("a dog runs", "man rides bike", "food frying")
CONFIG = ["labels.actions=[" + ", ".join(ACTIONS) + "]", "labels.max_per_space=3"]


def shrunk(name, tmp_path, parts, **changes):
    """The bundle `name` with other checkpoints in place of the published ones, all its floors at 0."""
    values = yaml.safe_load((CONFIG_DIR / "bundles" / f"{name}.yaml").read_text())
    for role, part in parts.items():
        values[role] = values[role] | part
    for space in values["spaces"].values():
        space["floor"] = 0.0
    (tmp_path / "bundle.yaml").write_text(yaml.safe_dump(values | changes))
    return find_bundle(str(tmp_path))


def checkpoint(kind, folder):
    return {"checkpoint": folder_part(kind, folder).checkpoint.model_dump(), "options": {}}


def kinetics_x3d(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "X3D_S.pyth"
    torch.save({"model_state": randomised(hub.x3d_s(pretrained=False)).state_dict()}, path)
    return shrunk(
        "kinetics-x3d", tmp_path, {"video": {"weights": {"file": path.name, "sha256": sha256(path)}}}
    )


def videomae_ast_git(tmp_path):
    config = hf.ASTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        **folders.NAMES,
    )
    ast = folders.saved(
        tmp_path / "ast", hf.ASTForAudioClassification(config), hf.ASTFeatureExtractor()
    )
    parts = {
        "video": checkpoint("hf_video", folders.videomae(tmp_path / "videomae")),
        "audio": checkpoint("hf_audio", ast),
        "captions": checkpoint("hf_caption", folders.git(tmp_path / "git", 4)),
    }
    return shrunk("videomae-ast-git", tmp_path, parts)


def clip_clap(tmp_path):
    parts = {
        "video": checkpoint("clip", folders.clip(tmp_path / "clip")),
        "audio": checkpoint("clap", folders.clap(tmp_path / "clap")),
    }
    return shrunk("clip-clap", tmp_path, parts, embedding_dim=32)


MAKE = {"kinetics-x3d": kinetics_x3d, "videomae-ast-git": videomae_ast_git, "clip-clap": clip_clap}


@pytest.fixture(params=MAKE)
def loaded(request, tmp_path):
    return Model(MAKE[request.param](tmp_path), load_config(overrides=CONFIG))


def same(a, b, has_captioner):
    if has_captioner:  # a sentence made of labels turns with labels of equal score
        assert a.caption == b.caption
    scores = [{(x.space, x.modality, x.label): x.score for x in result.labels} for result in (a, b)]
    shared = scores[0].keys() & scores[1].keys()
    lowest = {k[:2]: min(s for j, s in scores[1].items() if j[:2] == k[:2]) for k in scores[1]}
    # Of labels with equal scores any may be among the highest; of all but equal ones some may change places.
    tied = {k for k, score in scores[0].items() if score == pytest.approx(lowest.get(k[:2]), rel=1e-6)}
    assert len(shared | tied) >= 0.8 * len(scores[0])
    for key in shared:
        assert scores[0][key] == pytest.approx(scores[1][key], abs=2e-4), key
    assert (a.embedding is None) == (b.embedding is None)
    if a.embedding is not None:
        np.testing.assert_allclose(a.embedding, b.embedding, atol=2e-3)


def test_no_row_carries_another_clips_result(loaded):
    """Units one by one, together, and shuffled: the same of every clip."""
    more = {"n_frames": 20}
    batches = [make_batch(n, seed=n, has_audio=n != 2, has_video=n != 1, **more) for n in (3, 1, 2)]
    alone = [loaded.understand([batch])[0] for batch in batches]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        together = loaded.understand([batches[i] for i in order])
        for i, results in zip(order, together, strict=True):
            assert len(results) == len(alone[i])
            for ours, expected in zip(results, alone[i], strict=True):
                same(ours, expected, loaded.captioner is not None)
    first, second, third = alone[0]
    assert any((first.labels != second.labels, second.labels != third.labels))


def test_a_missing_sense_is_said_by_no_label(loaded):
    (blind,) = loaded.understand([make_batch(1, has_video=False)])
    (deaf,) = loaded.understand([make_batch(1, has_audio=False)])
    assert {x.modality for x in blind[0].labels} == {"audio"}
    assert {x.modality for x in deaf[0].labels} == {"video"}
    ((both,),) = loaded.understand([make_batch(1)])
    assert {x.modality for x in both.labels} == {"video", "audio", "fused"}
    assert both.embedding is None or both.embedding.shape == (loaded.dim,)


def test_a_clip_that_ends_early_is_looked_at_as_far_as_it_goes(tmp_path):
    """Half a clip gives what the same half gives as a whole clip of that length: no still is judged."""
    spec = kinetics_x3d(tmp_path)
    whole = make_batch(1, n_frames=20)
    valid = np.arange(20)[None] < 13
    padded = replace(whole, frame_valid=valid, end_s=np.array([2.6]), is_padded=np.array([True]))
    short = replace(
        whole, frames=whole.frames[:, :13], frame_valid=valid[:, :13], end_s=np.array([2.6])
    )
    model = Model(spec, load_config(overrides=CONFIG))
    found, expected = (
        model.sight.look([batch], [torch.from_numpy(batch.frames)], length_s, 0, 1)
        for batch, length_s in ((padded, 4.0), (short, 2.6))
    )
    torch.testing.assert_close(found, expected)


def test_looks_of_clips_of_all_sizes_fill_batches_together(tmp_path):
    """Five clips in two sizes, two of them without pictures: each scored as it is alone."""
    model = Model(kinetics_x3d(tmp_path), load_config(overrides=CONFIG))
    small, none = make_batch(2, seed=1), make_batch(2, has_video=False)
    wide = replace(
        make_batch(1, seed=2),
        frames=np.ascontiguousarray(make_batch(1, seed=2).frames[..., :230, :, :]),
    )
    together = model.sense([small, none, wide])[0].spaces["kinetics400"]
    alone = [model.sense([batch])[0].spaces["kinetics400"] for batch in (small, none, wide)]
    assert together.shape[0] == 5
    assert not together[2:4].any()
    torch.testing.assert_close(together, torch.cat(alone))


def test_mistakes_in_a_bundle_are_told_before_anything_runs(tmp_path):
    kinetics_x3d(tmp_path)
    text = (tmp_path / "bundle.yaml").read_text()
    for before, after, said in (
        ("kinetics400:\n", "kinetics700:\n", "'kinetics400' is missing"),
        ("model: x3d_s", "model: x3d_s\n    classes: 700", "X3D_S.pyth: weights do not fit"),
        ("model: x3d_s", "model: x3d_s\n    temporal_views: -1", "temporal_views is -1"),
        ("model: x3d_s", "model: x3d_s\n    spatial_crops: two", "spatial_crops is 'two'"),
        ("kind: yamnet", "kind: yamnet\n  options: {speed: 2}", "unknown option 'speed'; it has: none"),
    ):
        assert before in text
        (tmp_path / "bundle.yaml").write_text(text.replace(before, after))
        with pytest.raises(BundleError, match=said):
            Model(find_bundle(str(tmp_path)), load_config(overrides=CONFIG))


def test_a_sentence_lies_where_clips_do(tmp_path):
    """Without a sentence encoder a text goes into both spaces, and its cosine is the mean of the two."""
    model = Model(clip_clap(tmp_path), load_config(overrides=CONFIG))
    texts = model.meaning.embed_text(["a dog runs", "food frying"])
    assert texts.shape == (2, 32)
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(2))
    ((clip,),) = model.understand([make_batch(1)])
    sight, hearing = model.sight, model.hearing
    seen, heard, _ = model.sense([make_batch(1)])
    unit = torch.nn.functional.normalize
    cosines = [
        (unit(sense.net.embed_text(["a dog runs"]), dim=-1) @ sensed.sights.tokens.T).item()
        for sense, sensed in ((sight, seen), (hearing, heard))
    ]
    assert float(texts[0] @ torch.from_numpy(clip.embedding)) == pytest.approx(
        sum(cosines) / 2, abs=1e-3
    )


def test_every_shipped_bundle_is_valid_and_says_what_it_is():
    for name in bundle_names():
        spec = find_bundle(name)
        assert spec.name == name
        assert spec.dim > 0
        assert "actions" in spec.spaces
        for part in spec.parts():
            assert part.licence
            assert part.source
        for encoder in (spec.video, spec.audio):
            assert encoder is None or encoder.labels in spec.spaces
        for file in spec.weight_files():
            assert file.package or file.url, f"{name}: nobody could bring {file.file}"


def test_encoders_without_text_cannot_do_without_a_sentence_encoder(tmp_path):
    spec = kinetics_x3d(tmp_path).model_copy(update={"text": None, "embedding_dim": 8})
    with pytest.raises(BundleError, match="expected encoders that share a space with text"):
        Model(spec, load_config(overrides=CONFIG))
