"""Checkpoints as the Hugging Face hub lays them out: strict, and answering as `transformers` does.

Shrunk configurations; the names and shapes of the published files are checked in `test_published_keys`.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers.utils import logging

from pipeline.bundles.families import load_part
from pipeline.bundles.spec import BundleError
from tests.pipeline.bundles.families.published import (
    folder_part,
    randomised,
    rewrite_tensors,
)

logging.set_verbosity_error()
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 60,
    "max_position_embeddings": 40,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WORDS = [
    "[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "a", "the", "dog", "runs", "man", "rides", "bike",
    "food", "frying", "pan", "sound", "of", "video",
]  # fmt: skip
NAMES = {"id2label": {0: "run", 1: "fall", 2: "sit"}, "label2id": {"run": 0, "fall": 1, "sit": 2}}
SMALL = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


def saved(folder, model, *others):
    """A folder as `save_pretrained` lays it out."""
    folder.mkdir(exist_ok=True)
    randomised(model).save_pretrained(folder)
    for other in others:
        other.save_pretrained(folder)
    return folder


def word_tokenizer():
    """A tokenizer of whole words, in the file layout of the fast tokenizers."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=40,
        pad_token="[PAD]",
        bos_token="[CLS]",
        cls_token="[CLS]",
        eos_token="[SEP]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )


def pictures(n_clips, n_frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n_clips, n_frames, 48, 64, 3), dtype=torch.uint8, generator=generator)


def sounds(n, seconds=2.0, rate_hz=16_000, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.1, int(seconds * rate_hz)).astype(np.float32) for _ in range(n)]


def videomae(folder):
    config = hf.VideoMAEConfig(**VIT, num_frames=4, **NAMES)
    return saved(folder, hf.VideoMAEForVideoClassification(config), hf.VideoMAEImageProcessor(**SMALL))


def timesformer(folder):
    config = hf.TimesformerConfig(**VIT, num_frames=4, **NAMES)
    return saved(
        folder, hf.TimesformerForVideoClassification(config), hf.VideoMAEImageProcessor(**SMALL)
    )


def vivit(folder):
    config = hf.VivitConfig(**VIT, num_frames=4, tubelet_size=[2, 16, 16], **NAMES)
    return saved(folder, hf.VivitForVideoClassification(config), hf.VivitImageProcessor(**SMALL))


def vjepa2(folder):
    config = hf.VJEPA2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, crop_size=32, frames_per_clip=4,
        pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1, num_pooler_layers=1,
        **NAMES,
    )  # fmt: skip
    processor = hf.VJEPA2VideoProcessor(size={"shortest_edge": 36}, crop_size=32)
    return saved(folder, hf.VJEPA2ForVideoClassification(config), processor)


VIDEO = {"videomae": videomae, "timesformer": timesformer, "vivit": vivit, "vjepa2": vjepa2}


@pytest.mark.parametrize("family", VIDEO)
def test_a_video_transformer_answers_as_its_library_does(family, tmp_path):
    folder = VIDEO[family](tmp_path / family)
    ours = load_part(folder_part("hf_video", folder), tmp_path)
    assert ours.names == ("run", "fall", "sit")
    assert ours.sampling.n_frames == 4
    frames = pictures(2, 4)
    reference = hf.AutoModelForVideoClassification.from_pretrained(folder).eval()
    processor = hf.AutoVideoProcessor.from_pretrained(folder)
    key = "pixel_values_videos" if family == "vjepa2" else "pixel_values"
    videos = [[picture.numpy() for picture in clip] for clip in frames]  # as its own example feeds it
    with torch.inference_mode():
        expected = torch.cat(
            [reference(**{key: processor(v, return_tensors="pt")[key]}).logits for v in videos]
        )
        found = ours(frames)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_ast_answers_as_its_library_does(tmp_path):
    config = hf.ASTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, **NAMES
    )
    model = hf.ASTForAudioClassification(config)
    folder = saved(tmp_path / "ast", model, hf.ASTFeatureExtractor())
    ours = load_part(folder_part("hf_audio", folder), tmp_path)
    heard = [*sounds(1, 2.0), *sounds(1, 4.0, seed=1)]
    extractor = hf.ASTFeatureExtractor.from_pretrained(folder)
    with torch.inference_mode():
        features = extractor(heard, sampling_rate=16_000, return_tensors="pt").input_values
        torch.testing.assert_close(ours(heard), model(features).logits, atol=1e-4, rtol=0)
    assert ours.names == ("run", "fall", "sit")


