"""Networks spread over the processes by FSDP2, block by block, and put together again for files.

What a rollout calls besides `forward`, the making of a prompt's keys and values, gathers its weights too. Adapters are
small and stay whole on every process.

Source: PyTorch FSDP2 (`torch.distributed.fsdp.fully_shard`).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from studio.model.dit import WanDiT
from studio.model.layers import Block

__all__ = ["is_sharded", "shard", "spread", "whole", "whole_state"]


def shard(network: WanDiT) -> WanDiT:
    """Spread a network's weights over all processes.

    Args:
        network: The network on this process's device, the same on every process; changed in place.

    Returns:
        The network.

    Raises:
        RuntimeError: If there is no process group.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if not dist.is_initialized():
        raise RuntimeError("sharding needs several processes; start them by `accelerate launch`, or use shard=False")
    # Adapters may be of another type than what they sit on, and one group of weights has one type.
    kept = {parameter for name, parameter in network.named_parameters() if ".lora_" in name}
    for block in network.blocks:
        attention = cast(Block, block).cross_attn
        fully_shard(attention, ignored_params=kept)
        register_fsdp_forward_method(attention, "prompt")
        fully_shard(block, ignored_params=kept)
    fully_shard(network, ignored_params=kept)
    register_fsdp_forward_method(network, "condition")
    return network


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is spread over the processes."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together; every process calls it for every tensor in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(network: nn.Module) -> dict[str, Tensor]:
    """A network's weights put together; every process calls it."""
    return {name: whole(value).detach() for name, value in network.state_dict().items()}


@torch.no_grad()
def spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, spread as another one is.

    Args:
        value: The tensor, the same on every process.
        like: A tensor that is spread, or is not.

    Returns:
        A tensor like `like` with `value`'s values.
    """
    value = value.to(like.device)
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements)
