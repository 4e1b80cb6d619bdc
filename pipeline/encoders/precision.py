"""In which numbers a device computes fastest."""

from __future__ import annotations

import torch


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        return (
            torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
        )
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bf16 else torch.float32
