"""The one training loop: steps, checkpoints, and the same weights after a kill as without one.

    task    a network, its examples, its loss, and how good it is (`Task`)
    fit     task → the best weights seen, averaged over steps

All chance comes from the seed and the number of the step, never from a generator's state. So a checkpoint
needs no such state, and a run that was killed ends, on a CPU, with the very weights of one that was not.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Tell = Callable[[int, dict[str, float]], None]  # the step, and what is measured there
_CHECKPOINT = "checkpoint.pt"


class Task(Protocol):
    """What is to be learned."""

    n_examples: int

    def make_net(self) -> nn.Module:
        """The network, with its first weights drawn from torch's seed."""

    def loss(self, net: nn.Module, indices: Tensor, random: np.random.Generator) -> Tensor:
        """The mean loss over examples `indices` (B,), varied by `random` alone."""

    def validate(self, net: nn.Module) -> dict[str, float]:
        """Measures over examples that are never trained on; `score` decides, more is better."""


class LoopConfig(BaseModel):
    """How a task is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = 0
    n_epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1, description="examples a step, over all workers")
    accumulate: int = Field(1, ge=1, description="parts that a step's examples are taken in")
    learning_rate: float = Field(1e-3, gt=0, description="at its highest")
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: float = Field(0.1, ge=0, lt=1, description="of the steps; a cosine to 0 follows")
    clip_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1, description="of the averaged weights; 0: the last ones")
    precision: Literal["float32", "bfloat16"] = "float32"
    patience_epochs: int = Field(0, ge=0, description="epochs without a better score; 0: never stop")
    checkpoint_steps: int = Field(200, ge=1, description="a checkpoint every so many steps")


@dataclass(frozen=True)
class Fitted:
    """A trained network, and how it came about."""

    net: nn.Module  # the averaged weights of the epoch that scored best
    measures: dict[str, float]  # of that epoch
    n_steps: int


@dataclass
class _State:
    """What a checkpoint holds."""

    step: int
    best: dict[str, float]
    best_epoch: int
    best_weights: dict[str, Tensor]


def fit(
    task: Task,
    config: LoopConfig,
    work: Path,
    *,
    device: torch.device | None = None,
    rank: int = 0,
    n_ranks: int = 1,
    tell: Tell = lambda _step, _measures: None,
) -> Fitted:
    """Train, from the last checkpoint in `work` on.

    Args:
        rank, n_ranks: this worker's place among those of an initialised `torch.distributed` group. Each
            takes its part of every step's examples; rank 0 validates and writes.

    Raises:
        ValueError: `work` holds a checkpoint of other settings, or there is no example.
    """
    device = device or torch.device("cpu")
    if not task.n_examples:
        raise ValueError("no example to train on")
    work.mkdir(parents=True, exist_ok=True)
    _check_settings(work, config, rank)
    torch.manual_seed(config.seed)
    net = task.make_net().to(device)
    averaged = copy.deepcopy(net).requires_grad_(False).eval()
    optimiser = torch.optim.AdamW(_groups(net), config.learning_rate, weight_decay=config.weight_decay)
    state = _restore(work / _CHECKPOINT, net, averaged, optimiser, device)
    trained = DistributedDataParallel(net) if n_ranks > 1 else net
    # The rest of an epoch is left out, others each time: batch norms need a batch.
    steps_an_epoch = max(1, task.n_examples // config.batch_size)
    n_steps = steps_an_epoch * config.n_epochs
    while state.step < n_steps and not _has_stalled(state, steps_an_epoch, config):
        epoch, place = divmod(state.step, steps_an_epoch)
        indices = _order(task.n_examples, config.seed, epoch)
        indices = indices[place * config.batch_size : (place + 1) * config.batch_size]
        if len(indices) < n_ranks:  # a worker with nothing to do would leave the others waiting
            indices = indices.repeat(n_ranks)[:n_ranks]
        for group in optimiser.param_groups:
            highest = config.learning_rate * group.get("rate", 1.0)
            group["lr"] = highest * _rate(state.step, n_steps, config.warmup_share)
        loss = _step(task, trained, optimiser, indices[rank::n_ranks], config, state.step, rank, device)
        _average(averaged, net, min(config.ema_decay, (state.step + 1) / (state.step + 10)))
        state.step += 1
        is_epoch = state.step % steps_an_epoch == 0
        if is_epoch:
            _judge(task, averaged, state, epoch, rank, loss, tell)
        if rank == 0 and (is_epoch or state.step % config.checkpoint_steps == 0):
            tell(state.step, {"loss": loss, "learning_rate": optimiser.param_groups[0]["lr"]})
            _save(work / _CHECKPOINT, net, averaged, optimiser, state)
    averaged.load_state_dict(state.best_weights)
    return Fitted(averaged, state.best, state.step)


def _groups(net: nn.Module) -> list[dict[str, Any]]:
    """Weights by how fast they learn: a module may have a `rate`, its share of the learning rate."""
    slow: dict[int, float] = {}
    for module in net.modules():
        rate = getattr(module, "rate", None)
        if isinstance(rate, float):
            slow |= {id(p): rate for p in module.parameters()}
    rates: dict[float, list[nn.Parameter]] = {}
    for p in net.parameters():
        if p.requires_grad:
            rates.setdefault(slow.get(id(p), 1.0), []).append(p)
    return [{"params": params, "rate": rate} for rate, params in rates.items()]


def _check_settings(work: Path, config: LoopConfig, rank: int) -> None:
    """Weights trained half under one setting and half under another would be nobody's."""
    file, mine = work / "settings.json", config.model_dump()
    if file.is_file():
        theirs = json.loads(file.read_text(encoding="utf-8"))
        other = sorted(key for key in mine if mine[key] != theirs.get(key))
        if other:
            what = ", ".join(f"{key} was {theirs.get(key)!r}, is {mine[key]!r}" for key in other)
            raise ValueError(
                f"{work}: holds a training with other settings ({what}); expected another folder"
            )
    elif rank == 0:
        file.write_text(json.dumps(mine, indent=1), encoding="utf-8")


