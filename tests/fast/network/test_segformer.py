"""The network, compared with transformers' implementation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference import run_python
from safetensors.torch import load_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from ray_segformer.network import NetworkError, SegformerNetwork

# The published sizes: depths, channels of the stages, channels of the decoder.
SIZES = {
    "B0": ([2, 2, 2, 2], [32, 64, 160, 256], 256),
    "B1": ([2, 2, 2, 2], [64, 128, 320, 512], 256),
    "B2": ([3, 4, 6, 3], [64, 128, 320, 512], 768),
    "B3": ([3, 4, 18, 3], [64, 128, 320, 512], 768),
    "B4": ([3, 8, 27, 3], [64, 128, 320, 512], 768),
    "B5": ([3, 6, 40, 3], [64, 128, 320, 512], 768),
}
SMALL = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 40, 64], "decoder_hidden_size": 24}


def random_model(num_labels: int = 11, **settings) -> SegformerForSemanticSegmentation:
    """Return a random model in which every tensor affects the result.

    In transformers' own initialisation attention and biases are near zero, so errors there would go unnoticed.
    """
    config = SegformerConfig(id2label={i: f"class {i}" for i in range(num_labels)}, **settings)
    with torch.device("meta"):  # saves transformers' own initialisation, which is slow
        model = SegformerForSemanticSegmentation(config).eval()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(float(name.endswith("weight")) + 0.3 * noise)
        norm = model.decode_head.batch_norm
        norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator))
        norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) * 3 + 0.2)
        norm.num_batches_tracked.zero_()
    return model


def random_pixels(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def network_of(model: SegformerForSemanticSegmentation, directory, **options) -> SegformerNetwork:
    model.save_pretrained(directory)
    return SegformerNetwork.from_pretrained(directory, **options)


def assert_same_logits(network: SegformerNetwork, model: SegformerForSemanticSegmentation, pixels: torch.Tensor):
    with torch.no_grad():
        expected = model(pixel_values=pixels).logits.permute(0, 2, 3, 1)
        logits = network(pixels)
    assert logits.shape == expected.shape
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert expected.std() > 0.05 * expected.abs().max()  # else the comparison would mean nothing


@pytest.fixture(params=[False, True], ids=["products", "convolutions"])
def by_convolution(request) -> bool:
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_all_published_sizes(size, tmp_path):
    depths, hidden_sizes, decoder_hidden_size = SIZES[size]
    model = random_model(150, depths=depths, hidden_sizes=hidden_sizes, decoder_hidden_size=decoder_hidden_size)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()  # pytest keeps the folder, and this file may have 300 MB
    for by_convolution in (False, True):
        network = SegformerNetwork(config, weights, by_convolution=by_convolution)
        assert_same_logits(network, model, random_pixels(1, 3, 64, 96))


@pytest.mark.parametrize(
    "settings",
    [
        {"sr_ratios": [1, 1, 1, 1]},
        {"sr_ratios": [4, 4, 2, 2], "num_attention_heads": [2, 4, 5, 4]},
        {"num_attention_heads": [3, 5, 7, 6]},
        {"mlp_ratios": [2, 3, 1, 2]},
        {"depths": [2, 1, 3, 1], "decoder_hidden_size": 50},
        {"patch_sizes": [5, 3, 5, 3], "strides": [2, 2, 2, 2]},
        {"num_labels": 1},
        {"num_labels": 300},
        {"hidden_act": "relu"},
        {"hidden_act": "silu"},
        {"hidden_act": "gelu_new"},
        {
            "num_encoder_blocks": 3,
            "depths": [1, 1, 1],
            "hidden_sizes": [16, 32, 40],
            "sr_ratios": [4, 2, 1],
            "patch_sizes": [7, 3, 3],
            "strides": [4, 2, 2],
            "num_attention_heads": [1, 2, 5],
            "mlp_ratios": [4, 4, 4],
        },
    ],
    ids=lambda settings: " ".join(map(str, next(iter(settings.items())))),
)
def test_custom_configurations(settings, tmp_path, by_convolution):
    model = random_model(**{**SMALL, **settings})
    network = network_of(model, tmp_path, by_convolution=by_convolution)
    assert_same_logits(network, model, random_pixels(1, 3, 64, 96))


@pytest.mark.parametrize("size", [(70, 101), (33, 64), (129, 255), (32, 32)])
@pytest.mark.parametrize("rows", [1, 3])
def test_sizes_that_do_not_divide_and_batches(size, rows, tmp_path, by_convolution):
    model = random_model(**SMALL)
    network = network_of(model, tmp_path, by_convolution=by_convolution)
    assert_same_logits(network, model, random_pixels(rows, 3, *size))


@pytest.mark.parametrize("rows", [1, 3])
def test_torchs_attention_beside_convolutions(rows, tmp_path):
    model = random_model(**SMALL)
    pixels = random_pixels(rows, 3, 70, 101)
    networks = [network_of(model, tmp_path, by_convolution=True, fused_attention=fused) for fused in (True, False)]
    for network in networks:
        assert_same_logits(network, model, pixels)
    assert torch.equal(*(network(pixels) for network in networks)) == (rows > 1)  # no convolutions for several images


def test_queries_in_several_parts(tmp_path):
    """The image is so large that its attention scores are computed in parts; the last part is smaller."""
    model = random_model(**{**SMALL, "sr_ratios": [4, 2, 1, 1]})
    network = network_of(model, tmp_path, by_convolution=True)
    assert_same_logits(network, model, random_pixels(1, 3, 312, 440))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_decoder_in_strips(threads, tmp_path, monkeypatch):
    """Of five rows each, on a map of 33 x 26; the last one has three."""
    monkeypatch.setattr("ray_segformer.network._decoder._STRIP", 5 * 26 * SMALL["decoder_hidden_size"])
    monkeypatch.setattr("ray_segformer.network._decoder.WORTH_THREADS", 0)
    model = random_model(**SMALL)
    network = network_of(model, tmp_path, by_convolution=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same_logits(network, model, random_pixels(1, 3, 129, 101))
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.slow
def test_the_decoders_sum_is_never_whole(tmp_path):
    """For an image of 768 x 768 it would have 192 * 192 * 512 numbers, 75 MB, and torch's upsampled maps as many."""
    settings = {**SMALL, "hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1, 1, 1, 1], "decoder_hidden_size": 512}
    random_model(**settings).save_pretrained(tmp_path)
    growth = run_python(
        """
import re, sys, torch
from ray_segformer.network import SegformerNetwork
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
network = SegformerNetwork.from_pretrained(sys.argv[1], by_convolution=True)
torch.set_num_threads(1)
network(torch.zeros(1, 3, 64, 64))
before = peak()
network(torch.zeros(1, 3, 768, 768))
print(peak() - before)
""",
        tmp_path,
    )
    assert float(growth) < 75  # MB


def test_a_last_stage_that_is_not_reshaped(tmp_path, by_convolution):
    # Transformers can run such a model only if the last map is square and has as many tokens as channels.
    model = random_model(**SMALL, reshape_last_stage=False)
    network = network_of(model, tmp_path, by_convolution=by_convolution)
    assert_same_logits(network, model, random_pixels(1, 3, 256, 256))


@pytest.mark.slow
def test_trained_weights_on_real_images(trained, real_sample, by_convolution):
    network = SegformerNetwork.from_pretrained(trained.directory, by_convolution=by_convolution)
    for path in real_sample[::3]:
        image = Image.open(path).convert("RGB")
        assert_same_logits(network, trained.model, trained.processor(image, return_tensors="pt").pixel_values)


def test_neither_the_input_nor_the_weights_are_written_into(trained):
    weights = load_file(trained.directory / "model.safetensors")
    before = {name: tensor.clone() for name, tensor in weights.items()}
    config = json.loads((trained.directory / "config.json").read_text())
    pixels = random_pixels(1, 3, 64, 64)
    own = pixels.clone()
    network = SegformerNetwork(config, weights, by_convolution=True)
    first, second = network(pixels), network(pixels)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    assert torch.equal(pixels, own)
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_the_encoders_weights_are_not_copied(trained):
    weights = load_file(trained.directory / "model.safetensors")
    config = json.loads((trained.directory / "config.json").read_text())
    network = SegformerNetwork(config, weights)
    shared = {tensor.data_ptr() for tensor in weights.values()}
    own = sum(p.numel() for p in network.parameters() if p.data_ptr() not in shared)
    assert own < 0.1 * sum(tensor.numel() for tensor in weights.values())  # only the folded decoder is new
    assert network.blocks[0][0].mlp.dense1.weight.data_ptr() in shared


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_and_its_logits_are_float32(dtype, trained, real_images):
    image = Image.open(real_images[0]).convert("RGB")
    pixels = trained.processor(image, return_tensors="pt").pixel_values
    exact = SegformerNetwork.from_pretrained(trained.directory)(pixels)
    network = SegformerNetwork.from_pretrained(trained.directory, dtype=dtype)
    logits = network(pixels)
    assert logits.dtype == torch.float32
    assert network.classifier.weight.dtype == torch.float32
    assert 0 < (logits - exact).abs().max() < 0.03 * exact.abs().max()
    assert (logits.argmax(-1) == exact.argmax(-1)).float().mean() > 0.98


def test_a_configuration_of_the_hub(shared, tmp_path):
    config = json.loads((shared / "models/segformer-b0-ade-config/config.json").read_text())
    model = random_model(150, **{key: config[key] for key in ("depths", "hidden_sizes", "decoder_hidden_size")})
    model.save_pretrained(tmp_path)
    network = SegformerNetwork(config, load_file(tmp_path / "model.safetensors"))
    assert_same_logits(network, model, random_pixels(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "tangent"}, r"hidden_act is one of \[.*'gelu'.*\], not 'tangent'"),
        ({"num_attention_heads": [0, 2, 5, 8]}, r"config\.json describes no SegFormer that can be built"),
        ({"num_attention_heads": [3, 2, 5, 8]}, r"key\.bias has the shape \(16,\), expected \(15,\)"),
        ({"depths": [1, 1]}, r"config\.json describes no SegFormer that can be built"),
        ({"hidden_sizes": [16, 32, 40, 80]}, r"has the shape \(.*\), expected \(.*80.*\)"),
        ({"depths": [1, 1, 1, 2]}, r"segformer\.encoder\.block\.3\.1\..* is missing"),
        ({"decoder_hidden_size": 32}, r"decode_head\.batch_norm\.bias has the shape \(24,\), expected \(32,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message, tmp_path):
    random_model(**SMALL).save_pretrained(tmp_path)
    config = {**json.loads((tmp_path / "config.json").read_text()), **change}
    with pytest.raises(NetworkError, match=message):
        SegformerNetwork(config, load_file(tmp_path / "model.safetensors"))


@pytest.mark.slow
def test_it_runs_without_ray_and_transformers(tmp_path, trained):
    script = """
import sys
for name in ("ray", "transformers", "pandas", "pyarrow"):
    sys.modules[name] = None
import numpy as np, torch
from ray_segformer.network import SegformerNetwork, upsampled_argmax
network = SegformerNetwork.from_pretrained(sys.argv[1])
logits = network(torch.linspace(-2, 2, 3 * 64 * 96).reshape(1, 3, 64, 96))
np.save(sys.argv[2], upsampled_argmax(logits[0], (50, 70)))
"""
    run_python(script, trained.directory, tmp_path / "ids.npy")
    with torch.no_grad():
        logits = trained.model(torch.linspace(-2, 2, 3 * 64 * 96).reshape(1, 3, 64, 96)).logits
    resized = torch.nn.functional.interpolate(logits, size=(50, 70), mode="bilinear", align_corners=False)
    assert (np.load(tmp_path / "ids.npy") == resized[0].argmax(0).numpy()).mean() > 0.999
