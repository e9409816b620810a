"""Several processes train one network: gradients are averaged, clocks agree, one process writes.

Start them by `accelerate launch --num_processes N -m studio.train ...` or `torchrun`; a single process needs neither
and pays nothing. The miniature is small enough to be whole on every rank; sharded networks are another matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Ranks"]


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

    @torch.no_grad()
    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients over the ranks, in one message; parameters without a gradient must be so on all."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        parts = flat.split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])  # pyright: ignore[reportPrivateImportUsage]

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
