"""One network that learns: its optimiser, and its gradients over micro-batches and ranks."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from studio.model.dit import WanDiT
from studio.train.ranks import average_gradients
from studio.train.recipe import TrainConfig
from studio.train.runtime import set_rate
from studio.train.sharding import is_sharded, whole

__all__ = ["Learner", "make_accelerator", "make_optimizer", "start_trackers"]

_SETTLED = (
    "accelerate knows one device for the life of a process, and an earlier training here took {device}; "
    "restart the kernel to train elsewhere{instead}"
)


class Learner:
    """One network with its optimiser: gradients over micro-batches and ranks, clipping, one step.

    Args:
        network: The network; its parameters that require gradients are trained.
        rate: Learning rate.
        config: Moments, decay, clipping and accumulation.
        accelerator: Knows the processes, and prepares the optimiser.
    """

    def __init__(self, network: WanDiT, rate: float, config: TrainConfig, accelerator: Any) -> None:
        self.network, self.rate, self.accelerator, self.config = network, rate, accelerator, config
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = accelerator.prepare(make_optimizer(self.parameters, rate, config))

    def update(self, loss: Callable[[int], Tensor], share: float = 1.0) -> tuple[float, float]:
        """Take one optimiser step.

        Args:
            loss: The loss of a micro-batch by its number.
            share: Share of the learning rate that is taken.

        Returns:
            The mean loss, and the gradient norm before the clipping.

        Raises:
            RuntimeError: If the gradient is not finite; nothing was changed then.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        set_rate(self.optimizer, share * self.rate)
        for micro in range(self.config.accumulate):
            # Counted here: accelerate's own count is one for all trainings of a process.
            value = loss(micro) / self.config.accumulate
            self.accelerator.backward(value)
            total += value.detach()
        told = self._finish_gradients(total)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return told

    def _finish_gradients(self, total: Tensor) -> tuple[float, float]:
        # The rollout calls the bare network many times a loss, so ranks meet here and not in hooks of a wrapper.
        if self.accelerator.num_processes > 1:
            # What is sharded was averaged by FSDP.
            mine = [parameter for parameter in self.parameters if not is_sharded(parameter)]
            for parameter in mine:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            average_gradients(mine, self.accelerator.num_processes)
            # What is told is the loss of all clips, the same in every process.
            dist.all_reduce(total)
            total /= self.accelerator.num_processes
        length = whole(nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm))
        # Both at once: each number that is read waits for the device.
        mean, norm = torch.stack([total, length.to(total)]).tolist()
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise RuntimeError(f"the gradient norm became {norm}; lower the learning rate or go on from a checkpoint")
        return mean, norm


def make_optimizer(parameters: list[nn.Parameter], rate: float, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that a configuration names.

    Args:
        parameters: What it trains.
        rate: Learning rate.
        config: Kind, moments and decay.

    Returns:
        The optimiser.

    Raises:
        ImportError: If moments of eight bits are asked for and bitsandbytes is not installed.
        ValueError: If they are asked for off the GPU, where there are none.
    """
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    options: dict[str, Any] = {}
    if config.optimizer == "adamw8bit":
        if parameters[0].device.type != "cuda":
            raise ValueError("`optimizer` 'adamw8bit' needs a GPU; use 'adamw'")
        try:
            from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError("moments of eight bits need bitsandbytes: pip install bitsandbytes") from error
        kind = AdamW8bit
    elif parameters[0].device.type == "cuda" and not config.shard:
        options = {"fused": True}
    betas = (config.beta1, config.beta2)
    return kind(parameters, lr=rate, betas=betas, weight_decay=config.weight_decay, **options)


def make_accelerator(config: TrainConfig) -> Any:
    """The accelerator that places networks, joins ranks and logs to trackers.

    Args:
        config: Device and trackers.

    Returns:
        An `accelerate.Accelerator`. Mixed precision stays with the trainer, since the rollout mixes passes with and
        without gradients.

    Raises:
        ImportError: If accelerate, or a tracker that is asked for, is not installed.
        RuntimeError: If several processes were started and do not know each other, or an earlier training of this
            process has settled for another device.
        ValueError: If there is no such tracker.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import parse_flag_from_env
    except ImportError as error:
        raise ImportError("training needs accelerate: pip install 'longlive-studio[train]'") from error
    _check_trackers(config.trackers)
    stays = config.device == "cpu"
    try:
        accelerator = Accelerator(
            cpu=stays, mixed_precision="no", log_with=list(config.trackers) or None, project_dir=config.out
        )
    except ValueError as error:
        if not stays:
            raise
        raise RuntimeError(_SETTLED.format(device="a GPU", instead="")) from error
    started = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
    if accelerator.num_processes != started:
        raise RuntimeError(
            f"{started} processes were started and each would train alone, got {accelerator.num_processes} together; "
            "without a GPU use device='cpu' in all of them"
        )
    kept_off = stays or parse_flag_from_env("ACCELERATE_USE_CPU")
    if accelerator.device.type == "cpu" and torch.cuda.is_available() and not kept_off:
        raise RuntimeError(_SETTLED.format(device="the processor", instead=", or give device='cpu'"))
    return accelerator


def start_trackers(accelerator: Any, config: TrainConfig) -> None:
    """Begin a record with every tracker of a configuration; `accelerator.end_training` ends it.

    Args:
        accelerator: What logs to them.
        config: The training; its numbers and texts go along.
    """
    if config.trackers:
        plain = {
            name: value for name, value in dataclasses.asdict(config).items() if isinstance(value, (int, float, str))
        }
        accelerator.init_trackers(Path(config.out).name or "training", config=plain)


def _check_trackers(names: tuple[str, ...]) -> None:
    """Accelerate leaves out without a word what it does not find."""
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    here = {str(tracker.value) for tracker in get_available_trackers()}
    for name in names:
        if name not in known:
            raise ValueError(f"`trackers` must be among {', '.join(known)}, got {name!r}")
        if name not in here:
            raise ImportError(f"the tracker {name!r} is not installed: pip install {name}")
