"""Memory by accounting: exact where it says so, and modes that fit their cards."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from studio.cli import doctor
from studio.config import PRESETS, preset
from studio.model.dit import WanDiT
from studio.model.memory import MODES, dit_parameters, mode_for, peak_bytes, text_parameters, vae_parameters
from studio.model.quantize import quantized, stored_bytes
from studio.model.text import TextEncoder
from studio.model.vae import VideoVAE
from studio.sampler import make_cache
from tests.model.tiny import tiny_models
from tests.parity.fixtures import manifest

GIB = 2**30


def count(make) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make().parameters())


@pytest.mark.parametrize("name", ["miniature", "longlive-1.3b", "wan2.1-t2v-14b"])
def test_parameters_are_counted_exactly(name):
    config = preset(name)
    assert dit_parameters(config.dit) == count(lambda: WanDiT(config.dit))
    assert vae_parameters(config.vae) == count(lambda: VideoVAE(config.vae))
    assert text_parameters(config.text) == count(lambda: TextEncoder(config.text))


def test_parameters_are_those_of_the_manifest():
    listing = manifest()
    if listing is None:
        pytest.skip("no checkpoint_manifest.json; name the fixtures' folder in STUDIO_FIXTURES")
    told = {name: entry["parameters"] for name, entry in listing["models"].items()}
    config = preset("longlive-1.3b")
    assert dit_parameters(config.dit) == told["Wan2.1-T2V-1.3B_dit"]
    assert dit_parameters(preset("wan2.1-t2v-14b").dit) == told["Wan2.1-T2V-14B_dit"]
    assert vae_parameters(config.vae) == told["Wan2.1_VAE"]
    assert text_parameters(config.text) == told["umt5_xxl_encoder"]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_weights_of_a_mode_are_those_that_loading_makes(mode):
    config = preset("longlive-1.3b")
    parts = peak_bytes(config, mode)
    with torch.device("meta"):
        dit = quantized(WanDiT(config.dit), mode.quantization)
        text = quantized(TextEncoder(config.text), "int8" if "text_quantization" in mode.options() else None)
    assert parts["transformer"] == stored_bytes(dit)
    assert parts["text encoder"] == (0 if mode.options().get("text_device") == "cpu" else stored_bytes(text))


def test_the_cache_and_the_stream_are_those_that_are_allocated():
    models = tiny_models()
    parts = peak_bytes(models.config, MODES[0])
    cache = make_cache(models.config, dtype=torch.bfloat16, device="cpu")
    prompts = 2 * models.config.dit.layers * models.config.dit.text_len * models.config.dit.dim * 2
    keys = 2 * models.config.dit.layers * cache.capacity * models.config.dit.dim * 2
    side = models.config.height // models.config.vae.spatial_factor // models.config.dit.patch[1]
    assert parts["K/V cache"] == prompts + keys * side * side
    stream = models.vae.stream()
    for _ in range(2):
        models.vae.decode(torch.zeros(1, 3, 4, 8, 8), stream)
    assert parts["VAE stream"] == stream.memory_bytes // 2


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_each_mode_fits_its_cards(mode):
    assert peak_bytes(preset("longlive-1.3b"), mode)["peak"] <= 0.95 * mode.card * GIB


def test_a_mode_cuts_the_window_only():
    config = preset("longlive-1.3b")
    assert MODES[0].applied(config) is config
    cut = MODES[-1].applied(config)
    assert cut.cache.window == 3
    assert dataclasses.replace(cut, cache=config.cache) == config
    assert MODES[-1].applied(preset("self-forcing-1.3b")) is preset("self-forcing-1.3b")


def test_a_card_gets_the_most_generous_mode_that_fits():
    config = preset("longlive-1.3b")
    chosen = [mode_for(config, size * GIB) for size in (80, 24, 12, 8)]
    assert [mode.card for mode in chosen if mode] == [80, 24, 12, 8]
    assert mode_for(config, 4 * GIB) is None
    assert mode_for(preset("wan2.1-t2v-14b"), 12 * GIB) is None
    assert mode_for(preset("miniature"), GIB) is not None


def test_peaks_fall_from_mode_to_mode():
    for config in PRESETS.values():
        peaks = [peak_bytes(config, mode)["peak"] for mode in MODES]
        assert peaks == sorted(peaks, reverse=True)


def test_a_video_that_keeps_every_frame_takes_more():
    config = preset("self-forcing-1.3b")
    short, long = (peak_bytes(config, MODES[0], frames=frames)["K/V cache"] for frames in (21, 42))
    assert 1.9 * short < long < 2 * short
    assert peak_bytes(config, MODES[0])["K/V cache"] == short


def test_options_are_words_that_loading_knows():
    import inspect

    from studio.model.weights import load

    known = inspect.signature(load).parameters
    assert all(option in known for mode in MODES for option in mode.options())
    assert dataclasses.replace(MODES[0], text="cpu").options() == {"text_device": "cpu"}


@pytest.mark.parametrize(
    ("size", "named"), [(80, "80 GB"), (24, "24 GB"), (12, "12 GB"), (8, "8 GB"), (4, None), (0, None)]
)
def test_doctor_names_the_mode_for_the_card(monkeypatch, size, named):
    monkeypatch.setattr(doctor, "_card_bytes", lambda: size * GIB or None)
    found = {finding.name: finding for finding in doctor.examine() if finding.group == "memory modes"}
    assert {mode.name for mode in MODES} <= set(found)
    assert [name for name, finding in found.items() if "for this card" in finding.detail] == ([named] if named else [])
    assert ("this card" in found) == (size == 4)
    assert all(finding.state != "missing" for finding in found.values())
