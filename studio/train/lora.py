"""Low-rank adapters on the transformer's blocks, by peft, in place, under LongLive's names in files.

Source: LoRA (Hu et al., 2021, arXiv:2106.09685); targets and scaling as in LongLive v1.0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from studio.model.dit import WanDiT
from studio.train.sharding import whole_state

__all__ = ["add_lora", "load_lora", "lora_state", "merged_state"]

_PREFIX = "base_model.model."
_ADAPTER = ".default.weight"


def add_lora(dit: WanDiT, rank: int, *, seed: int = 0) -> WanDiT:
    """Freeze the network and put an adapter on every linear layer inside its blocks.

    The adapters' scaling is 1, and they begin without any effect.

    Args:
        dit: The network, changed in place.
        rank: Rank of the adapters, at least 1.
        seed: Seed of their first weights.

    Returns:
        The network.

    Raises:
        ImportError: If peft is not installed.
        ValueError: If the rank is not positive, or the network has adapters already.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("low-rank adapters need peft: pip install 'longlive-studio[train]'") from error
    if rank < 1:
        raise ValueError(f"`rank` must be at least 1, got {rank}; use 256")
    if any(".lora_A." in name for name, _ in dit.named_parameters()):
        raise ValueError("the network has adapters already; load a network without them")
    targets = [f"blocks.{name}" for name, module in dit.blocks.named_modules() if isinstance(module, nn.Linear)]
    dit.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), dit)
    for parameter in dit.parameters():
        if parameter.requires_grad:
            # The frozen weights may be halves; small updates need all the bits.
            parameter.data = parameter.data.float()
    return dit


def lora_state(dit: nn.Module) -> dict[str, Tensor]:
    """The adapters' weights under the names that LongLive's files have.

    Args:
        dit: A network with adapters.

    Returns:
        `base_model.model.blocks.N.LAYER.lora_A.weight` `[rank, in]` and `.lora_B.weight` `[out, rank]`.

    Raises:
        ValueError: If the network has no adapters.
    """
    found = {name: value.detach() for name, value in dit.state_dict().items() if ".lora_" in name}
    if not found:
        raise ValueError("the network has no adapters; call `add_lora` first")
    return {_PREFIX + name.replace(_ADAPTER, ".weight"): value for name, value in found.items()}


@torch.no_grad()
def merged_state(dit: nn.Module) -> dict[str, Tensor]:
    """The network's weights with the adapters merged into them, under the names of a network without adapters.

    Args:
        dit: A network, with or without adapters; it stays as it is.

    Returns:
        Name to weight; weights without an adapter are the network's own, those with one float32, since small updates
        would be lost in the rounding of frozen halves.
    """
    state = whole_state(dit)
    merged = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        stem = name.removesuffix(".base_layer.weight")
        if stem != name:
            up, down = (state[f"{stem}.lora_{part}{_ADAPTER}"] for part in ("B", "A"))
            value = value.float() + up.float() @ down.float()
        merged[name.replace(".base_layer.", ".")] = value
    return merged


@torch.no_grad()
def load_lora(dit: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put adapters' weights into a network that has adapters of the same rank.

    Args:
        dit: The network, changed in place.
        state: What `lora_state` gave, or the public file's tensors.

    Raises:
        ValueError: If a tensor is missing, unexpected or misshapen; nothing was changed then.
    """
    mine = lora_state(dit)
    missing, extra = sorted(mine.keys() - state.keys()), sorted(state.keys() - mine.keys())
    if missing or extra:
        raise ValueError(
            f"the adapters must fit the network, got {len(missing)} missing and {len(extra)} unexpected tensors, "
            f"such as {(missing + extra)[0]}; use the adapters of this network"
        )
    for name, value in mine.items():
        if value.shape != state[name].shape:
            raise ValueError(f"{name} must have shape {list(value.shape)}, got {list(state[name].shape)}")
    for name, value in mine.items():
        value.copy_(state[name])
