"""Which streams of the examples are learned from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.sources import InputError
from pipeline.training import corpus
from pipeline.training.learner import Example
from pipeline.training.settings import TrainConfig
from tests.pipeline.training.tokens import told_tokens

WHICH = np.array([0, 1])
CONFIG = {"name": "x", "manifest": "x.csv", "spaces": {"kind": {"column": "label"}}}


def example(**told):
    tokens = told_tokens(WHICH)
    streams = {
        name: tokens if is_told else replace(tokens, valid=torch.zeros_like(tokens.valid))
        for name, is_told in told.items()
    }
    return Example("a.mp4", streams, torch.tensor([0.5, 1.5]), {"kind": torch.eye(2)})


def config(**more):
    return TrainConfig.model_validate(CONFIG | more)


def test_a_stream_that_tells_nothing_is_not_learned_from():
    """One that tells something of a single clip is."""
    examples = [
        example(video=True, motion=False, audio=False),
        example(video=True, motion=False, audio=True),
    ]
    assert corpus._silent(examples, config()) == ["motion"]


def test_a_silent_stream_that_is_asked_for_is_refused():
    examples = [example(video=True, motion=False)]
    with pytest.raises(InputError, match="nothing is told by motion in any clip"):
        corpus._silent(examples, config(streams=["video", "motion"]))


def test_where_all_are_silent_there_is_nothing_to_learn_from():
    with pytest.raises(InputError, match="nothing is told by video, motion"):
        corpus._silent([example(video=False, motion=False)], config())
