"""Late fusion: what is absent weighs nothing, and weights add up."""

from __future__ import annotations

import pytest
import torch

from pipeline.fusion.late import LateFusion


def unit(*values):
    return torch.nn.functional.normalize(torch.tensor([values]), dim=-1)


def test_a_missing_sense_changes_nothing_of_the_other():
    video, noise = unit(1.0, 2.0, 3.0), torch.tensor([[9.0, -9.0, 5.0]])
    fused = LateFusion()(video, noise, torch.tensor([[True, False]]))
    torch.testing.assert_close(fused, video)
    weights = LateFusion().weights(video, noise, torch.tensor([[True, False]]))
    assert weights.tolist() == [[1.0, 0.0]]


def test_without_either_there_is_nothing():
    fused = LateFusion()(unit(1.0, 0.0), unit(0.0, 1.0), torch.tensor([[False, False]]))
    assert not fused.any()


def test_weak_evidence_counts_less():
    both = torch.tensor([[True, True]])
    weights = LateFusion().weights(unit(1.0, 0.0), 0.25 * unit(0.0, 1.0), both)
    torch.testing.assert_close(weights, torch.tensor([[0.8, 0.2]]))


def test_fused_vectors_have_unit_length():
    torch.manual_seed(0)
    fused = LateFusion()(torch.randn(5, 8), torch.randn(5, 8), torch.ones(5, 2, dtype=torch.bool))
    torch.testing.assert_close(fused.norm(dim=-1), torch.ones(5))


def test_a_weight_outside_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        LateFusion(1.0)
