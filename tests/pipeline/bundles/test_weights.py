"""Loading is strict, and what is loaded computes what its source computes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.bundles.spec import BundleError, WeightFile, bundle_names, find_bundle
from pipeline.bundles.weights import (
    checked_bytes,
    load_strictly,
    read_tensors,
    read_yamnet,
)
from pipeline.encoders.audio import YamNet
from pipeline.encoders.frames import rename_efficientnet_lite
from pipeline.media.audio import read_audio, resample
from pipeline.media.probe import probe
from tests.media_factory import flash_and_click

SPEC = find_bundle("embedded")


def test_the_embedded_bundle_ships_and_its_digest_stands_for_its_content():
    assert "embedded" in bundle_names()
    assert SPEC.digest() == find_bundle("embedded").digest()
    changed = SPEC.model_copy(update={"version": SPEC.version + 1})
    assert changed.digest() != SPEC.digest()


def test_an_unknown_bundle_names_the_known_ones():
    with pytest.raises(BundleError, match=r"'nosuch' is unknown.*embedded"):
        find_bundle("nosuch")


def test_altered_weights_are_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"other")
    weights = WeightFile(file="w.safetensors", sha256="0" * 64)
    with pytest.raises(BundleError, match=r"w.safetensors: sha256 is .* expected 000"):
        checked_bytes(weights, tmp_path)


def test_absent_packages_and_files_say_what_to_install(tmp_path):
    absent = WeightFile(file="x.bin", sha256="0", package="nosuchpackage", install="no-such-package")
    with pytest.raises(BundleError, match=r"package no-such-package.*reeltable\[embedded\]"):
        absent.path(tmp_path)
    with pytest.raises(BundleError, match="no such weight file"):
        WeightFile(file="x.bin", sha256="0").path(tmp_path)


def test_every_misfit_is_listed():
    module = torch.nn.Linear(2, 2)
    with pytest.raises(BundleError) as error:
        load_strictly(module, {"weight": torch.zeros(3, 2), "extra": torch.zeros(1)}, "here")
    said = str(error.value)
    assert "here" in said
    for part in ("missing bias", "unexpected extra", "weight has shape (3, 2), expected (2, 2)"):
        assert part in said


def test_a_pickle_with_code_in_it_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("run",))

    buffer = io.BytesIO()
    torch.save({"w": Trap()}, buffer)
    (tmp_path / "w.pth").write_bytes(buffer.getvalue())
    import hashlib

    weights = WeightFile(file="w.pth", sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        read_tensors(weights, tmp_path)


def test_an_unknown_checkpoint_key_is_an_error():
    with pytest.raises(KeyError, match="_surprise"):
        rename_efficientnet_lite({"_surprise.weight": torch.zeros(1)})


@pytest.fixture(scope="module")
def onnx_graph():
    """The graph that YAMNet's weights come from, as onnxruntime reads it, with external data inside."""
    import onnx

    content = checked_bytes(SPEC.audio.weights, SPEC.directory)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name.rsplit("/", 1)[-1]: archive.read(name) for name in archive.namelist()}
    model = onnx.load_model_from_string(files["model.onnx"])
    for tensor in model.graph.initializer:
        where = {e.key: e.value for e in tensor.external_data}
        if where:
            start = int(where["offset"])
            tensor.raw_data = files["model.data"][start : start + int(where["length"])]
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
    return model


def sound_patches(tmp_path):
    """Log-mel patches of clicks and of noise that swells, as a sensor would hear them."""
    path = flash_and_click(tmp_path / "a.wav", seconds=6, vcodec=None, acodec="pcm_s16le")
    from fractions import Fraction

    clicks = resample(
        read_audio(str(path), probe(str(path)), Fraction(0), Fraction(99)), 16_000
    ).samples
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 96_000) * np.linspace(0.001, 0.3, 96_000)
    net = YamNet()
    return net.patches(torch.from_numpy(np.stack([clicks, noise]).astype(np.float32))).flatten(0, 1)


def loaded_yamnet():
    net = YamNet()
    load_strictly(net, read_yamnet(SPEC.audio.weights, SPEC.directory), "embedded")
    return net


def test_yamnet_equals_the_graph_with_its_rounding_taken_out(onnx_graph, tmp_path):
    """Without the quantise and dequantise nodes the graph is the float network: ours to 1e-3."""
    import copy

    import onnx
    import onnxruntime

    model = copy.deepcopy(onnx_graph)
    alias = {}
    for node in list(model.graph.node):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
            model.graph.node.remove(node)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            while name in alias:
                name = alias[name]
            node.input[i] = name
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    del model.graph.output[:]
    scores = onnx.helper.make_tensor_value_info(
        "class_scores_updated", onnx.TensorProto.FLOAT, [1, 521]
    )
    model.graph.output.append(scores)
    del model.graph.value_info[:]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    patches = sound_patches(tmp_path)
    with torch.inference_mode():
        ours = loaded_yamnet().classify(patches)[0].numpy()
    name = session.get_inputs()[0].name
    theirs = np.concatenate([session.run(None, {name: p[None, None].numpy()})[0] for p in patches])
    np.testing.assert_allclose(ours, theirs, atol=2e-3, rtol=1e-3)


def has_vnni():
    """Whether onnxruntime's int8 kernels add up in 32 bits; else they saturate at 16: another answer."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return bool({"avx512_vnni", "avx_vnni"} & set(flags))


@pytest.mark.skipif(not has_vnni(), reason="no VNNI here: int8 kernels saturate")
def test_yamnet_agrees_with_the_quantised_graph_to_its_step(onnx_graph, tmp_path):
    """On the same patches: the median difference is below one int8 step of the output."""
    import onnxruntime

    values = {t.name: t for t in onnx_graph.graph.initializer}

    def scalar(name):
        import onnx

        return float(onnx.numpy_helper.to_array(values[name]))

    step, zero = scalar("audio_scale"), scalar("audio_zero_point")
    session = onnxruntime.InferenceSession(onnx_graph.SerializeToString())
    patches = sound_patches(tmp_path).numpy()
    rounded = np.clip(np.round(patches / step + zero), 0, 255).astype(np.uint8)
    theirs = np.concatenate([session.run(None, {"audio": p[None, None]})[0] for p in rounded])
    out_step, out_zero = scalar("class_scores_scale"), scalar("class_scores_zero_point")
    theirs = (theirs.astype(np.float32) - out_zero) * out_step
    same = torch.from_numpy((rounded.astype(np.float32) - zero) * step)
    with torch.inference_mode():
        ours = loaded_yamnet().classify(same)[0].numpy()
    in_range = (ours > -out_zero * out_step) & (ours < (255 - out_zero) * out_step)
    assert np.median(np.abs(ours - theirs)[in_range]) < out_step


def test_safetensors_are_read(tmp_path):
    import hashlib

    save_file({"w": torch.arange(3.0)}, tmp_path / "w.safetensors")
    digest = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    tensors = read_tensors(WeightFile(file="w.safetensors", sha256=digest), tmp_path)
    assert tensors["w"].tolist() == [0.0, 1.0, 2.0]
