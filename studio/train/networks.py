"""The networks of a training by distribution matching, checked against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from studio.config import ModelConfig
from studio.model.dit import WanDiT
from studio.model.vae import VideoVAE
from studio.model.weights import load
from studio.train.recipe import MatchingConfig

__all__ = ["Networks", "open_networks"]


@dataclass(kw_only=True, eq=False)
class Networks:
    """The networks of one training.

    Args:
        config: The generator's model.
        generator: The causal few-step network that is trained.
        teacher: The bidirectional network that says what is real; it is frozen.
        critic: The bidirectional network that learns what the generator makes.
        encode: Prompts to text embeddings `[B, text_len, text_dim]`.
        vae: The video VAE, frozen; only streaming long tuning needs it.

    Raises:
        ValueError: If the networks do not read the same latents and text.
    """

    config: ModelConfig
    generator: WanDiT
    teacher: WanDiT
    critic: WanDiT
    encode: Callable[[list[str]], Tensor]
    vae: VideoVAE | None = None

    def __post_init__(self) -> None:
        mine = self.generator.config
        for name, network in (("teacher", self.teacher), ("critic", self.critic)):
            for field in ("in_channels", "out_channels", "patch", "text_dim", "text_len"):
                want, got = getattr(mine, field), getattr(network.config, field)
                if want != got:
                    raise ValueError(f"`{name}` must have the generator's `{field}` {want}, got {got}")


def open_networks(config: MatchingConfig) -> Networks:
    """Load what a configuration names; the critic begins as a copy of the teacher.

    Args:
        config: The training.

    Returns:
        The networks on the CPU.

    Raises:
        FileNotFoundError: If a model is not there.
        ValueError: If a file is damaged or of another kind, or the models do not fit each other.
    """
    models, teacher = load(config.generator), load(config.teacher)
    return Networks(
        config=models.config,
        generator=models.dit,
        teacher=teacher.dit,
        critic=load(config.teacher).dit,
        encode=models.text.encode,
        vae=models.vae,
    )