def test_ast_hears_all_of_a_long_sound_and_next_to_nothing_of_a_short_one(tmp_path):
    config = hf.ASTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, **NAMES
    )
    folder = saved(tmp_path / "ast", hf.ASTForAudioClassification(config), hf.ASTFeatureExtractor())
    ours = load_part(folder_part("hf_audio", folder), tmp_path)
    (long,) = sounds(1, 25.0)
    other = long.copy()
    other[15 * 16_000 :] = sounds(1, 10.0, seed=1)[0]
    with torch.inference_mode():
        assert not torch.allclose(ours([long]), ours([other]))
        for n in (0, 1, 160):
            assert ours([np.zeros(n, np.float32)]).isfinite().all()


def clip(folder):
    config = hf.CLIPConfig(text_config=TEXT, vision_config=VIT, projection_dim=16)
    return saved(folder, hf.CLIPModel(config), hf.CLIPImageProcessor(**SMALL), word_tokenizer())


def siglip(folder):
    config = hf.SiglipConfig(text_config=TEXT | {"max_position_embeddings": 16}, vision_config=VIT)
    processor = hf.SiglipImageProcessor(size={"height": 32, "width": 32})
    return saved(folder, hf.SiglipModel(config), processor, word_tokenizer())


def xclip(folder):
    vision = VIT | {"num_frames": 4, "mit_hidden_size": 16, "mit_intermediate_size": 32}
    vision |= {"mit_num_hidden_layers": 1, "mit_num_attention_heads": 2}
    config = hf.XCLIPConfig(
        text_config=TEXT, vision_config=vision, projection_dim=16, prompt_num_attention_heads=2
    )
    return saved(folder, hf.XCLIPModel(config), hf.VideoMAEImageProcessor(**SMALL), word_tokenizer())


TEXTS = ["a dog runs", "the man rides a bike", "food frying"]


@pytest.mark.parametrize("make", [clip, siglip], ids=["clip", "siglip"])
def test_a_picture_and_text_pair_answers_as_its_library_does(make, tmp_path):
    folder = make(tmp_path / "pair")
    ours = load_part(folder_part(make.__name__, folder, frames=1), tmp_path)
    model = hf.AutoModel.from_pretrained(folder).eval()
    processor = hf.AutoImageProcessor.from_pretrained(folder)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    padding = {"padding": "max_length", "max_length": 16} if make is siglip else {"padding": True}
    frames = pictures(2, 1)
    with torch.inference_mode():
        expected = model(
            **tokenizer(TEXTS, return_tensors="pt", **padding),
            **processor([f[0].numpy() for f in frames], return_tensors="pt"),
        ).logits_per_image
        found = ours.logits(ours.embed(frames), ours.embed_text(TEXTS))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert ours.embed(frames).tokens.shape == (2, ours.dim)


def test_xclip_answers_as_its_library_does(tmp_path):
    folder = xclip(tmp_path / "xclip")
    ours = load_part(folder_part("xclip", folder), tmp_path)
    model = hf.XCLIPModel.from_pretrained(folder).eval()
    processor = hf.AutoImageProcessor.from_pretrained(folder)
    tokens = hf.AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True)
    frames = pictures(2, 4)
    with torch.inference_mode():
        pixels = torch.cat(
            [processor([p.numpy() for p in c], return_tensors="pt").pixel_values for c in frames]
        )
        expected = model(**tokens, pixel_values=pixels).logits_per_video
        found = ours.logits(ours.embed(frames), ours.embed_text(TEXTS))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def clap(folder):
    audio = {
        "window_size": 8, "num_mel_bins": 64, "spec_size": 256, "patch_size": 4, "patch_stride": [4, 4],
        "num_classes": 3, "hidden_size": 64, "projection_dim": 16, "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2], "patch_embeds_hidden_size": 8, "num_hidden_layers": 4,
    }  # fmt: skip
    text = TEXT | {"projection_dim": 16, "max_position_embeddings": 60, "pad_token_id": 0}
    config = hf.ClapConfig(text_config=text, audio_config=audio, projection_dim=16)
    extractor = hf.ClapFeatureExtractor(truncation="rand_trunc")
    return saved(folder, hf.ClapModel(config), extractor, word_tokenizer())


