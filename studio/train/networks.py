"""The networks of a training, checked against each other and loaded by name."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from studio.config import ModelConfig, VAEConfig, from_dict
from studio.model.dit import WanDiT
from studio.model.filling import fill
from studio.model.text import TextEncoder, WordTokenizer
from studio.model.vae import VideoVAE
from studio.model.weights import Models, layout_of, load, load_checked, read, save
from studio.train.kinship import check_kin
from studio.train.pocket import POCKET
from studio.train.recipe import MatchingConfig
from studio.world import vocabulary

__all__ = [
    "Networks",
    "TaughtNetworks",
    "TrainedNetworks",
    "fresh_models",
    "open_generator",
    "open_networks",
    "open_teacher",
    "open_transformer",
    "pocket_models",
]


class Taught(Protocol):
    """A configuration with a teacher."""

    @property
    def generator(self) -> str: ...
    @property
    def teacher(self) -> str: ...


@dataclass(kw_only=True, eq=False)
class TrainedNetworks:
    """A network that is trained, with what it reads and shows.

    Args:
        config: The model that the network belongs to.
        generator: The network that is trained.
        encode: Prompts to text embeddings `[B, text_len, text_dim]`.
        vae: The video VAE, frozen; needed by streaming long tuning, by training on clips, and to look at what is made.
        text: The text encoder behind `encode`; only a whole model folder needs it.
    """

    config: ModelConfig
    generator: WanDiT
    encode: Callable[[list[str]], Tensor]
    vae: VideoVAE | None = None
    text: TextEncoder | None = None

    @property
    def learning(self) -> tuple[WanDiT, ...]:
        """The networks that are trained."""
        return (self.generator,)

    @property
    def frozen(self) -> tuple[WanDiT, ...]:
        """The transformers that stay as they are."""
        return ()

    @classmethod
    def of(cls, models: Models, **others: WanDiT) -> Self:
        """Networks of a loaded model.

        Args:
            models: The model whose transformer is trained.
            others: The other networks, by role.

        Returns:
            The networks.

        Raises:
            ValueError: If the networks do not fit each other.
        """
        text = models.text if isinstance(models.text, TextEncoder) else None
        return cls(
            config=models.config, generator=models.dit, encode=models.text.encode, vae=models.vae, text=text, **others
        )


@dataclass(kw_only=True, eq=False)
class TaughtNetworks(TrainedNetworks):
    """A network that is trained by a teacher.

    Args:
        teacher: The bidirectional network that says what is real; it is frozen.

    Raises:
        ValueError: If the networks do not read the same latents and text.
    """

    teacher: WanDiT

    def __post_init__(self) -> None:
        self._fits("teacher", self.teacher)

    def _fits(self, name: str, network: WanDiT) -> None:
        mine = self.generator.config
        for field in ("in_channels", "out_channels", "patch", "text_dim", "text_len"):
            want, got = getattr(mine, field), getattr(network.config, field)
            if want != got:
                raise ValueError(f"`{name}` must have the generator's `{field}` {want}, got {got}")

    @property
    def frozen(self) -> tuple[WanDiT, ...]:
        """The transformers that stay as they are."""
        return (self.teacher,)


@dataclass(kw_only=True, eq=False)
class Networks(TaughtNetworks):
    """The networks of a training by distribution matching; `generator` is the causal few-step one.

    Args:
        critic: The bidirectional network that learns what the generator makes.

    Raises:
        ValueError: If the networks do not read the same latents and text.
    """

    critic: WanDiT

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fits("critic", self.critic)

    @property
    def learning(self) -> tuple[WanDiT, ...]:
        """The networks that are trained."""
        return (self.generator, self.critic)


def fresh_models(config: ModelConfig, *, vae: Path | str | None = None, seed: int = 0) -> Models:
    """Networks with fresh weights for the miniature's world, to begin a training with.

    Args:
        config: Sizes; those of the VAE and of the vocabulary follow what is given and the world's words.
        vae: "miniature" for the shipped trained VAE, or a file with one; `None` for a fresh one.
        seed: Seed of the weights.

    Returns:
        The networks on the CPU.

    Raises:
        FileNotFoundError: If the VAE is not there.
        ValueError: If the sizes do not fit each other.
    """
    tokenizer = WordTokenizer(vocabulary())
    sized, state = config.vae, None
    if vae is not None:
        sizes, state = read(_shipped_vae() if vae == "miniature" else Path(vae), kind="vae")
        sized = from_dict(VAEConfig, sizes)
    dit = dataclasses.replace(config.dit, in_channels=sized.z_dim, out_channels=sized.z_dim)
    text = dataclasses.replace(config.text, vocab=tokenizer.size)
    config = dataclasses.replace(config, vae=sized, dit=dit, text=text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, coder, encoder = WanDiT(dit), VideoVAE(sized), TextEncoder(text, tokenizer)
        network.init_weights()
    if state is not None:
        load_checked(coder, {name: value.float() for name, value in state.items()}, str(vae))
    for part in (network, coder, encoder):
        part.eval().requires_grad_(False)
    return Models(config=config, dit=network, vae=coder, text=encoder)


def _shipped_vae() -> Path:
    """The miniature's VAE: in a wheel inside the package, in a checkout beside it."""
    room = Path(str(resources.files("studio")))
    places = [folder / "assets" / "miniature" / "vae.safetensors" for folder in (room, room.parent)]
    return next((place for place in places if place.is_file()), places[0])