def _has_stalled(state: _State, steps_an_epoch: int, config: LoopConfig) -> bool:
    epochs, place = divmod(state.step, steps_an_epoch)
    waited = epochs - 1 - state.best_epoch
    return bool(config.patience_epochs and epochs and not place and waited >= config.patience_epochs)


def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n))


def _rate(step: int, n_steps: int, warmup_share: float) -> float:
    """The share of the highest learning rate at a step: a line up, then half a cosine down."""
    n_warm = warmup_share * n_steps
    if step < n_warm:
        return (step + 1) / n_warm if n_warm >= 1 else 1.0
    return 0.5 * (1 + float(np.cos(np.pi * (step - n_warm) / max(1.0, n_steps - n_warm))))


def _step(
    task: Task,
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    indices: Tensor,
    config: LoopConfig,
    step: int,
    rank: int,
    device: torch.device,
) -> float:
    """One step over `indices`, a part at a time; the mean loss."""
    net.train()
    torch.manual_seed(
        hash((config.seed, step, rank)) & 0x7FFF_FFFF
    )  # dropout's chance; ints hash to themselves
    random = np.random.default_rng([config.seed, step, rank])
    is_low = config.precision == "bfloat16"
    optimiser.zero_grad(set_to_none=True)
    total = 0.0
    parts = [part for part in indices.chunk(config.accumulate) if len(part)]
    for i, part in enumerate(parts):
        # Gradients travel between workers once a step, with its last part.
        is_last = i + 1 == len(parts)
        apart = isinstance(net, DistributedDataParallel) and not is_last
        with net.no_sync() if apart else nullcontext():  # type: ignore[operator]
            with torch.autocast(device.type, torch.bfloat16, enabled=is_low):
                loss = task.loss(net, part, random) * (len(part) / len(indices))
            loss.backward()
        total += loss.item()
    if not np.isfinite(total):
        raise ValueError(
            f"step {step}: the loss is {total}; expected a lower learning rate or other data"
        )
    nn.utils.clip_grad_norm_(net.parameters(), config.clip_norm)
    optimiser.step()
    return total


@torch.no_grad()
def _average(averaged: nn.Module, net: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the net's; counts and such are taken over."""
    theirs = net.state_dict()
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            value.lerp_(theirs[name].to(value.dtype), 1.0 - decay)
        else:
            value.copy_(theirs[name])


def _judge(
    task: Task, averaged: nn.Module, state: _State, epoch: int, rank: int, loss: float, tell: Tell
) -> None:
    """Validate at an epoch's end; all workers learn what rank 0 found, so that they stop together."""
    found = [task.validate(averaged.eval())] if rank == 0 else [{}]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(found)
    measures = found[0]
    if rank == 0:
        tell(state.step, {"epoch": epoch + 1, "loss": loss} | measures)
    if not state.best or measures["score"] > state.best["score"]:
        state.best, state.best_epoch = measures, epoch
        state.best_weights = {k: v.detach().clone() for k, v in averaged.state_dict().items()}


def _save(
    file: Path, net: nn.Module, averaged: nn.Module, optimiser: torch.optim.Optimizer, state: _State
) -> None:
    """A checkpoint appears whole or not at all."""
    values: dict[str, Any] = {
        "net": net.state_dict(),
        "averaged": averaged.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": state.step,
        "best": state.best,
        "best_epoch": state.best_epoch,
        "best_weights": state.best_weights,
    }
    part = file.with_suffix(".part")
    torch.save(values, part)
    os.replace(part, file)


def _restore(
    file: Path,
    net: nn.Module,
    averaged: nn.Module,
    optimiser: torch.optim.Optimizer,
    device: torch.device,
) -> _State:
    if not file.is_file():
        return _State(0, {}, 0, {})
    values = torch.load(file, map_location=device, weights_only=True)
    net.load_state_dict(values["net"])
    averaged.load_state_dict(values["averaged"])
    optimiser.load_state_dict(values["optimiser"])
    return _State(values["step"], values["best"], values["best_epoch"], values["best_weights"])
