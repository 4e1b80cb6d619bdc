"""Encoders that a learned part brings itself, trained end to end with it.

The base bundle's own encoders stay as they are, and what was measured of them holds: a tuned one is another
network, which reads the same pictures or sound. A piece is what it takes at once: a square of a picture, a
patch of sound, a window of motion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.bundles.senses import Tokens
from pipeline.bundles.spec import BundleError, BundleSpec, LearnedSpec
from pipeline.bundles.weights import load_strictly, read_tensors, read_yamnet
from pipeline.encoders.audio import YamNet
from pipeline.encoders.frames import EfficientNetLite0, rename_efficientnet_lite
from pipeline.encoders.motion import N_FEATURES, MotionNet, levels


class TunedEncoder(nn.Module):
    """Pieces → tokens. A kind of encoder fills in `features`."""

    dim: int  # numbers a token
    at_once: ClassVar[int] = 16  # pieces; memory for training does not grow with more
    rate = 1.0  # share of the learning rate at which it is trained

    def features(self, pieces: Tensor) -> Tensor:
        """(n, dim) of pieces (n, …)."""
        raise NotImplementedError

    def forward(self, pieces: Tokens) -> Tokens:
        """Tokens of the pieces (…, K, *piece) of clips."""
        flat = pieces.values[pieces.valid]  # (n, *piece)
        parts = []
        for part in flat.split(self.at_once):
            if torch.is_grad_enabled():  # keep no activations: they are computed again on the way back
                parts.append(checkpoint(self.features, part, use_reentrant=False))
            else:
                parts.append(self.features(part))
        values = torch.zeros(*pieces.valid.shape, self.dim, device=flat.device)
        if parts:
            values[pieces.valid] = torch.cat(parts).float()
        return Tokens(values, pieces.middle_s, pieces.valid)

    def train(self, mode: bool = True) -> TunedEncoder:
        """Batch norms keep the statistics that they have: a batch of a few videos has worse ones."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
                module.eval()
        return self


class TunedPictures(TunedEncoder):
    """EfficientNet-Lite0 without its classifier, over squares (n, 224, 224, 3) uint8."""

    dim = EfficientNetLite0.feature_dim

    def __init__(self) -> None:
        super().__init__()
        self.net = EfficientNetLite0(1)
        self.net.classifier = nn.Identity()  # type: ignore[assignment]

    def features(self, pieces: Tensor) -> Tensor:
        return self.net.features(pieces)


class TunedPatches(TunedEncoder):
    """YAMNet without its classifier, over log-mel patches (n, 96, 64)."""

    dim = YamNet.feature_dim

    def __init__(self) -> None:
        super().__init__()
        self.net = YamNet(1)
        self.net.classifier = nn.Identity()  # type: ignore[assignment]

    def features(self, pieces: Tensor) -> Tensor:
        return self.net.classify(pieces.float())[1]


class TunedMotion(TunedEncoder):
    """The trunk of `MotionNet`, over windows of grey pictures (n, T, H, W) uint8."""

    dim = 2 * N_FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.net = MotionNet()
        for head in ("camera", "objects", "flow", "fight"):
            setattr(self.net, head, nn.Identity())

    def features(self, pieces: Tensor) -> Tensor:
        _, last = self.net.see(levels(pieces))
        return torch.cat([last.mean((2, 3, 4)), last.mean((3, 4)).amax(2)], dim=1)


TUNED: dict[str, type[TunedEncoder]] = {
    "video": TunedPictures,
    "audio": TunedPatches,
    "motion": TunedMotion,
}
_KINDS = {"video": "efficientnet_lite0", "audio": "yamnet"}


def begun(stream: str, bundle: BundleSpec) -> TunedEncoder:
    """A stream's encoder with the weights that it has in a bundle, to be trained from there.

    Raises:
        BundleError: the bundle has no such encoder, or one of a family that cannot be tuned.
    """
    part = getattr(bundle, stream, None)
    if part is None or part.weights is None or getattr(part, "kind", None) != _KINDS.get(stream):
        has = "has none" if part is None else f"has {getattr(part, 'kind', 'another')}"
        raise BundleError(
            f"{bundle.name}: unfreeze {stream}: expected {_KINDS.get(stream, 'the motion network')}, it {has}"
        )
    if stream == "audio":
        tensors = read_yamnet(part.weights, bundle.directory)
    else:
        tensors = read_tensors(part.weights, bundle.directory)
        tensors = rename_efficientnet_lite(tensors) if stream == "video" else tensors
    encoder = TUNED[stream]()
    net = encoder.get_submodule("net")
    wanted = net.state_dict()
    heads = ("classifier.", "camera.", "objects.", "flow.", "fight.")
    tensors = {name: t for name, t in tensors.items() if name in wanted or not name.startswith(heads)}
    load_strictly(net, tensors, bundle.name)
    return encoder.requires_grad_(True)


def load_tuned(spec: LearnedSpec, bundle: BundleSpec, device: torch.device) -> dict[str, TunedEncoder]:
    """The encoders that a learned part brings, by stream.

    Raises:
        BundleError: weights are absent, altered, or do not fit.
    """
    found = {}
    for stream, weights in spec.tuned.items():
        encoder = TUNED[stream]()
        load_strictly(encoder, read_tensors(weights, bundle.directory), bundle.name)
        if isinstance(encoder, TunedPictures):
            encoder.net.fold()
        found[stream] = encoder.to(device).eval()
    return found


def tokens_of(
    encoders: Mapping[str, TunedEncoder], pieces: Mapping[str, Tokens], device: torch.device
) -> dict[str, Tokens]:
    """What tuned encoders make of clips' pieces, on the CPU."""
    told = {}
    for stream, encoder in encoders.items():
        p = pieces[stream]
        t = encoder(Tokens(p.values.to(device), p.middle_s.to(device), p.valid.to(device)))
        told[stream] = Tokens(t.values.cpu(), t.middle_s.cpu(), t.valid.cpu())
    return told
