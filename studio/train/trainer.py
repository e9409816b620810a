"""What every training shares: its networks in their places, its counted randomness, its learners and its average."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from studio.config import ModelConfig
from studio.model.dit import WanDiT
from studio.model.vae import set_convolutions
from studio.sampler import BlockPlan, Noise, NoiseSource, make_cache, rollout
from studio.shapes import VideoShape
from studio.train import draws
from studio.train.averages import WeightAverage
from studio.train.learner import Learner, make_accelerator
from studio.train.lora import add_lora, merged_state
from studio.train.networks import TrainedNetworks
from studio.train.prompts import GivenPrompts, PromptList, Prompts, WorldPrompts, checked_source, read_prompts
from studio.train.recipe import TrainConfig
from studio.train.runtime import Compiled, compiled, cosine, sent
from studio.train.sharding import shard

__all__ = ["LossTrainer", "Trainer"]


# Bytes of a text encoder that is no burden beside the networks.
_SMALL = 2**28


def _bytes(network: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def _source(config: TrainConfig, given: GivenPrompts | None) -> Prompts:
    if given is not None:
        return checked_source(given) if callable(given) else PromptList(given, config.seed)
    if config.prompts is not None:
        return read_prompts(config.prompts, config.seed, after=config.switch_prompts)
    return WorldPrompts(config.seed)


class Trainer(ABC):
    """A training: a subclass says what one step is.

    Args:
        config: The training.
        networks: Its networks; moved to the device and changed in place.
        prompts: Its prompts, or texts and pairs of texts; `None` reads what the configuration names.

    Raises:
        ImportError: If an extra is missing.
        ValueError: If configuration and networks do not fit.

    Attributes:
        learners: What learns, by role; "generator" is the network that is exported.
        done: Steps done.
        average: The averaged generator weights, once begun.
    """

    config: TrainConfig
    networks: TrainedNetworks

    def __init__(self, config: TrainConfig, networks: TrainedNetworks, prompts: GivenPrompts | None = None) -> None:
        block = networks.config.sampler.block
        if config.frames % block:
            low = max(block, config.frames // block * block)
            raise ValueError(
                f"`frames` must be a multiple of the block size {block}, got {config.frames}; "
                f"use {low} or {low + block}"
            )
        self.config, self.networks = config, networks
        self.prompts = _source(config, prompts)
        self.accelerator = make_accelerator(config)
        self.device: torch.device = self.accelerator.device
        self._place()
        self.learners: dict[str, Learner] = {}
        self.learn("generator", networks.generator, config.generator_rate)
        self.average: WeightAverage | None = None
        self.done = 0
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        with torch.no_grad():
            self.negative = networks.encode([config.negative]).to(self.device)

    def learn(self, role: str, network: WanDiT, rate: float) -> Learner:
        """Give a network an optimiser.

        Args:
            role: Its name in checkpoints.
            network: The network, in its place.
            rate: Learning rate.

        Returns:
            Its learner.
        """
        self.learners[role] = Learner(network, rate, self.config, self.accelerator)
        return self.learners[role]

    def _place(self) -> None:
        nets = self.networks
        # Weights that stay as they are need no more bits than the passes use.
        frozen = torch.bfloat16 if self.config.precision == "bf16" else None
        for network in nets.frozen:
            network.requires_grad_(False).to(dtype=frozen)
        for network in nets.learning:
            network.requires_grad_(True)
            if self.config.lora is not None:
                network.to(dtype=frozen)
                add_lora(network, self.config.lora, seed=draws.key(self.config.seed, "lora"))
        for network in (*nets.learning, *nets.frozen, nets.vae):
            if network is not None:
                network.to(self.device).eval()
        # A small text encoder computes where the networks do; a large one stays where it was put.
        if nets.text is not None and _bytes(nets.text) <= _SMALL:
            nets.text.to(self.device)
        if self.config.shard:
            for network in (*nets.learning, *nets.frozen):
                shard(network)
        if nets.vae is not None:
            nets.vae.requires_grad_(False)
            if self.device.type == "cuda":
                set_convolutions(nets.vae, "volume")

    # -- one step -------------------------------------------------------------------------------------------------

    @abstractmethod
    def step(self) -> dict[str, float]:
        """Take one step.

        Returns:
            Losses and gradient norms.

        Raises:
            RuntimeError: If a gradient is not finite.
        """

    @property
    def share(self) -> float:
        """Share of the learning rates that the next step takes."""
        config = self.config
        progress, warmup = self.done / config.steps, max(1, config.warmup)
        return cosine(progress, self.done + 1, 1.0, warmup=warmup, floor=config.floor)

    def fast(self, network: WanDiT) -> Compiled:
        """A network for passes over whole clips, compiled where the configuration wants it and a GPU is there."""
        return compiled(network, self.device, self.config.compile)

    def finish_step(self, changed: bool = True) -> None:
        """Count the step, and let the average follow the generator.

        Args:
            changed: Whether the generator was updated.
        """
        self.done += 1
        if self.config.average is None or self.done < self.config.average_from:
            return
        if self.average is None:
            self.average = WeightAverage(self.networks.generator, self.config.average)
        elif changed:
            self.average.update(self.networks.generator)

    def state(self) -> dict[str, Any]:
        """What a subclass must keep between two steps besides the weights: tensors and plain values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Args:
            state: Such a dictionary.

        Raises:
            ValueError: If it does not fit.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps nothing between steps, got {', '.join(state)}")

    def begin_anew(self, state: dict[str, Any]) -> None:
        """Go on with other processes or batches than those of a checkpoint, without what each process kept.

        Args:
            state: The plain values of the first one's `state`.
        """
        self.restore({})

    def release(self) -> None:
        """Let go of everything that can be made again, after memory ran out."""
        for learner in self.learners.values():
            learner.optimizer.zero_grad(set_to_none=True)
            # They come back from the checkpoint that the run goes on from.
            learner.optimizer.state.clear()

    # -- draws ----------------------------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """This process among all."""
        return self.accelerator.process_index

    @property
    def rows(self) -> range:
        """This process's clips among those of all; randomness counts by them, so that it knows no processes."""
        return range(self.rank * self.config.batch, (self.rank + 1) * self.config.batch)

    @property
    def shape(self) -> VideoShape:
        """Sizes of the generator's video."""
        return VideoShape.of(self.networks.config)

    @property
    def cache_dtype(self) -> torch.dtype:
        """Type of keys, values and kept latents."""
        return torch.bfloat16 if self.config.precision == "bf16" else self.networks.generator.dtype

    def encoded(self, index: int) -> tuple[Tensor, Tensor]:
        """Text embeddings `[B, text_len, text_dim]` of the `index`-th batch's prompts and of their switches."""
        first = index * self.accelerator.num_processes * self.config.batch
        pairs = [self.prompts(first + row) for row in self.rows]
        # Whoever asks from within mixed precision gets the same embeddings as who does not, as a resumed video must.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return tuple(self.networks.encode(list(texts)).to(self.device) for texts in zip(*pairs, strict=True))  # type: ignore[return-value]

    def noise(self, *parts: int | str) -> Noise:
        """Noise by block and step for a rollout of this rank's clips.

        Args:
            parts: What the rollout is for.

        Returns:
            A function of block and step, giving `[B, block, C, H, W]`.
        """
        block_frames = self.networks.config.sampler.block
        if self.config.draw == "process":
            whole = self.shape.latents(self.config.batch, block_frames)
            return lambda block, step: self.at_once(whole, "noise", *parts, block, step)
        shape = self.shape.latents(1, block_frames)
        sources = [NoiseSource(draws.key(self.config.seed, "noise", *parts, row), shape) for row in self.rows]
        return lambda block, step: sent(torch.cat([source(block, step) for source in sources]), self.device)

    def at_once(self, shape: Sequence[int], *parts: int | str) -> Tensor:
        """Standard normal numbers of this process, drawn on its device in one go.

        Args:
            shape: How many.
            parts: What they are for.
        """
        source = torch.Generator(self.device).manual_seed(draws.key(self.config.seed, "process", self.rank, *parts))
        return torch.randn(tuple(shape), generator=source, device=self.device)

    def drawn(self, frames: int, *parts: int | str) -> Tensor:
        """Standard normal latents `[B, frames, C, H, W]` of this rank's clips.

        Args:
            frames: Latent frames.
            parts: What they are for.
        """
        if self.config.draw == "process":
            return self.at_once(self.shape.latents(self.config.batch, frames), *parts)
        shape = self.shape.latents(1, frames)
        sources = [draws.generator(self.config.seed, *parts, row) for row in self.rows]
        return sent(torch.cat([torch.randn(shape, generator=source) for source in sources]), self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """The mixed precision of every pass."""
        if self.config.precision == "no":
            return nullcontext()
        # A copy of the weights that a pass without gradients has cached must never serve one with gradients.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    # -- to look at and to take away ------------------------------------------------------------------------------

    @property
    def exported_config(self) -> ModelConfig:
        """The model that the generator is, for its folder."""
        return self.networks.config

    def exported_state(self) -> dict[str, Tensor]:
        """The generator's weights as they are now, whole, adapters merged into them; see `WeightAverage.shown`."""
        return merged_state(self.networks.generator)

    @torch.no_grad()
    def sample(self, text: Tensor, *parts: int | str) -> Tensor:
        """Clean latents `[B, F, C, H, W]` of the generator as it is now.

        Args:
            text: Text embeddings `[B, text_len, text_dim]`.
            parts: What the noise is for.
        """
        nets, config = self.networks, self.config
        cache = make_cache(
            nets.config, batch=len(text), frames=config.frames, device=self.device, dtype=self.cache_dtype
        )
        shape = self.shape.latents(len(text), nets.config.sampler.block)
        noise = NoiseSource(draws.key(config.seed, "sample", *parts), shape, device=self.device)
        plan = [BlockPlan(text=text)] * (config.frames // nets.config.sampler.block)
        with self.autocast():
            blocks = rollout(nets.generator, cache, plan, noise, nets.config.sampler, timed=False)
            return torch.cat([block.latents for block in blocks], dim=1).float()


class LossTrainer(Trainer):
    """A training of the generator alone, by one loss that a subclass gives; see `Trainer`."""

    @abstractmethod
    def loss(self, micro: int) -> Tensor:
        """The loss of a micro-batch of the next update.

        Args:
            micro: Its number.

        Returns:
            A scalar.
        """

    def step(self) -> dict[str, float]:
        """See `Trainer.step`; one update."""
        loss, norm = self.learners["generator"].update(self.loss, self.share)
        self.finish_step()
        return {"generator_loss": loss, "generator_norm": norm}
