"""Sound encoders: mono samples in, class scores and embeddings out.

`YamNet` is the published AudioSet tagger (MobileNet-v1 over log-mel patches,
https://github.com/tensorflow/models/tree/master/research/audioset/yamnet) as a torch module with
batch norm folded into its convolutions.
"""

from __future__ import annotations

import math

import torch
import torchaudio
from torch import Tensor, nn

_SAMPLE_RATE_HZ = 16_000
_WINDOW, _HOP, _FFT = 400, 160, 512  # samples: 25 ms, 10 ms
_MELS, _MEL_LOW_HZ, _MEL_HIGH_HZ = 64, 125.0, 7_500.0
_LOG_OFFSET = 1e-3
_PATCH_FRAMES, _PATCH_HOP_FRAMES = 96, 48  # 0.96 s, 0.48 s
# (channels out, stride) of the depthwise-separable layers behind the first convolution.
_LAYERS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)


def _mel_weights() -> Tensor:
    """HTK mel filters as TensorFlow draws them: triangles straight in mel, not in hertz. (257, 64)"""

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    bins = mel(torch.linspace(0.0, _SAMPLE_RATE_HZ / 2, _FFT // 2 + 1, dtype=torch.float64))
    low, high = mel(torch.tensor([_MEL_LOW_HZ, _MEL_HIGH_HZ], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, _MELS + 2, dtype=torch.float64)
    rise = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rise, fall).clamp(min=0).float()


class LogMelPatches(nn.Module):
    """Samples at 16 kHz → overlapping log-mel patches of 0.96 s, one every 0.48 s."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram = torchaudio.transforms.Spectrogram(
            n_fft=_FFT, win_length=_WINDOW, hop_length=_HOP, power=1.0, center=False
        )
        # The window is a constant, not a weight: no checkpoint has to bring it.
        self.spectrogram.register_buffer("window", self.spectrogram.window, persistent=False)
        self.register_buffer("mel", _mel_weights(), persistent=False)

    @staticmethod
    def n_patches(n_samples: int) -> int:
        """Patches that cover `n_samples`; a shorter input is padded with silence to one patch."""
        patch_hop = _PATCH_HOP_FRAMES * _HOP
        first = (_PATCH_FRAMES - 1) * _HOP + _WINDOW
        return 1 + max(0, math.ceil((n_samples - first) / patch_hop))

    def forward(self, samples: Tensor) -> Tensor:
        """Patches, (B, P, 96, 64), of samples (B, S) in −1..1."""
        n_frames = _PATCH_FRAMES + (self.n_patches(samples.shape[-1]) - 1) * _PATCH_HOP_FRAMES
        # torch centres a 400-sample window in the 512-sample transform, TensorFlow starts it at 0.
        before = (_FFT - _WINDOW) // 2
        needed = (n_frames - 1) * _HOP + _FFT
        after = max(0, needed - before - samples.shape[-1])
        spectrum = self.spectrogram(nn.functional.pad(samples, (before, after)))
        log_mel = torch.log(spectrum[..., :n_frames].transpose(-1, -2) @ self.mel + _LOG_OFFSET)
        return log_mel.unfold(1, _PATCH_FRAMES, _PATCH_HOP_FRAMES).transpose(-1, -2)


class SeparableConv(nn.Module):
    """A filter for each channel, then a mix of the channels, ReLU behind both."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.depthwise = _conv(c_in, c_in, 3, stride, groups=c_in)
        self.pointwise = _conv(c_in, c_out, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.pointwise(torch.relu(self.depthwise(x))))


def _conv(c_in: int, c_out: int, kernel: int, stride: int, groups: int = 1) -> nn.Module:
    extra = kernel - stride if kernel > 1 else 0
    before = extra // 2
    return nn.Sequential(
        nn.ZeroPad2d((before, extra - before, before, extra - before)),
        nn.Conv2d(c_in, c_out, kernel, stride, groups=groups),
    )


class YamNet(nn.Module):
    """521 AudioSet classes, independent sigmoids, from 16 kHz mono sound; 3.7 M parameters."""

    sample_rate_hz = _SAMPLE_RATE_HZ
    patch_s = ((_PATCH_FRAMES - 1) * _HOP + _WINDOW) / _SAMPLE_RATE_HZ
    patch_hop_s = _PATCH_HOP_FRAMES * _HOP / _SAMPLE_RATE_HZ
    feature_dim = 1024

    def __init__(self, num_classes: int = 521) -> None:
        super().__init__()
        self.patches = LogMelPatches()
        self.stem = _conv(1, 32, 3, 2)
        layers, c_in = [], 32
        for c_out, stride in _LAYERS:
            layers.append(SeparableConv(c_in, c_out, stride))
            c_in = c_out
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(c_in, num_classes)

    def classify(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 521) and embeddings (N, 1024) of log-mel patches (N, 96, 64)."""
        x = self.layers(torch.relu(self.stem(patches[:, None])))  # (N, 1024, 3, 2)
        features = x.mean(dim=(2, 3))
        return self.classifier(features), features

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, P, 521) and embeddings (B, P, 1024) of samples (B, S) at 16 kHz in −1..1."""
        patches = self.patches(samples)  # (B, P, 96, 64)
        logits, features = self.classify(patches.flatten(0, 1))
        shape = patches.shape[:2]
        return logits.unflatten(0, shape), features.unflatten(0, shape)
