"""Fusions that begin as two models of one sense each, and keep what these know.

    train `OneSense` for video, and for audio ─ start_from ─ train the fusion: it learns what crosses

At the first step nothing crosses, so with either sense removed a fusion answers as the model of the other
alone did. Held streams keep it so to the end, whatever the fusion learns: with both senses it gains, with one
it has nothing to lose.
"""

from __future__ import annotations

import torch

from pipeline.fusion.alone import OneSense
from pipeline.fusion.base import SENSES, Fusion


def start_from(fusion: Fusion, video: OneSense, audio: OneSense, *, hold: bool = True) -> None:
    """Give `fusion` the streams of two models of one sense, with nothing crossing yet.

    What makes tokens of the senses and what reads them are the caller's: those of the two models should be
    taken over alike (`hold_still` holds them).

    Args:
        hold: their weights stay as they are; the rest of the fusion learns.

    Raises:
        ValueError: the models are of other senses, or not of the fusion's size.
    """
    for k, (sense, single) in enumerate(zip(SENSES, (video, audio), strict=True)):
        if single.sense != k or single.size != fusion.size:
            raise ValueError(
                f"{sense}: expected a model of {sense} alone with {fusion.size}, "
                f"got one of {SENSES[single.sense]} with {single.size}"
            )
        fusion.streams[k].load_state_dict(single.stream.state_dict())
    with torch.no_grad():
        fusion.opening.zero_()
    if hold:
        hold_still(fusion.streams)


def hold_still(part: torch.nn.Module) -> None:
    """The part's weights are not to learn; `Holding` networks then keep it as in use."""
    part.requires_grad_(False).eval()
