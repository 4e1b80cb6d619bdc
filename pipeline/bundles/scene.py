"""The scene encoder of a bundle: what its senses tell of the clips of a unit, as one vector a clip.

Each unit goes through the network by itself, so that its rows do not depend on which others are encoded beside
it. A clip at a unit's border sees only its own unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.bundles.meaning import TextMeaning
from pipeline.bundles.senses import Sensed, Senses
from pipeline.bundles.spec import BundleSpec, SceneSpec
from pipeline.bundles.weights import load_strictly, read_tensors
from pipeline.fusion.scene import (
    LEAST_SURE,
    MOTION_DIM,
    N_NAMES,
    NAME_AT_S,
    TEXT_DIM,
    Clips,
    Pieces,
    SceneEncoder,
    SceneSize,
)
from pipeline.records import ClipBatch

_IS_KIN = 0.5  # chance of one scene from which on a clip without evidence takes its neighbour's


class Scenes:
    """A scene encoder with its weights."""

    def __init__(
        self, spec: BundleSpec, scene: SceneSpec, meaning: TextMeaning, device: torch.device
    ) -> None:
        self.meaning, self.device = meaning, device
        size = SceneSize(scene.fusion, scene.dim, scene.depth, scene.num_heads, scene.context_depth)
        net = SceneEncoder(size)
        load_strictly(net, read_tensors(scene.weights, spec.directory), spec.name)
        self.net = net.to(device).eval()

    @torch.inference_mode()
    def embed(
        self,
        batches: Sequence[ClipBatch],
        senses: Senses,
        present: Tensor,
        evidence: Tensor,
    ) -> Tensor:
        """Unit vectors (N, D) of the text space; zero where neither a clip nor another of its scene is evident.

        Args:
            senses: what each told of the clips of all `batches`.
            present: (N, 2) bool, has video, has audio.
            evidence: (N, D) the clips' own evidence, zero where there is none.
        """
        whole = self.clips(batches, senses, present, evidence)
        out, first = [], 0
        for batch in batches:
            unit = whole.part(first, first + len(batch)).to(self.device)
            found = self.net(unit) * self.net.evident(unit, _IS_KIN)[:, None]
            out.append(found.cpu())
            first += len(batch)
        return torch.cat(out)

    def clips(
        self, batches: Sequence[ClipBatch], senses: Senses, present: Tensor, evidence: Tensor
    ) -> Clips:
        """What the network takes; see `embed`."""
        n, (seen, heard, moved) = len(present), senses
        middle_s = np.concatenate(
            [(batch.start_s + batch.end_s) / 2 - batch.start_s[0] for batch in batches]
        )
        counts = self.meaning.is_foreground if heard is not None else None
        return Clips(
            named(seen, getattr(self.meaning, "sight_vectors", None), n),
            windows(moved, n),
            named(heard, getattr(self.meaning, "sound_vectors", None), n, counts),
            present,
            evidence,
            mean_looks(seen, n),
            torch.from_numpy(middle_s).float(),
            torch.cat([shots_of(batch) for batch in batches]),
            torch.zeros(n, dtype=torch.int64),
        )


def named(
    sensed: Sensed | None, vectors: Tensor | None, n: int, counts: Tensor | None = None
) -> Pieces:
    """The surest names that a sense recognised in each of `n` clips.

    Args:
        vectors: (E, D) of the sense's names.
        counts: (E,) bool, names that are evidence; None: all.
    """
    if sensed is None or vectors is None:
        none = torch.zeros(n, N_NAMES)
        return Pieces(torch.zeros(n, N_NAMES, TEXT_DIM), none, none.bool(), none)
    scores = sensed.evidence if counts is None else sensed.evidence * counts
    best = scores.topk(min(N_NAMES, scores.shape[1]), dim=1)
    valid = best.values >= LEAST_SURE
    middle_s = torch.full_like(best.values, NAME_AT_S)
    return Pieces(vectors[best.indices] * valid[..., None], best.values, valid, middle_s)


def windows(moved: Sensed | None, n: int) -> Pieces:
    """Features of the windows of motion of `n` clips."""
    if moved is None or moved.tokens is None:
        none = torch.zeros(n, 1)
        return Pieces(torch.zeros(n, 1, MOTION_DIM), none, none.bool(), none)
    tokens = moved.tokens
    return Pieces(
        tokens.values[..., :MOTION_DIM], torch.ones_like(tokens.middle_s), tokens.valid, tokens.middle_s
    )


def mean_looks(seen: Sensed | None, n: int) -> Tensor:
    """The mean look of the pictures of each of `n` clips, (N, L); zero where there are none."""
    if seen is None or seen.tokens is None:
        return torch.zeros(n, 1)
    shown = seen.tokens.valid[..., None]
    return (seen.tokens.values * shown).sum(1) / shown.sum(1).clamp(min=1)


def shots_of(batch: ClipBatch) -> Tensor:
    """The number of each clip's shot in its unit, (N,); all of one where nobody looked for cuts."""
    if batch.cut_s is None:
        return torch.zeros(len(batch), dtype=torch.int64)
    return torch.from_numpy(~np.isnan(batch.cut_s)).cumsum(0)
