"""A learned part in a bundle: what it says, under which sense, in whatever company."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.bundles.learned import Learned, LearnedNet, middles_s, padded
from pipeline.bundles.senses import Tokens
from pipeline.bundles.spec import (
    BundleError,
    LearnedSpaceSpec,
    LearnedSpec,
    SpaceSpec,
    StreamSpec,
    WeightFile,
)
from tests.batches import make_batch
from tests.pipeline.training.tokens import told_tokens

SPEC = LearnedSpec(
    weights=WeightFile(file="learned.safetensors"),
    streams={
        "video": StreamSpec(dim=12, modality="video"),
        "audio": StreamSpec(dim=12, modality="audio"),
    },
    spaces={
        "what": LearnedSpaceSpec(names=("a", "b", "c")),
        "tags": LearnedSpaceSpec(names=("x", "y"), is_multi=True),
    },
    fusion="bottleneck",
    dim=16,
    num_heads=2,
    licence="none",
    source="a test",
)
SPACES = {name: SpaceSpec(floor=0.1, calibration="none", slope=2.0) for name in SPEC.spaces}


@pytest.fixture(scope="module")
def learned():
    torch.manual_seed(0)
    net = LearnedNet(SPEC)
    for p in net.parameters():  # heads that say something
        torch.nn.init.normal_(p, std=0.2)
    return Learned(SPEC, SPACES, net, {}, torch.device("cpu"))


def tokens(n, seed):
    which = np.random.default_rng(seed).integers(0, 3, n)
    return {name: told_tokens(which, seed=seed + i) for i, name in enumerate(("video", "audio"))}


def joined(*told):
    return {
        name: Tokens(*(torch.cat([getattr(t[name], f) for t in told]) for f in ("values", "middle_s", "valid")))
        for name in told[0]
    }  # fmt: skip


def test_a_units_answers_do_not_depend_on_its_company(learned):
    a, b, c = tokens(3, 1), tokens(1, 2), tokens(2, 3)
    batches = [make_batch(n) for n in (3, 1, 2)]
    together, _ = learned.scores(joined(a, b, c), batches)
    alone, _ = learned.scores(b, batches[1:2])
    for name in SPEC.spaces:
        torch.testing.assert_close(together[name][3:4], alone[name], atol=1e-5, rtol=0)
    torch.testing.assert_close(together["what"].sum(1), torch.ones(6))


def test_a_clip_has_the_context_of_its_unit(learned):
    a, b = tokens(2, 1), tokens(2, 1)
    b["video"].values[1] += 3.0
    batch = [make_batch(2)]
    first, second = (learned.scores(t, batch)[0]["what"][0] for t in (a, b))
    assert (first - second).abs().max() > 1e-4


def test_it_says_which_senses_it_was_told_by(learned):
    told = tokens(3, 1)
    told["video"].valid[1] = False
    told["audio"].valid[2] = False
    told["audio"].values[2] = float("nan")  # what is absent may hold anything
    scores, has = learned.scores(told, [make_batch(3)])
    assert has.tolist() == [[True, True], [False, True], [True, False]]
    assert all(torch.isfinite(s).all() for s in scores.values())


def test_a_stream_that_nobody_tells_is_named(learned):
    told = tokens(1, 1)
    with pytest.raises(BundleError, match="reads the tokens of 'audio', which no sense tells"):
        learned.scores({"video": told["video"]}, [make_batch(1)])
    narrow = {name: Tokens(t.values[..., :8], t.middle_s, t.valid) for name, t in told.items()}
    with pytest.raises(BundleError, match="tokens of 12 numbers of 'video', which tells 8"):
        learned.scores(narrow, [make_batch(1)])


def test_units_of_other_lengths_are_filled_up():
    a, b = tokens(3, 1)["video"], tokens(1, 2)["video"]
    short = Tokens(b.values[:, :2], b.middle_s[:, :2], b.valid[:, :2])
    clips = padded({"video": [a, short]}, middles_s([make_batch(3), make_batch(1)]))
    assert clips.there.tolist() == [[True] * 3, [True, False, False]]
    assert clips.streams["video"].valid.sum((1, 2)).tolist() == [12, 2]
    assert clips.middle_s[0].tolist() == [2.0, 6.0, 10.0]
