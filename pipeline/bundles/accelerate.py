"""The same network, the same answers within a stated tolerance, in less time.

    fold           batch norms go into the convolutions before them
    channels last  3D convolutions run on the layout that their kernels are written for
    bfloat16       weights and activations, where the processor multiplies them natively; heads stay in float32
    at once        as many looks as fill the device and no more than its cache holds, all calls of one shape
    compile        on request: kernels made for that shape, CUDA graphs on a GPU; as it was where that fails

Which steps a device gets is decided here and nowhere else. `docs/speed.md` has what each was predicted to give,
gave, and by how much it moves the output.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.config import RunConfig
from pipeline.encoders.precision import fast_dtype

LEAST_COSINE = 0.998  # of scores to the library's own; verify and the tests hold it
_log = logging.getLogger(__name__)
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Runtime:
    """The device that networks run on, and how."""

    device: torch.device
    dtype: torch.dtype = torch.float32  # of products of matrices
    compiles: bool = False
    looks_at_once: int | None = None  # that a picture network takes; None: what is usual on the device

    @classmethod
    def of(cls, device: str, run: RunConfig) -> Runtime:
        """As a config asks; in float32 everything runs as its library does."""
        where = torch.device(device)
        dtype = torch.float32 if run.precision == "float32" else fast_dtype(where)
        return cls(where, dtype, run.compile, run.looks_at_once)

    @property
    def is_fast(self) -> bool:
        """Whether answers may differ from the library's own by rounding."""
        return self.dtype != torch.float32

    def autocast(self) -> AbstractContextManager[object]:
        """Products of matrices in `dtype`, everything else as it is."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.is_fast)

    def at_once(self, cpu: int, gpu: int) -> int:
        """How many looks to take at once, by what is usual for a network."""
        return self.looks_at_once or (cpu if self.device.type == "cpu" else gpu)

    def upload(self, pictures: npt.NDArray[np.uint8]) -> Tensor:
        """Pictures on the device, as bytes; the copy goes on while the host does other things."""
        tensor = torch.from_numpy(pictures)
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)


def try_compiled(owner: nn.Module, name: str, runtime: Runtime, call: Callable[[], object]) -> None:
    """Compile the network `owner.name` for the one shape that `call` gives it; where that fails, say why and
    leave it as it was."""
    plain, started = getattr(owner, name), time.perf_counter()
    mode = "reduce-overhead" if runtime.device.type == "cuda" else "default"
    setattr(owner, name, torch.compile(plain, dynamic=False, mode=mode))
    try:
        with torch.inference_mode():
            call()
    except Exception as e:  # a compiler's trouble is of any kind
        setattr(owner, name, plain)
        first_line = str(e).strip().partition("\n")[0]
        _log.warning("not compiled, runs as it is: %s: %s", type(e).__name__, first_line)
    else:
        _log.info("compiled in %.0f s", time.perf_counter() - started)


class InFloat(nn.Module):
    """A module that computes in float32 within a network that does not."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.float()

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        """What the module gives for `x`, in float32."""
        return self.module([part.float() for part in x] if isinstance(x, list) else x.float())


def fold_norms(net: nn.Module) -> int:
    """Put each batch norm into the convolution that it follows; how many were.

    Pairs are known by their place: `conv_x` and `norm_x` of one block, as pytorchvideo names them, or
    neighbours in a `Sequential`, as torchvision builds them.
    """
    n_folded = 0
    for block in list(net.modules()):
        for conv_owner, conv_name, norm_owner, norm_name in _pairs(block):
            conv, norm = getattr(conv_owner, conv_name), getattr(norm_owner, norm_name)
            setattr(conv_owner, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(norm_owner, norm_name, nn.Identity())
            n_folded += 1
    return n_folded


_Pair = tuple[nn.Module, str, nn.Module, str]  # the convolution's owner and name, then the norm's


def _pairs(block: nn.Module) -> list[_Pair]:
    children = list(block.named_children())
    if isinstance(block, nn.Sequential):
        return [
            (block, name, block, after)
            for (name, conv), (after, norm) in pairwise(children)
            if isinstance(conv, _CONVOLUTIONS) and isinstance(norm, _NORMS)
        ]
    pairs: list[_Pair] = []
    for name, child in children:
        norm_name = name.replace("conv", "norm")
        norm: object = getattr(block, norm_name, None)
        if norm_name == name or norm is None:
            continue
        # A convolution in two steps ends in `conv_xy`, unless it is told to begin with it.
        in_two = isinstance(getattr(child, "conv_xy", None), nn.Conv3d)
        is_last = in_two and not getattr(child, "conv_xy_first", False)
        owner, last = (child, "conv_xy") if is_last else (block, name)
        if not isinstance(getattr(owner, last), _CONVOLUTIONS):
            continue
        if isinstance(norm, _NORMS):
            pairs.append((owner, last, block, norm_name))
        elif isinstance(norm, nn.Sequential) and len(norm) and isinstance(norm[0], _NORMS):
            pairs.append((owner, last, norm, "0"))  # X3D: the norm, then squeeze and excitation
    return pairs


def accelerate_cnn(
    net: nn.Module, heads: Sequence[str], device: torch.device, casts: bool = True
) -> torch.dtype:
    """Fold, lay out and cast a convolutional network in place; the type that its input must have.

    Args:
        heads: dotted names of the parts that pool and classify; they stay in float32, in which the answer is
            given and CPUs can pool.
        casts: False for a network that leaves the tolerance in bfloat16.
    """
    fold_norms(net)
    net.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return cast_body(net, heads, fast_dtype(device)) if casts else torch.float32


def cast_body(net: nn.Module, heads: Sequence[str], dtype: torch.dtype) -> torch.dtype:
    """Put all of a network but its `heads` into `dtype`, which is returned."""
    if dtype == torch.float32:
        return dtype
    net.to(dtype)
    for name in heads:
        owner, _, last = name.rpartition(".")
        parent = net.get_submodule(owner)
        setattr(parent, last, InFloat(getattr(parent, last)))
    return dtype
