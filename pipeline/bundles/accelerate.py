"""The same network, the same answers within a stated tolerance, in less time.

    fold           batch norms go into the convolutions before them
    in place       what a block adds up and cuts off is written where it lies, not into new memory
    products       on a CPU in float32, 1×1×1 convolutions are products of matrices
    memory kept    a process that encodes gives no memory back between two calls
    channels last  3D convolutions run on the layout that their kernels are written for; a GPU tries both
    bfloat16       weights and activations, where the processor multiplies them natively; heads stay in float32
    at once        as many looks as fill the device and no more than its cache holds, all calls of one shape
    compile        on request: kernels made for that shape, CUDA graphs on a GPU; as it was where that fails

Which steps a device gets is decided here and nowhere else. `docs/speed.md` has what each was predicted to give,
gave, and by how much it moves the output.
"""

from __future__ import annotations

import ctypes
import logging
import time
import timeit
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.config import RunConfig
from pipeline.encoders.motion import Pointwise
from pipeline.encoders.precision import fast_dtype

LEAST_COSINE = 0.998  # of scores to the library's own; verify and the tests hold it
SURE = 0.01  # a class that leads by more stays first
_log = logging.getLogger(__name__)
# Clips may lie in memory that other processes see, which nothing writes to.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
_WARM_CALLS = 3  # CUDA graphs are recorded in the second call and first replayed in the third
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
Layout = torch.memory_format
Timed = Callable[[Layout], float]


@dataclass(frozen=True)
class Runtime:
    """The device that networks run on, and how."""

    device: torch.device
    dtype: torch.dtype = torch.float32  # of products of matrices
    is_fast: bool = False  # answers may differ from the library's own by rounding
    compiles: bool = False
    looks_at_once: int | None = None  # that a picture network takes; None: what is usual on the device

    @classmethod
    def of(cls, device: str, run: RunConfig) -> Runtime:
        """As a config asks; in float32 everything runs as its library does."""
        where = torch.device(device)
        is_fast = run.precision != "float32"
        dtype = fast_dtype(where) if is_fast else torch.float32
        return cls(where, dtype, is_fast, run.compile, run.looks_at_once)

    def autocast(self) -> AbstractContextManager[object]:
        """Products of matrices in `dtype`, everything else as it is."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def at_once(self, cpu: int, gpu: int) -> int:
        """How many looks to take at once, by what is usual for a network."""
        return self.looks_at_once or (cpu if self.device.type == "cpu" else gpu)

    def upload(self, pictures: npt.NDArray[np.uint8]) -> Tensor:
        """Pictures on the device, as bytes; the copy goes on while the host does other things."""
        tensor = torch.from_numpy(pictures)
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)


_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD = -4, -1, -2  # as malloc.h of glibc numbers them


def keep_memory() -> bool:
    """Keep up to 2 GB that the process frees for what it asks for next; whether the C library can.

    Without it each large tensor is new memory, which Linux maps and clears page by page: a third of the time
    of a 3D CNN in float32. It costs memory: several of the largest tensor, as glibc before 2.38 seldom uses an
    aligned piece again before some of its size lie about. For the whole process, so its owner calls this,
    not the library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    values = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 << 20}
    return all(mallopt(name, value) for name, value in values.items())


def fitting(n: int, call: Callable[[int], object]) -> int:
    """The most looks up to `n`, halved and halved again, that `call` has memory for."""
    while True:
        try:
            call(n)
        except torch.OutOfMemoryError:
            if n == 1:
                raise
            torch.cuda.empty_cache()
            n //= 2
            _log.warning("the GPU's memory is full: %d looks at once", n)
        else:
            return n


def choose_layout(net: nn.Module, layouts: Sequence[Layout], seconds: Timed) -> Layout:
    """Lay a network out as it runs fastest, which is not the same for each GPU and each kind of convolution.

    Args:
        seconds: how long it takes with its input in the layout given.
    """
    taken: dict[Layout, float] = {}
    for layout in layouts:
        net.to(memory_format=layout)  # type: ignore[call-overload]
        taken[layout] = seconds(layout)
    best = min(taken, key=lambda layout: taken[layout])
    net.to(memory_format=best)  # type: ignore[call-overload]
    return best


def settle(net: Any, runtime: Runtime, n_looks: int) -> int:
    """Fit a loaded video network to its device, by trying; how many looks it takes at once.

    On a GPU it takes what memory there is, in the faster layout; where the config asks for it, it is compiled
    for what it will be called with.

    Args:
        net: a `VideoNet`, accelerated unless the config asks for float32.
    """

    @torch.inference_mode()
    def look(n: int) -> None:  # at black pictures, as wide as films are
        height = net.sampling.side_px
        shape = (n, net.sampling.n_frames, height, height * 16 // 9, 3)
        net.scores(torch.zeros(shape, dtype=torch.uint8, device=runtime.device)).cpu()

    def seconds(layout: Layout) -> float:
        net.layout = layout
        look(n_looks)  # chooses its kernels
        return min(timeit.repeat(lambda: look(n_looks), number=1, repeat=3))

    if runtime.device.type == "cuda":
        n_looks = fitting(n_looks, look)
        if net.layout == torch.channels_last_3d:
            net.layout = choose_layout(net.net, (net.layout, torch.contiguous_format), seconds)
    if runtime.compiles:
        try_compiled(net, "net", runtime, lambda: look(n_looks))
    return n_looks


def try_compiled(owner: nn.Module, name: str, runtime: Runtime, call: Callable[[], object]) -> None:
    """Compile the network `owner.name` for the one shape that `call` gives it; where that fails, say why and
    leave it as it was."""
    plain, started = getattr(owner, name), time.perf_counter()
    mode = "reduce-overhead" if runtime.device.type == "cuda" else "default"
    setattr(owner, name, torch.compile(plain, dynamic=False, mode=mode))
    try:
        with torch.inference_mode():
            for _ in range(_WARM_CALLS):
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
    dtype = fast_dtype(device) if casts else torch.float32
    fold_norms(net)
    work_in_place(net)
    if device.type == "cpu" and dtype == torch.float32:
        use_products(net)
    net.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return cast_body(net, heads, dtype)


def work_in_place(net: nn.Module) -> None:
    """Cut off and add up where the numbers lie.

    It is right where what goes into them is read by nothing else: always in the networks of pytorchvideo, which
    cut off after a convolution, a norm or a sum, and end each branch in a convolution.
    """
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
        if hasattr(module, "branch_fusion"):
            module.branch_fusion = _add_to_branch  # type: ignore[assignment]


def _add_to_branch(shortcut: Tensor, branch: Tensor) -> Tensor:
    return branch.add_(shortcut)


def use_products(net: nn.Module) -> None:
    """Make 1×1×1 convolutions products of matrices, which they are on channels-last memory."""
    for module in net.modules():
        if not isinstance(module, nn.Conv3d) or module.kernel_size != (1, 1, 1):
            continue
        if module.groups == 1 and not any(module.padding):
            module.__class__ = Pointwise


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
