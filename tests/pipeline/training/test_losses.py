"""Losses by hand-computed values, and over two workers as over one."""

from __future__ import annotations

import math

import pytest
import torch
import torch.multiprocessing as mp

from pipeline.training.losses import Contrastive, info_nce

RIGHT = torch.eye(2)


def test_partners_alike_and_others_at_right_angles():
    # Each row: log(e^s + e^0) − s with s = 2.
    expected = math.log(math.exp(2) + 1) - 2
    assert info_nce(RIGHT, RIGHT, 2.0).item() == pytest.approx(expected, abs=1e-6)
    assert info_nce(RIGHT, RIGHT.flip(0), 2.0).item() == pytest.approx(expected + 2, abs=1e-6)


def test_lengths_do_not_count():
    assert info_nce(3 * RIGHT, 0.1 * RIGHT, 2.0).item() == pytest.approx(
        info_nce(RIGHT, RIGHT, 2.0).item()
    )


def test_both_directions_count():
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), RIGHT
    # a → b: cosines (1, 0) in both rows; b → a: alike to both.
    to_b = (math.log(math.e + 1) - 1 + math.log(math.e + 1)) / 2
    assert info_nce(a, b, 1.0).item() == pytest.approx((to_b + math.log(2)) / 2, abs=1e-6)


def test_the_same_sentence_twice_is_no_negative():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert info_nce(a, a, 10.0, torch.tensor([7, 7])).item() == pytest.approx(math.log(2), abs=1e-6)
    three, ids = torch.cat([RIGHT, RIGHT[:1]]), torch.tensor([0, 1, 0])
    # Rows 0 and 2: two partners at scale 1, one stranger. Row 1: one partner, two strangers.
    twice = math.log(2 * math.e + 1) - 1
    once = math.log(math.e + 2) - 1
    expected = (2 * twice + once) / 3
    assert info_nce(three, three, 1.0, ids).item() == pytest.approx(expected, abs=1e-6)


def test_the_temperature_is_learned_and_bounded():
    loss = Contrastive()
    assert loss.scale.item() == pytest.approx(1 / 0.07)
    loss(RIGHT, RIGHT.flip(0)).backward()
    assert loss.log_scale.grad.item() > 0  # wrong pairs: likeness should count less
    with torch.no_grad():
        loss.log_scale.fill_(9.0)
    assert loss.scale.item() == pytest.approx(100.0)


def vectors():
    random = torch.Generator().manual_seed(3)
    return torch.randn(5, 4, generator=random), torch.randn(5, 4, generator=random)


def worker(rank, port_file, answers):
    """The loss and gradients of this worker's share of `vectors`: three of the first, two of the second."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{port_file}", rank=rank, world_size=2
    )
    share = slice(0, 3) if rank == 0 else slice(3, 5)
    a, b = (x[share].requires_grad_() for x in vectors())
    scale = torch.tensor(5.0, requires_grad=True)
    ids = torch.tensor([0, 1, 2, 0, 4])[share]  # one partner is on the other worker
    (info_nce(a, b, scale, ids) * len(a)).backward()
    answers[rank] = [x.tolist() for x in (a.grad, b.grad, scale.grad)]
    torch.distributed.destroy_process_group()


def test_negatives_of_the_other_worker_count_and_are_taught(tmp_path):
    """Two workers with uneven shares find the gradients of one worker with the whole batch."""
    with mp.get_context("spawn").Manager() as manager:
        answers = manager.dict()
        mp.spawn(worker, (tmp_path / "meet", answers), nprocs=2)
        found = [[torch.tensor(x) for x in answers[rank]] for rank in range(2)]
    a, b = (x.requires_grad_() for x in vectors())
    scale = torch.tensor(5.0, requires_grad=True)
    (info_nce(a, b, scale, torch.tensor([0, 1, 2, 0, 4])) * 5).backward()
    for k, whole in enumerate((a.grad, b.grad)):
        torch.testing.assert_close(torch.cat([found[0][k], found[1][k]]), whole)
    torch.testing.assert_close(found[0][2] + found[1][2], scale.grad)
