"""The fight head's fit: right where a line divides, honest where nothing does."""

import numpy as np
import pytest

from pipeline.training.fights import Clips, choose_strength, fit, held_out_right, nested_logits

STRENGTHS = (0.1, 1.0, 10.0)


def clips(told=1.0, n=150, seed=0):
    random = np.random.default_rng(seed)
    is_fight = random.random(n) < 0.5
    seen = random.normal(0, 1, (n, 2, 6)) * [1, 10, 0.1, 1, 1, 1] + [0, 5, 0, 0, 0, 0]
    seen[..., 1] += 20 * told * is_fight[:, None]
    return Clips(seen, is_fight, np.arange(n) * 5 // n + 1)


def test_a_number_that_tells_is_found_whatever_its_scale():
    logits, chosen = nested_logits(clips(), STRENGTHS)
    assert ((logits > 0) == clips().is_fight).mean() > 0.75
    assert set(chosen) == {1, 2, 3, 4, 5}
    assert abs(fit(clips(), 1.0).weight[1] * 10) > 3 * abs(fit(clips(), 1.0).weight[0])


def test_where_nothing_tells_nothing_is_claimed():
    assert held_out_right(clips(told=0.0, n=600), 1.0).mean() == pytest.approx(0.5, abs=0.08)


def test_it_is_the_minimum_that_it_says():
    sample, strength = clips(), 2.0
    found = fit(sample, strength)
    flat = sample.seen.reshape(-1, 6)
    mean, spread = flat.mean(0), flat.std(0)

    def cost(weight, bias):
        logits = (flat @ weight + bias) * np.where(np.repeat(sample.is_fight, 2), 1, -1)
        return 0.5 * ((weight * spread) ** 2).sum() + strength / 2 * np.log1p(np.exp(-logits)).sum()

    least = cost(found.weight, found.bias)
    for k in range(6):
        for way in (-1e-2, 1e-2):
            moved = found.weight.copy()
            moved[k] += way / spread[k]
            assert cost(moved, found.bias - way / spread[k] * mean[k]) > least


def test_of_equal_strengths_the_weakest_is_chosen():
    assert choose_strength(clips(told=50.0), STRENGTHS) == 0.1