def test_clap_answers_as_its_library_does_and_hears_all_of_a_long_sound(tmp_path):
    folder = clap(tmp_path / "clap")
    ours = load_part(folder_part("clap", folder), tmp_path)
    assert ours.sample_rate_hz == 48_000
    model = hf.ClapModel.from_pretrained(folder).eval()
    extractor = hf.AutoFeatureExtractor.from_pretrained(folder)
    tokens = hf.AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", padding=True)
    heard = sounds(2, 3.0, 48_000)
    with torch.inference_mode():
        features = extractor(heard, sampling_rate=48_000, return_tensors="pt")
        expected = model(**tokens, **features).logits_per_audio
        found = ours.logits(ours.embed(heard), ours.embed_text(TEXTS))
        long = sounds(1, 15.0, 48_000)
        again = [ours.embed(long).tokens for _ in range(2)]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(*again)  # the library's own cut would lie elsewhere each time


def git(folder, n_frames=None):
    text = {k: v for k, v in TEXT.items() if k != "max_position_embeddings"}
    config = hf.GitConfig(
        vision_config=VIT, num_image_with_embedding=n_frames, max_position_embeddings=64, **text
    )
    # Video checkpoints were published with a video's processor.
    image = hf.VideoMAEImageProcessor(**SMALL) if n_frames else hf.CLIPImageProcessor(**SMALL)
    processor = hf.GitProcessor(image, word_tokenizer())
    return saved(folder, hf.GitForCausalLM(config), processor)


def blip(folder):
    text = TEXT | {"encoder_hidden_size": 32, "sep_token_id": 2, "projection_dim": 16}
    config = hf.BlipConfig(text_config=text, vision_config=VIT, projection_dim=16)
    image = hf.BlipImageProcessor(size={"height": 32, "width": 32})
    return saved(
        folder, hf.BlipForConditionalGeneration(config), hf.BlipProcessor(image, word_tokenizer())
    )


@pytest.mark.parametrize(
    ("make", "n_frames"),
    [(git, 1), (lambda f: git(f, 4), 4), (blip, 1)],
    ids=["git", "git-video", "blip"],
)
def test_a_captioner_says_what_its_library_says(make, n_frames, tmp_path):
    folder = make(tmp_path / "captioner")
    ours = load_part(folder_part("hf_caption", folder, max_tokens=6), tmp_path)
    clips = [clip.numpy() for clip in pictures(3, n_frames)]
    model = hf.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = hf.AutoProcessor.from_pretrained(folder)
    expected = []
    for frames in clips:
        pixels = processor(images=list(frames), return_tensors="pt").pixel_values
        pixels = pixels.reshape(1, n_frames, *pixels.shape[-3:]) if n_frames > 1 else pixels
        with torch.inference_mode():
            ids = model.generate(pixel_values=pixels, max_new_tokens=6, do_sample=False)
        expected.append(" ".join(processor.batch_decode(ids, skip_special_tokens=True)[0].split()))
    found = ours.caption(clips)
    for caption, text in zip(found, expected, strict=True):
        if text:
            assert caption.text.rstrip(".").lower() == text.rstrip(".").lower()
            assert 0 < caption.score <= 1
        else:
            assert caption.text is None
            assert caption.problem
    assert any(caption.text for caption in found)


def test_a_captions_score_is_its_own_whoever_it_was_written_with(tmp_path):
    """What fills a short sentence up to its longest neighbour's length is no word of it."""
    ours = load_part(folder_part("hf_caption", git(tmp_path / "git"), max_tokens=12), tmp_path)
    clips = [clip.numpy() for clip in pictures(6, 1)]
    together = ours.caption(clips)
    for clip, caption in zip(clips, together, strict=True):
        (alone,) = ours.caption([clip])
        assert alone.text == caption.text
        assert alone.score == pytest.approx(caption.score, rel=1e-3)


def test_gits_old_name_of_its_temporal_embedding_is_loaded_and_not_made_up(tmp_path):
    """Files of the hub spell it `temperal`; the library of today would leave the tensors random."""
    folder = git(tmp_path / "git", 4)
    rewrite_tensors(
        folder,
        lambda t: {
            k.replace("img_temporal_embedding", "img_temperal_embedding"): v for k, v in t.items()
        },
    )
    from safetensors.torch import load_file

    published = load_file(folder / "model.safetensors")
    assert "git.img_temperal_embedding.3" in published
    ours = load_part(folder_part("hf_caption", folder), tmp_path)
    for i in range(4):
        torch.testing.assert_close(
            ours.net.git.img_temporal_embedding[i].data, published[f"git.img_temperal_embedding.{i}"]
        )


