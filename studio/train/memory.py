"""How much memory a training will need, told before its first step, with settings that would fit.

Weights, gradients, moments and the cache are counted exactly. Activations follow what autograd was measured to save a
token and layer; the VAE's share is rough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from studio.sampler import make_cache
from studio.shapes import VideoShape
from studio.train.networks import TrainedNetworks
from studio.train.recipe import TrainConfig

__all__ = ["MemoryNeed", "advice", "check_memory", "estimate_memory", "free_memory"]

# Numbers that one layer keeps of each token for the backward pass, in multiples of its two widths; measured in float32.
_KEPT_OF_DIM, _KEPT_OF_FFN = 22.6, 2.0
# With checkpointing only the layer's input stays.
_KEPT_WHEN_RECOMPUTED = 1.05
# Bytes of such a number; in mixed precision norms and rotations stay in float32, measured as two thirds.
_BYTES = {"no": 4.0, "bf16": 2.7}
# Maps of the VAE's widest level that are alive at once.
_VAE_MAPS = 4
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes that a training will hold at its peak, by what holds them.

    Args:
        weights: Generator, critic, teacher, whichever there are, VAE and averaged weights.
        gradients: Gradients of all that learns.
        moments: Both moments of both optimisers.
        cache: The KV cache.
        activations: What the larger of the two backward passes needs.
        vae: Decoding the overlap's frames, in streaming long tuning.
    """

    weights: int
    gradients: int
    moments: int
    cache: int
    activations: int
    vae: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.asdict(self).values())

    def __str__(self) -> str:
        """One line in GiB."""
        parts = ", ".join(f"{name} {value / _GIB:.2f}" for name, value in dataclasses.asdict(self).items())
        return f"{self.total / _GIB:.2f} GiB ({parts})"


def estimate_memory(config: TrainConfig, networks: TrainedNetworks) -> MemoryNeed:
    """Estimate a training's peak.

    Args:
        config: The training; need not be the one that the networks were made for.
        networks: Gives the sizes; with or without adapters, on any device.

    Returns:
        Bytes on each device; beyond one layer, sharded networks are gathered nowhere.
    """
    half = config.precision == "bf16"
    learning = sum(_learning(network, config.lora) for network in networks.learning)
    averaged = 0 if config.average is None else _learning(networks.generator, config.lora)
    frozen = sum(map(_base, networks.frozen))
    if config.lora is not None:
        frozen += sum(map(_base, networks.learning))
    processes = dist.get_world_size() if config.shard and dist.is_initialized() else 1
    spread = processes if config.lora is None else 1
    vae = 0 if networks.vae is None else sum(p.numel() * p.element_size() for p in networks.vae.parameters())
    return MemoryNeed(
        weights=4 * (learning + averaged) // spread + (2 if half else 4) * frozen // processes + vae,
        gradients=4 * learning // spread,
        moments=8 * learning // spread,
        cache=_cache(config, networks),
        activations=max(_activations(config, networks, cached=cached) for cached in {False, config.learns_by_rollout}),
        vae=_decoding(config, networks),
    )


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


def check_memory(config: TrainConfig, networks: TrainedNetworks, free: int) -> MemoryNeed:
    """Refuse a training that will not fit, before its first step.

    Args:
        config: The training.
        networks: Its networks, already where they will be; their weights are not counted again.
        free: Bytes that are free beside them.

    Returns:
        The estimate.

    Raises:
        MemoryError: If it does not fit, naming the parts and settings that would fit, where there are some.
    """
    need = estimate_memory(config, networks)
    here = need.weights
    if need.total - here <= free:
        return need
    fitting = next((s for s in _smaller(config) if _fits(config, s, networks, free + here)), None)
    remedy = "no setting of this training fits; use smaller networks or a larger device"
    if fitting is not None:
        remedy = "use " + ", ".join(f"{name}={value!r}" for name, value in fitting.items())
    raise MemoryError(f"the training needs about {need}, and {(free + here) / _GIB:.2f} GiB are there; {remedy}")


def advice(config: TrainConfig) -> str:
    """What to set when memory ran out all the same: the change that alters the result least.

    Args:
        config: The training that ran out.
    """
    changes = next(_smaller(config), None)
    if changes is None:
        return "use smaller networks, fewer `frames` or a larger device"
    return "use " + ", ".join(f"{name}={value!r}" for name, value in changes.items())


def _fits(config: TrainConfig, changes: dict[str, Any], networks: TrainedNetworks, room: int) -> bool:
    return estimate_memory(dataclasses.replace(config, **changes), networks).total <= room


def _smaller(config: TrainConfig) -> Iterator[dict[str, Any]]:
    """Settings that need less and less, those first that change the result least."""
    changes: dict[str, Any] = {}
    if not config.recompute:
        changes = {"recompute": True, **({"compile": False} if config.compile else {})}
        yield changes
    batch, accumulate = config.batch, config.accumulate
    while batch > 1 and batch % 2 == 0:
        batch, accumulate = batch // 2, accumulate * 2
        changes = {**changes, "batch": batch, "accumulate": accumulate}
        yield changes
    if config.precision == "no":
        changes = {**changes, "precision": "bf16"}
        yield changes
    if config.lora is None:
        changes = {**changes, "lora": 256, **({"fuse": False} if getattr(config, "fuse", False) else {})}
        yield changes


def _base(network: nn.Module) -> int:
    return sum(p.numel() for name, p in network.named_parameters() if ".lora_" not in name)


def _learning(network: nn.Module, rank: int | None) -> int:
    if rank is None:
        return _base(network)
    layers = {
        name.removesuffix(".base_layer"): module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.") and ".lora_" not in name
    }
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers.values())


def _cache(config: TrainConfig, networks: TrainedNetworks) -> int:
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    if not config.learns_by_rollout:
        return 0
    return make_cache(
        networks.config, batch=config.batch, frames=config.video_frames, device="meta", dtype=dtype
    ).nbytes


def _activations(config: TrainConfig, networks: TrainedNetworks, *, cached: bool) -> int:
    sizes = networks.learning[0 if cached else -1].config
    frames = config.frames if cached else config.frames_in_pass
    tokens = config.batch * frames * VideoShape.of(networks.config).tokens_per_frame
    layer = tokens * (_KEPT_OF_DIM * sizes.dim + _KEPT_OF_FFN * sizes.ffn_dim)
    kept = sizes.layers * layer
    if config.recompute:
        # While one layer is computed again, all of it is there.
        passes = config.frames // networks.config.sampler.block if cached else 1
        kept = sizes.layers * tokens * _KEPT_WHEN_RECOMPUTED * sizes.dim + layer / passes
    if cached:
        capacity = networks.config.cache.capacity or config.frames
        kept += sizes.layers * tokens * 2 * capacity / networks.config.sampler.block * sizes.dim
    return int(kept * _BYTES[config.precision])


def _decoding(config: TrainConfig, networks: TrainedNetworks) -> int:
    if networks.vae is None or config.video_frames == config.frames:
        return 0
    shape, vae = VideoShape.of(networks.config), networks.vae.config
    pixels = shape.block * shape.temporal_factor * shape.height * shape.width // vae.patch**2
    width = (vae.decoder_dim or vae.dim) * vae.dim_mult[0]
    return config.batch * pixels * width * 4 * _VAE_MAPS
