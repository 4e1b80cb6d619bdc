"""Names and shapes of the files that publishers offer, from public sources, load without one left over.

`tests/data/keys` holds one list a checkpoint with where it is known from: older releases, conversion
scripts, sizes of the published files. The lists do not come from the libraries that load them here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from torchvision.models import get_model

from pipeline.bundles.families import load_part
from pipeline.bundles.families.captions import RENAMED
from pipeline.bundles.families.hf import load_model
from pipeline.bundles.families.speech import Wav2Vec2
from pipeline.bundles.spec import BundleError
from pipeline.bundles.weights import load_strictly
from tests.pipeline.bundles.families.published import file_part

KEYS = Path(__file__).parents[3] / "data" / "keys"
INTEGERS = ("position_ids", "relative_position_index", "num_batches_tracked", "token_type_ids")


def published(name, keep=bool):
    """Zeros of the published names and shapes; they take no room on disk."""
    lines = (KEYS / f"{name}.txt").read_text().splitlines()
    tensors = {}
    for line in lines:
        key, _, shape = line.partition(" ")
        if not line.startswith("#") and keep(key):
            sides = [int(side) for side in shape.split("x")] if shape else []
            kind = torch.int64 if key.endswith(INTEGERS) else torch.float32
            tensors[key] = (
                torch.zeros(1, dtype=kind).expand(sides) if sides else torch.zeros((), dtype=kind)
            )
    assert len(tensors) > 50
    return tensors


ZOO = {
    "X3D_S": "x3d_s",
    "X3D_L": "x3d_l",
    "SLOW_8x8_R50": "slow_r50",
    "SLOWFAST_8x8_R50": "slowfast_r50",
    "R2PLUS1D_16x4_R50": "r2plus1d_r50",
    "CSN_32x2_R101": "csn_r101",
    "MVIT_B_16x4": "mvit_base_16x4",
}


@pytest.mark.parametrize("name", ZOO)
def test_names_of_the_zoos_files_load(name, tmp_path):
    held = {"epoch": 1, "model_state": published(name), "optimizer_state": {}, "cfg": "as trained"}
    torch.save(held, tmp_path / f"{name}.pyth")
    load_part(file_part("pytorchvideo", tmp_path / f"{name}.pyth", model=ZOO[name]), tmp_path)


@pytest.mark.parametrize(
    "name", ["r2plus1d_18-91a641e6", "s3d-d76dad2f", "mvit_v2_s-ae3be167", "swin3d_t-7615ae03"]
)
def test_names_of_torchvisions_files_load(name, tmp_path):
    tensors = published(name)
    torch.save(tensors, tmp_path / f"{name}.pth")
    model = name.partition("-")[0]
    load_part(file_part("torchvision", tmp_path / f"{name}.pth", model=model), tmp_path)
    old = {k: t for k, t in tensors.items() if not k.endswith("num_batches_tracked")}
    load_strictly(get_model(model, weights=None), old, "without the counts of training batches")


WHISPER_BASE = {
    "d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 8,
    "decoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "vocab_size": 51865,
}  # fmt: skip
# Checkpoint → its config as published, the class that loads it, and the keys that stay where it is shrunk.
HUB = {
    "videomae-base-finetuned-kinetics": (
        lambda: hf.VideoMAEConfig(num_labels=400), hf.AutoModelForVideoClassification,
    ),
    "timesformer-base-finetuned-k400": (
        lambda: hf.TimesformerConfig(num_labels=400), hf.AutoModelForVideoClassification,
    ),
    "vivit-b-16x2-kinetics400": (
        lambda: hf.VivitConfig(num_labels=400), hf.AutoModelForVideoClassification,
    ),
    "ast-finetuned-audioset-10-10-0.4593": (
        lambda: hf.ASTConfig(num_labels=527), hf.AutoModelForAudioClassification,
    ),
    "clip-vit-base-patch32": (hf.CLIPConfig, hf.AutoModel),
    "siglip-base-patch16-224": (hf.SiglipConfig, hf.AutoModel),
    "xclip-base-patch32": (hf.XCLIPConfig, hf.AutoModel),
    "clap-htsat-unfused": (hf.ClapConfig, hf.AutoModel),
    "git-base-coco": (hf.GitConfig, hf.AutoModelForImageTextToText),
    "git-base-vatex": (
        lambda: hf.GitConfig(num_image_with_embedding=6), hf.AutoModelForImageTextToText,
    ),
    "blip-image-captioning-base": (hf.BlipConfig, hf.AutoModelForImageTextToText),
    "whisper-base": (lambda: hf.WhisperConfig(**WHISPER_BASE), hf.AutoModelForSpeechSeq2Seq),
    "wav2vec2-base-960h": (lambda: hf.Wav2Vec2Config(vocab_size=32), hf.AutoModelForCTC),
}  # fmt: skip


def folder_of(tmp_path, config, tensors):
    config.save_pretrained(tmp_path)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    return tmp_path


@pytest.mark.parametrize("name", HUB)
def test_names_of_the_hubs_files_load(name, tmp_path):
    config, auto_class = HUB[name]
    made = config()
    folder = folder_of(tmp_path, made, published(name))
    load_model(auto_class, folder, Wav2Vec2.UNUSED, key_mapping=RENAMED.get(made.model_type))


def of_first_layers(key):
    """Whether a key is of no layer, or of the first two of its stack."""
    return not any(part.isdigit() and int(part) > 1 for part in key.split("."))


def test_names_of_v_jepa_2s_file_load(tmp_path):
    """ViT-L, shrunk to two layers a stack: every name and shape of those, and of what is beside them."""
    config = hf.VJEPA2Config(
        num_hidden_layers=2,
        pred_num_hidden_layers=2,
        num_pooler_layers=2,
        frames_per_clip=16,
        num_labels=174,
    )
    folder = folder_of(tmp_path, config, published("vjepa2-vitl-fpc16-256-ssv2", of_first_layers))
    load_model(hf.AutoModelForVideoClassification, folder)


def test_names_of_blip_2s_file_load(tmp_path):
    """OPT-2.7b and ViT-g, shrunk to two layers a stack."""
    text = {
        "model_type": "opt", "hidden_size": 2560, "ffn_dim": 10240, "num_attention_heads": 32,
        "word_embed_proj_dim": 2560, "num_hidden_layers": 2, "vocab_size": 50304,
    }  # fmt: skip
    config = hf.Blip2Config(
        text_config=text,
        vision_config={"num_hidden_layers": 2},
        qformer_config={"num_hidden_layers": 2},
    )
    folder = folder_of(tmp_path, config, published("blip2-opt-2.7b", of_first_layers))
    load_model(hf.AutoModelForImageTextToText, folder)


def test_gits_old_names_are_refused_where_nobody_maps_them(tmp_path):
    """What the check is for: the library alone would run with six random tensors and say nothing."""
    folder = folder_of(tmp_path, hf.GitConfig(num_image_with_embedding=6), published("git-base-vatex"))
    with pytest.raises(
        BundleError, match=r"missing git\.img_temporal_embedding\.0.*unexpected git\.img_temperal"
    ):
        load_model(hf.AutoModelForImageTextToText, folder)
