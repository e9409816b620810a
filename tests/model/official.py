"""Tiny networks written in the layouts found in the wild."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.config import DiTConfig, TextConfig, VAEConfig
from studio.model.dit import WanDiT
from studio.model.renames import dit_to_diffusers, vae_to_diffusers
from studio.model.shards import write_shards
from studio.model.text import TextEncoder, to_official_keys
from studio.model.vae import VideoVAE
from tests.model.tiny import WORDS

# One head of the size that every released network has, so that nothing but shapes is needed to open it.
DIT = DiTConfig(dim=128, ffn_dim=48, heads=1, layers=2, text_dim=16, text_len=512, freq_dim=16)
VAE = VAEConfig(dim=8, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,))
TEXT = TextConfig(vocab=8, dim=16, attn_dim=16, ffn_dim=24, heads=2, layers=2)

State = dict[str, Tensor]


def _random(network: nn.Module) -> State:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def dit_state(config: DiTConfig = DIT, seed: int = 0) -> State:
    torch.manual_seed(seed)
    return _random(WanDiT(config))


def vae_state() -> State:
    torch.manual_seed(1)
    return _random(VideoVAE(VAE))


def text_state() -> State:
    """Under the names of `TextEncoder`."""
    torch.manual_seed(2)
    return _random(TextEncoder(TEXT))


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    folder.mkdir(parents=True)
    vocabulary = {word: index for index, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    backend.save(str(folder / "tokenizer.json"))
    told = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    told["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def write_base(folder: Path) -> Path:
    """The parts of an official folder besides the transformer."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(vae_state(), folder / "Wan2.1_VAE.pth")
    torch.save(to_official_keys(text_state()), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    write_tokenizer(folder / "google" / "umt5-xxl")
    return folder


def write_official(folder: Path, *, shards: bool = False, config: dict | None = None) -> Path:
    write_base(folder)
    limit = 150_000 if shards else 10**9
    write_shards(folder, "diffusion_pytorch_model", dit_state(), limit=limit)
    told = {"_class_name": "WanModel", "model_type": "t2v", "dim": DIT.dim, "num_heads": DIT.heads}
    (folder / "config.json").write_text(json.dumps({**told, **(config or {})}))
    return folder


def write_diffusers(folder: Path) -> Path:
    for name in ("transformer", "vae", "text_encoder"):
        (folder / name).mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    dit = {dit_to_diffusers(name): value for name, value in dit_state().items()}
    write_shards(folder / "transformer", "diffusion_pytorch_model", dit, limit=150_000)
    told = {"_class_name": "WanTransformer3DModel", "num_attention_heads": DIT.heads}
    (folder / "transformer" / "config.json").write_text(json.dumps(told))
    rename = vae_to_diffusers([2, 2])
    vae = {rename(name): value for name, value in vae_state().items()}
    save_file(vae, folder / "vae" / "diffusion_pytorch_model.safetensors")
    statistics = {"latents_mean": [0.25] * 16, "latents_std": [1.5] * 16}
    (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan", **statistics}))
    text = {name.removeprefix("encoder."): value for name, value in text_state().items() if "embed_tokens" not in name}
    write_shards(folder / "text_encoder", "model", text, limit=2_000)
    write_tokenizer(folder / "tokenizer")
    return folder


def wrapped(state: State, prefix: str = "model.") -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def linears(layers: int = DIT.layers) -> list[str]:
    """Layers that LongLive adapts."""
    parts = [f"{attention}.{name}" for attention in ("self_attn", "cross_attn") for name in "qkvo"]
    return [f"blocks.{layer}.{part}" for layer in range(layers) for part in (*parts, "ffn.0", "ffn.2")]


def lora_state(rank: int = 3, seed: int = 5, names: list[str] | None = None) -> State:
    """PEFT's state dict of an adapter for `DIT`."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(value.shape) for name, value in dit_state().items()}
    state = {}
    for name in names or linears():
        outputs, inputs = shapes[f"{name}.weight"]
        state[f"base_model.model.{name}.lora_A.weight"] = 0.3 * torch.randn(rank, inputs, generator=generator)
        state[f"base_model.model.{name}.lora_B.weight"] = 0.3 * torch.randn(outputs, rank, generator=generator)
    return state
