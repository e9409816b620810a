"""Full-size networks on the meta device against the manifest of the public checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from studio.config import VAEConfig, preset
from studio.model.dit import WanDiT
from studio.model.filling import check_fit
from studio.model.kinds import identify
from studio.model.lora import LoRA, Pair, check_targets
from studio.model.renames import dit_to_diffusers, vae_to_diffusers
from studio.model.sizes import dit_sizes, text_sizes, vae_sizes
from studio.model.sources import Entry, Source
from studio.model.text import TextEncoder, from_official_name
from studio.model.vae import VideoVAE
from tests.parity.fixtures import manifest

LISTING = manifest()
pytestmark = pytest.mark.skipif(
    LISTING is None, reason="no checkpoint_manifest.json; name the fixtures' folder in STUDIO_FIXTURES"
)
DITS = {"Wan2.1-T2V-1.3B_dit": "wan2.1-t2v-1.3b", "Wan2.1-T2V-14B_dit": "wan2.1-t2v-14b"}


def entry(name: str) -> dict:
    assert LISTING is not None
    if name not in LISTING["models"]:
        pytest.skip(f"the manifest lists no {name}")
    return LISTING["models"][name]


def source(name: str, container: str = "", prefix: str = "") -> Source:
    entries = {}
    for key, (shape, _) in entry(name)["tensors"].items():
        path = (*([container] if container else []), f"{prefix}{key}")
        entries[".".join(path)] = Entry(file=Path("x"), key=path, shape=tuple(shape), dtype=torch.bfloat16)
    return Source(path=Path("x"), entries=entries)


def on_meta(make) -> nn.Module:
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize(("name", "model"), DITS.items())
def test_transformers(name, model):
    part = identify(source(name))
    assert part.kind == "dit"
    assert dit_sizes(part.source.shapes) == preset(model).dit
    check_fit(on_meta(lambda: WanDiT(preset(model).dit)), part.source)
    assert len(part.source.entries) == entry(name)["num_tensors"]


@pytest.mark.parametrize(("name", "model"), DITS.items())
def test_transformers_under_diffusers_names(name, model):
    renamed = source(name).renamed(dit_to_diffusers)
    assert len(renamed.entries) == entry(name)["num_tensors"]
    part = identify(renamed)
    assert part.layout == "diffusers"
    check_fit(on_meta(lambda: WanDiT(preset(model).dit)), part.source)


@pytest.mark.parametrize("container", ["generator", "generator_ema", "model"])
@pytest.mark.parametrize("prefix", ["model.", "model._fsdp_wrapped_module."])
def test_generators(container, prefix):
    part = identify(source("Wan2.1-T2V-1.3B_dit", container, prefix))
    assert part.container == container
    check_fit(on_meta(lambda: WanDiT(preset("longlive-1.3b").dit)), part.source)


def test_the_vae_under_both_names():
    official = source("Wan2.1_VAE")
    network = on_meta(lambda: VideoVAE(VAEConfig()))
    assert vae_sizes(official.shapes) == VAEConfig()
    for table in (official, official.renamed(vae_to_diffusers([3, 3, 3, 3]))):
        part = identify(table)
        assert part.kind == "vae"
        check_fit(network, part.source)
    assert len(official.entries) == entry("Wan2.1_VAE")["num_tensors"]


def test_names_that_diffusers_gives_the_vae():
    rename = vae_to_diffusers([3, 3, 3, 3])
    assert rename("decoder.upsamples.4.shortcut.weight") == "decoder.up_blocks.1.resnets.0.conv_shortcut.weight"
    assert rename("decoder.upsamples.7.time_conv.bias") == "decoder.up_blocks.1.upsamplers.0.time_conv.bias"
    assert rename("decoder.upsamples.14.residual.6.bias") == "decoder.up_blocks.3.resnets.2.conv2.bias"
    assert rename("encoder.middle.1.to_qkv.bias") == "encoder.mid_block.attentions.0.to_qkv.bias"
    assert rename("encoder.downsamples.3.shortcut.bias") == "encoder.down_blocks.3.conv_shortcut.bias"
    assert rename("encoder.head.0.gamma") == "encoder.norm_out.gamma"
    assert rename("conv1.weight") == "quant_conv.weight"


def test_the_text_encoder_under_both_names():
    official = source("umt5_xxl_encoder")
    assert text_sizes(official.shapes) == preset("longlive-1.3b").text
    network = on_meta(lambda: TextEncoder(preset("longlive-1.3b").text))
    foreign = official.renamed(lambda name: from_official_name(name).removeprefix("encoder."))
    for table in (official, foreign):
        part = identify(table)
        assert part.kind == "text"
        check_fit(network, part.source.renamed(from_official_name))


def test_the_lora_of_longlive():
    part = identify(source("longlive_generator_lora_rank256", "generator_lora"))
    assert part.kind == "lora"
    assert len(part.source.entries) == entry("longlive_generator_lora_rank256")["num_tensors"]
    layers = {}
    for key, shape in part.source.shapes.items():
        name, half = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
        layers.setdefault(name, {})[half] = torch.empty(shape, device="meta")
    pairs = {name: Pair(down=both["lora_A"], up=both["lora_B"], scale=1.0) for name, both in layers.items()}
    network = on_meta(lambda: WanDiT(preset("longlive-1.3b").dit))
    matched = check_targets(LoRA(name="longlive", layers=pairs), network)
    assert len(matched.layers) == 300
    assert {pair.rank for pair in matched.layers.values()} == {256}
    assert sum(p.down.numel() + p.up.numel() for p in matched.layers.values()) == 349_962_240
