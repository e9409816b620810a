"""Builds the project's transformer from a fixture's model description."""

from __future__ import annotations

from torch import Tensor

from studio.config import DiTConfig
from studio.model.dit import WanDiT
from tests.parity.fixtures import weights


def dit_config(model: dict) -> DiTConfig:
    return DiTConfig(
        dim=model["dim"],
        ffn_dim=model["ffn_dim"],
        heads=model["num_heads"],
        layers=model["num_layers"],
        in_channels=model["in_dim"],
        out_channels=model["out_dim"],
        patch=tuple(model["patch_size"]),
        text_dim=model["text_dim"],
        text_len=model["text_len"],
        freq_dim=model["freq_dim"],
        eps=model["eps"],
        qk_norm=model["qk_norm"],
        cross_attn_norm=model["cross_attn_norm"],
    )


def dit_of(info: dict, tensors: dict[str, Tensor]) -> WanDiT:
    dit = WanDiT(dit_config(info["model"]))
    dit.load_state_dict(weights(tensors), strict=True)
    return dit.eval().requires_grad_(False)