def wav2vec2(folder):
    config = hf.Wav2Vec2Config(
        vocab_size=12, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        conv_dim=[32] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    folder.mkdir()
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFG"]
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(letters)}))
    tokenizer = hf.Wav2Vec2CTCTokenizer(folder / "vocab.json")
    return saved(folder, hf.Wav2Vec2ForCTC(config), hf.Wav2Vec2FeatureExtractor(), tokenizer)


def test_wav2vec2_answers_as_its_library_does_and_times_its_words(tmp_path):
    folder = wav2vec2(tmp_path / "w2v")
    ours = load_part(folder_part("wav2vec2", folder), tmp_path)
    (heard,) = sounds(1, 3.0)
    model = hf.Wav2Vec2ForCTC.from_pretrained(folder).eval()
    values = hf.AutoFeatureExtractor.from_pretrained(folder)(
        heard, sampling_rate=16_000, return_tensors="pt"
    )
    with torch.inference_mode():
        torch.testing.assert_close(ours.net(**values).logits, model(**values).logits, atol=1e-4, rtol=0)
    words = ours.transcribe(heard)
    assert words
    assert all(0 <= w.start_s <= w.end_s <= 3.1 for w in words)
    assert [w.start_s for w in words] == sorted(w.start_s for w in words)


def test_wav2vec2_files_lack_what_only_training_reads(tmp_path):
    folder = wav2vec2(tmp_path / "w2v")
    rewrite_tensors(folder, lambda t: {k: v for k, v in t.items() if "masked_spec_embed" not in k})
    load_part(folder_part("wav2vec2", folder), tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t | {"surprise": torch.zeros(1)}, "unexpected surprise"),
        (lambda t: {k: v for k, v in t.items() if "classifier.weight" not in k}, "missing classifier.weight"),
        (lambda t: t | {"classifier.weight": torch.zeros(9, 32)}, r"classifier.weight has shape \(9, 32\)"),
    ],
    ids=["unexpected", "missing", "shape"],
)  # fmt: skip
def test_a_folder_that_does_not_fit_is_refused_with_the_reason(change, reason, tmp_path):
    folder = videomae(tmp_path / "videomae")
    rewrite_tensors(folder, change)
    with pytest.raises(BundleError, match=reason):
        load_part(folder_part("hf_video", folder), tmp_path)


def test_truncated_and_altered_folders_are_refused(tmp_path):
    folder = videomae(tmp_path / "videomae")
    part = folder_part("hf_video", folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BundleError, match=r"model.safetensors: sha256 is .*, expected"):
        load_part(part, tmp_path)
    with pytest.raises(BundleError, match="not loaded"):
        load_part(folder_part("hf_video", folder), tmp_path)


class Trap:
    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_with_code_in_a_folder_is_refused_and_safetensors_come_first(tmp_path):
    folder = videomae(tmp_path / "videomae")
    torch.save({"classifier.weight": Trap()}, folder / "pytorch_model.bin")
    load_part(folder_part("hf_video", folder), tmp_path)  # the pickle is not even looked at
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"(?i)not loaded: .*(weights_only|weights only)"):
        load_part(folder_part("hf_video", folder), tmp_path)


