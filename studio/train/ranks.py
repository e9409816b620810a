"""Several processes train one network: gradients are averaged, clocks agree, one process writes.

Start them by `accelerate launch --num_processes N -m studio.train ...` or `torchrun`; a single process needs neither
and pays nothing. The miniature is small enough to be whole on every rank; sharded networks are another matter.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Ranks", "average_gradients", "shared_sum"]

# Numbers of one message: large enough to be quick, small beside the networks that need many of them.
_MESSAGE = 2**25


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], world: int) -> None:
    """Average the gradients over the ranks, in few large messages; a parameter has a gradient on all ranks or on none.

    Args:
        parameters: Whole on every rank.
        world: Number of processes.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    for group in _messages(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in group])
        dist.all_reduce(flat)
        flat /= world
        parts = flat.split([gradient.numel() for gradient in group])
        torch._foreach_copy_(group, [part.view_as(g) for part, g in zip(parts, group, strict=True)])  # pyright: ignore[reportPrivateImportUsage]


def _messages(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    group: list[Tensor] = []
    for gradient in gradients:
        full = group and sum(one.numel() for one in group) + gradient.numel() > _MESSAGE
        if group and (full or gradient.dtype != group[0].dtype):
            yield group
            group = []
        group.append(gradient)
    if group:
        yield group


@functools.cache
def _by_cpu() -> Any:
    return dist.new_group(backend="gloo")


def shared_sum(value: float) -> float:
    """The sum of a number over all processes; it goes over the CPU, so that nobody waits for a GPU.

    Args:
        value: This process's number.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(shared, group=None if dist.get_backend() == "gloo" else _by_cpu())
    return float(shared)


class Ranks:
    """The processes of one training.

    Args:
        device: Device asked for, or `None` for a GPU where there is one.

    Raises:
        RuntimeError: If there are fewer GPUs than processes of this host.

    Attributes:
        rank: Index of this process, 0 to `world` - 1.
        world: Number of processes.
        device: This process's own device.
    """

    def __init__(self, device: str | None = None) -> None:
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        local = int(os.environ.get("LOCAL_RANK", 0))
        if kind.type == "cuda" and self.world > 1:
            if local >= torch.cuda.device_count():
                raise RuntimeError(
                    f"process {local} of this host has no GPU of its own, {torch.cuda.device_count()} are here; "
                    "start as many processes as there are GPUs"
                )
            kind = torch.device("cuda", local)
            torch.cuda.set_device(kind)
        self.device = kind
        if self.world > 1 and not dist.is_initialized():
            # Scalars go over the CPU, so that agreeing on the clock never waits for the GPU.
            dist.init_process_group("cpu:gloo,cuda:nccl" if kind.type == "cuda" else "gloo")

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """A seed of this rank's own, the given one on rank 0."""
        return seed + 1_000_003 * self.rank

    @torch.no_grad()
    def share(self, network: nn.Module) -> None:
        """Give every rank the weights of rank 0."""
        if self.world > 1:
            for tensor in (*network.parameters(), *network.buffers()):
                dist.broadcast(tensor.data, src=0)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients over the ranks; parameters without a gradient must be so on all."""
        if self.world > 1:
            average_gradients(parameters, self.world)

    def agree(self, value: float) -> float:
        """The mean of a number over the ranks, the same on all of them."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(shared)
        return float(shared) / self.world

    def together(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over the ranks, on the tensor's device."""
        if self.world > 1:
            dist.all_reduce(tensor)
            tensor /= self.world
        return tensor

    def leave(self) -> None:
        """Wait for all ranks and end the group."""
        if self.world > 1 and dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