def open_transformer(name: str, *, role: str = "teacher") -> WanDiT:
    """Load a bidirectional transformer alone, without text encoder and VAE.

    Args:
        name: Name or folder of the model.
        role: What it will be, for the message.

    Returns:
        The network on the CPU.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If a file is damaged or of another kind, or the network is causal.
    """
    layout, loras = layout_of(name)
    if layout.config.causal:
        raise ValueError(
            f"`{role}` must be a bidirectional model, got {layout.config.name!r}, which generates block by block; "
            "use a clip model, or make one by `studio.train.pretrain`"
        )
    if loras:
        return load(name).dit
    with torch.device("meta"):
        network = WanDiT(layout.config.dit)
    fill(network, layout.dit, device="cpu", dtype=torch.float32)
    return network.eval().requires_grad_(False)


def pocket_models(seed: int = 0) -> Models:
    """The pocket model with fresh weights and the miniature's trained VAE.

    Args:
        seed: Seed of the weights.

    Returns:
        The networks on the CPU.

    Raises:
        FileNotFoundError: If the miniature's VAE is not there.
    """
    return fresh_models(POCKET, vae="miniature", seed=seed)


def open_generator(name: str) -> Models:
    """Load the model that a training begins with.

    Args:
        name: Name or folder of a model, or "pocket" for the pocket model with fresh weights.

    Returns:
        The model on the CPU.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If a file is damaged or of another kind.
    """
    return load(name) if not _fresh(name) else pocket_models()


def _fresh(name: str) -> bool:
    return name == "pocket" and not Path(name).exists()


def open_teacher(config: Taught) -> WanDiT:
    """Load the teacher that a configuration names, after a look whether it is the generator's kin.

    Args:
        config: The training.

    Returns:
        The network on the CPU.

    Raises:
        FileNotFoundError: If a model is not there.
        ValueError: If a file is damaged or of another kind, or the teacher reads other text or latents.
    """
    if _fresh(config.generator):
        with tempfile.TemporaryDirectory() as folder:
            save(pocket_models(), folder)
            check_kin(folder, config.teacher, called=config.generator)
    else:
        check_kin(config.generator, config.teacher)
    return open_transformer(config.teacher)


def open_networks(config: MatchingConfig) -> Networks:
    """Load what a configuration names; the critic begins as a copy of the teacher.

    Args:
        config: The training.

    Returns:
        The networks on the CPU.

    Raises:
        FileNotFoundError: If a model is not there.
        ValueError: If a file is damaged or of another kind, the generator is not causal, or the models do not fit
            each other.
    """
    if not _fresh(config.generator) and not layout_of(config.generator)[0].config.causal:
        raise ValueError(
            f"`generator` must be a causal model, got {config.generator!r}, which makes whole clips; "
            "make one of it by `studio.train.initialise`"
        )
    teacher = open_teacher(config)
    return Networks.of(open_generator(config.generator), teacher=teacher, critic=copy.deepcopy(teacher))