def test_what_a_bundle_does_not_name_is_not_loaded(tmp_path):
    """The library would take a second set of weights that lies beside the named one."""
    folder = videomae(tmp_path / "videomae")
    from safetensors.torch import load_file, save_file

    named = load_file(folder / "model.safetensors")
    torch.save(named, folder / "pytorch_model.bin")
    save_file(
        {k: t + 1 for k, t in named.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    part = folder_part("hf_video", folder)
    files = {name: sum_ for name, sum_ in part.checkpoint.files.items() if name != "model.safetensors"}
    part = part.model_copy(update={"checkpoint": part.checkpoint.model_copy(update={"files": files})})
    ours = load_part(part, tmp_path)
    torch.testing.assert_close(ours.net.classifier.weight, named["classifier.weight"])


def test_half_precision_files_are_run_in_float32(tmp_path):
    folder = videomae(tmp_path / "videomae")
    rewrite_tensors(folder, lambda t: {k: v.half() for k, v in t.items()})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    ours = load_part(folder_part("hf_video", folder), tmp_path)
    with torch.inference_mode():
        assert ours(pictures(1, 4)).dtype == torch.float32


def test_code_of_a_repository_is_never_run(tmp_path):
    folder = videomae(tmp_path / "videomae")
    config = json.loads((folder / "config.json").read_text())
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass M: pass\n")
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoModelForVideoClassification": "evil.M", "AutoConfig": "evil.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError):
        load_part(folder_part("hf_video", folder), tmp_path)
    assert not marker.exists()


def blip2(folder):
    text = {
        "model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 2, "num_hidden_layers": 2,
        "word_embed_proj_dim": 32, "vocab_size": 60, "max_position_embeddings": 80, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    qformer = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    qformer |= {"encoder_hidden_size": 32, "vocab_size": 60}
    config = hf.Blip2Config(
        vision_config=VIT,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=4,
        image_token_index=17,
    )
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    config.image_token_index = tokenizer.convert_tokens_to_ids("<image>")
    image = hf.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = hf.Blip2Processor(image, tokenizer, num_query_tokens=4)
    return saved(folder, hf.Blip2ForConditionalGeneration(config), processor)


def test_blip_2_says_what_its_library_says(tmp_path):
    folder = blip2(tmp_path / "blip2")
    ours = load_part(folder_part("hf_caption", folder, max_tokens=6, prompt=""), tmp_path)
    clips = [clip.numpy() for clip in pictures(3, 1)]
    model = hf.Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    processor = hf.Blip2Processor.from_pretrained(folder)
    for frames, caption in zip(clips, ours.caption(clips), strict=True):
        inputs = processor(images=frames[0], text="", return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        text = processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
        assert (caption.text or "").rstrip(".").lower() == " ".join(text.split()).rstrip(".").lower()


def whisper(folder):
    """A Whisper of two layers with the special tokens of the published ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        "<|en|>",
        "<|de|>",
        "<|translate|>",
        "<|transcribe|>",
    ]
    special += ["<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>"]
    special += [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
    ids = {token: i for i, token in enumerate([*letters, *special])}
    tokenizer = Tokenizer(models.BPE({c: ids[c] for c in letters}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special[:10]])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in special[10:]])
    fast = hf.WhisperTokenizerFast(tokenizer_object=tokenizer)
    end = ids["<|endoftext|>"]
    config = hf.WhisperConfig(
        vocab_size=len(ids), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, eos_token_id=end, bos_token_id=end,
        pad_token_id=end, decoder_start_token_id=ids["<|startoftranscript|>"], suppress_tokens=[],
        begin_suppress_tokens=[], max_target_positions=64,
    )  # fmt: skip
    model = hf.WhisperForConditionalGeneration(config)
    model.generation_config = hf.GenerationConfig(
        decoder_start_token_id=ids["<|startoftranscript|>"], eos_token_id=end, pad_token_id=end,
        no_timestamps_token_id=ids["<|notimestamps|>"], is_multilingual=True, max_length=40,
        lang_to_id={"<|en|>": ids["<|en|>"], "<|de|>": ids["<|de|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        alignment_heads=[[0, 0], [1, 1]], max_initial_timestamp_index=50, return_timestamps=False,
    )  # fmt: skip
    return saved(folder, model, hf.WhisperFeatureExtractor(), fast)


def test_whisper_answers_as_its_library_does_and_times_its_words(tmp_path):
    folder = whisper(tmp_path / "whisper")
    ours = load_part(folder_part("whisper", folder, language="en"), tmp_path)
    (heard,) = sounds(1, 3.0)
    model = hf.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    features = hf.AutoFeatureExtractor.from_pretrained(folder)(
        heard, sampling_rate=16_000, return_tensors="pt"
    ).input_features
    start = torch.full((1, 1), model.config.decoder_start_token_id)
    with torch.inference_mode():
        torch.testing.assert_close(
            ours.net(input_features=features, decoder_input_ids=start).logits,
            model(input_features=features, decoder_input_ids=start).logits,
            atol=1e-4,
            rtol=0,
        )
    words = ours.transcribe(heard)
    assert words
    assert all(0 <= w.start_s <= w.end_s <= 30.0 for w in words)
