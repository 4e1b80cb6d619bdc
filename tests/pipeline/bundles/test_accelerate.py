"""What `pipeline.bundles.accelerate` does to a network, and what it tries before it decides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.bundles.accelerate import (
    Runtime,
    accelerate_cnn,
    choose_layout,
    fitting,
    keep_memory,
    use_products,
    work_in_place,
)
from pipeline.bundles.verify import turned
from pipeline.config import RunConfig
from tests.pipeline.bundles.families.published import randomised
from tests.pipeline.bundles.families.test_clip_networks import hub_model

CPU = torch.device("cpu")


def test_products_and_work_in_place_change_nothing_but_rounding():
    from pytorchvideo.models.resnet import create_bottleneck_block, create_res_block

    block = randomised(
        create_res_block(
            dim_in=8, dim_inner=4, dim_out=16, bottleneck=create_bottleneck_block, conv_b_num_groups=4
        )
    )
    x = torch.randn(2, 8, 4, 12, 12)
    before = x.clone()
    with torch.inference_mode():
        expected = block(x)
        work_in_place(block)
        use_products(block)
        block.to(memory_format=torch.channels_last_3d)
        found = block(x.to(memory_format=torch.channels_last_3d))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(x, before)  # what a caller gave is not written over


def test_where_nothing_is_cast_every_point_convolution_is_a_product():
    net = randomised(hub_model("x3d_xs"))
    assert accelerate_cnn(net, ("blocks.5",), CPU, casts=False) == torch.float32
    points = [type(m).__name__ for m in net.modules() if getattr(m, "kernel_size", None) == (1, 1, 1)]
    assert set(points) == {"Pointwise"}


def test_without_bfloat16_a_run_is_hurried_all_the_same_unless_it_asks_for_float32(monkeypatch):
    monkeypatch.setattr("pipeline.bundles.accelerate.fast_dtype", lambda _: torch.float32)
    assert Runtime.of("cpu", RunConfig()).is_fast
    assert not Runtime.of("cpu", RunConfig(precision="float32")).is_fast


def test_a_full_gpu_takes_half_as_many_looks_until_they_fit():
    tried = []

    def look(n):
        tried.append(n)
        if n > 5:
            raise torch.OutOfMemoryError("full")

    assert fitting(32, look) == 4
    assert tried == [32, 16, 8, 4]
    with pytest.raises(torch.OutOfMemoryError):
        fitting(4, lambda _: look(9))


def test_the_layout_that_took_least_time_stays():
    net = nn.Conv3d(4, 8, 3)
    layouts = (torch.channels_last_3d, torch.contiguous_format)
    taken = {torch.channels_last_3d: 0.2, torch.contiguous_format: 0.1}
    assert choose_layout(net, layouts, taken.__getitem__) == torch.contiguous_format
    assert net.weight.is_contiguous()
    taken[torch.contiguous_format] = 0.3
    assert choose_layout(net, layouts, taken.__getitem__) == torch.channels_last_3d
    assert net.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_memory_that_was_freed_is_used_again():
    if not keep_memory():
        pytest.skip("this C library cannot be told")
    import resource

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    for _ in range(20):  # until the allocator has pieces of that size
        faults()
    assert faults() < 100  # of 9,766 pages


def test_a_class_that_was_sure_must_stay_first():
    exact = torch.tensor([[0.5, 0.3, 0.2], [0.404, 0.4, 0.196], [0.9, 0.1, 0.0]])
    fast = torch.tensor([[0.3, 0.5, 0.2], [0.4, 0.404, 0.196], [0.9, 0.1, 0.0]])
    assert turned(exact, fast).tolist() == [True, False, False]
