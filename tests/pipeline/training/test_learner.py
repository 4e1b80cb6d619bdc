"""Learning a user's labels from tokens in memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.bundles.spec import LearnedSpaceSpec
from pipeline.training.learner import (
    Learning,
    LearnTask,
    calibrate,
    choose_floor,
    examples_of,
    learn,
    target_of,
)
from pipeline.training.loop import LoopConfig
from tests.pipeline.training.tokens import told_tokens

NAMES = ("fight", "game", "calm")
LOOP = LoopConfig(n_epochs=12, batch_size=8, learning_rate=0.003, ema_decay=0.8)
LEARNING = Learning(dim=16, num_heads=2, depth=2, dropout=0.1)


def clips(n, seed, noise=1.0):
    """Examples of `n` clips, half of which `video` tells and half `audio`, and their classes."""
    which = np.random.default_rng(seed).integers(0, 3, n)
    streams = {
        "video": told_tokens(which, noise=noise, seed=seed),
        "audio": told_tokens(which, noise=noise, seed=seed + 100),
    }
    names = [NAMES[c] for c in which]
    return examples_of(streams, {"what": names}, classes={"what": NAMES}), torch.from_numpy(which)


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    return learn(clips(60, 1)[0], clips(30, 2)[0], LEARNING, LOOP, tmp_path_factory.mktemp("work"))


def test_it_tells_classes_that_it_has_learned(learner):
    others, which = clips(60, 3)
    scores = learner.scores(others)["what"]
    assert (scores.argmax(1) == which).float().mean() > 0.9
    torch.testing.assert_close(scores.sum(1), torch.ones(60))


def test_one_sense_is_enough_where_the_other_is_absent(learner):
    others, which = clips(60, 4)
    for sense in ("video", "audio"):
        right = (learner.scores(others, [sense])["what"].argmax(1) == which).float().mean()
        assert right > 0.85, sense


def test_the_same_call_in_the_same_folder_has_nothing_left_to_do(tmp_path):
    first = learn(clips(30, 1)[0], [], LEARNING, LOOP, tmp_path)
    again = learn(clips(30, 1)[0], [], LEARNING, LOOP, tmp_path)
    assert first.n_steps == again.n_steps
    for a, b in zip(first.pupil.parameters(), again.pupil.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("fusion", ["late", "early"])
def test_other_fusions_learn_it_too(fusion, tmp_path):
    found = learn(clips(60, 1)[0], [], LEARNING.model_copy(update={"fusion": fusion}), LOOP, tmp_path)
    others, which = clips(40, 3)
    assert (found.scores(others)["what"].argmax(1) == which).float().mean() > 0.85


def test_several_labels_a_clip_are_told_each_for_itself(tmp_path):
    """One stream says "rain", the other "dog": a clip may be of both, or of none."""
    random = np.random.default_rng(5)
    wet, barks = random.integers(0, 2, 80), random.integers(0, 2, 80)
    labels = [
        [name for name, there in (("rain", w), ("dog", b)) if there]
        for w, b in zip(wet, barks, strict=True)
    ]
    streams = {"video": told_tokens(wet, seed=6), "audio": told_tokens(barks, seed=7)}
    examples = examples_of(streams, {"heard": labels}, classes={"heard": ("dog", "rain")})
    spaces = {"heard": LearnedSpaceSpec(names=("dog", "rain"), is_multi=True)}
    quiet = LEARNING.model_copy(update={"sense_dropout": 0.0})
    found = learn(examples[:60], [], quiet, LOOP, tmp_path, spaces=spaces)
    told = found.scores(examples[60:])["heard"] > 0.5
    truth = torch.from_numpy(np.stack([barks, wet], 1)[60:] > 0)
    assert (told == truth).float().mean() > 0.9


def test_clips_without_a_label_teach_nothing_and_hurt_nothing():
    labelled, _ = clips(4, 1)
    unknown = dataclasses.replace(labelled[0], labels={"what": torch.full((1, 3), float("nan"))})
    spec = learn_spec(labelled)
    task = LearnTask([*labelled, unknown], labelled, spec, LEARNING)
    torch.manual_seed(0)
    net = task.make_net().eval()
    random = np.random.default_rng
    with_it = task.loss(net, torch.tensor([0, 1, 4]), random(0))
    without = task.loss(net, torch.tensor([0, 1]), random(0))
    alone = task.loss(net, torch.tensor([4]), random(0))
    torch.testing.assert_close(with_it, without)
    assert float(alone) == 0.0
    alone.backward()  # other workers wait for gradients of every weight


def learn_spec(examples):
    from pipeline.training.learner import spec_of

    return spec_of(examples, {"what": LearnedSpaceSpec(names=NAMES)}, LEARNING, tuned_dims={})


def test_captions_draw_clips_to_where_they_lie_in_the_text_space(tmp_path):
    texts = torch.nn.functional.normalize(
        torch.randn(3, 8, generator=torch.Generator().manual_seed(1)), dim=1
    )

    def told(n, seed):
        examples, which = clips(n, seed)
        return [
            dataclasses.replace(e, text=c[None]) for e, c in zip(examples, which, strict=True)
        ], which

    aligned = LEARNING.model_copy(update={"align_weight": 1.0})
    found = learn(told(60, 1)[0], [], aligned, LOOP, tmp_path, texts=texts)
    others, which = told(40, 3)
    with torch.no_grad():
        from pipeline.training.learner import batch_of

        answers, _ = found.pupil.eval()(batch_of(others))
    nearest = (torch.nn.functional.normalize(answers.text[:, 0], dim=1) @ texts.T).argmax(1)
    assert (nearest == which).float().mean() > 0.85


def test_scores_are_right_as_often_as_they_say():
    """Logits that are three times too sure are cooled to what they are worth."""
    random = np.random.default_rng(0)
    which = random.integers(0, 3, 3000)
    p = random.dirichlet([1.0, 1.0, 1.0], 3000)
    which = np.array([random.choice(3, p=q) for q in p])
    truth = torch.nn.functional.one_hot(torch.from_numpy(which), 3).float()
    found = calibrate(3 * torch.from_numpy(np.log(p + 1e-9)).float(), truth, False, 3000)
    assert found.slope == pytest.approx(1 / 3, rel=0.1)


@pytest.mark.parametrize("is_multi", [False, True])
def test_a_few_that_all_came_out_right_make_nobody_certain(is_multi):
    truth = torch.eye(2).repeat(5, 1)
    found = calibrate(truth * 20 - 10, truth, is_multi, n_groups=10)
    logits = found.slope * (truth * 20 - 10) + found.offset * is_multi
    p = logits.sigmoid() if is_multi else logits.softmax(1)
    assert p.max() == pytest.approx(1 - 1 / 12, abs=0.01)


def test_the_floor_is_the_lowest_that_gives_the_precision_asked():
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    truth = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0]])
    floor, precision = choose_floor(scores, truth, 1.0)
    assert (floor, precision) == (pytest.approx(0.75), 1.0)
    floor, precision = choose_floor(scores, truth, 0.6)
    assert floor == pytest.approx(0.25)  # of the six at 0.3 and above, four are right
    assert precision == pytest.approx(4 / 6)
    worst = choose_floor(scores, 1 - truth, 0.99)
    assert worst[1] < 0.99


def test_a_label_that_nobody_knows_is_named():
    with pytest.raises(ValueError, match="label 'figth' is none of: fight, game"):
        target_of("figth", ("fight", "game"))
