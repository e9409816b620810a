"""What a file of tensors is, told by the names in it, and where it belongs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from studio.model.renames import dit_from_diffusers, plain, vae_from_diffusers
from studio.model.sources import Source
from studio.model.text import to_official_name

__all__ = ["Kind", "Part", "identify", "require"]

Kind = Literal["dit", "vae", "text", "lora", "critic", "probe", "image-to-video", "vace", "clip", "optimizer", "other"]

# The second name of a text encoder's embedding, for some programs the only one.
_EMBEDDING = "encoder.embed_tokens.weight"
# Names that only one kind of network has; the first match wins, so the narrower ones come first.
_MARKS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("image-to-video", ("img_emb.proj.1.weight", "condition_embedder.image_embedder.norm1.weight")),
    ("vace", ("vace_patch_embedding.weight",)),
    ("dit", ("patch_embedding.weight", "condition_embedder.time_proj.weight")),
    ("vae", ("decoder.head.2.weight", "decoder.conv_out.weight")),
    ("text", ("token_embedding.weight", "encoder.shared.weight", "shared.weight", _EMBEDDING)),
    ("probe", ("heads.shape.weight",)),
    ("clip", ("visual.patch_embedding.weight", "vision_model.post_layernorm.weight")),
)
_IS: dict[Kind, str] = {
    "dit": "a Wan transformer",
    "vae": "a Wan video VAE",
    "text": "a umt5 text encoder",
    "lora": "a LoRA",
    "critic": "a critic, which only training uses",
    "probe": "the miniature's probe, which only evaluation uses",
    "image-to-video": "an image-to-video transformer, which needs a picture to begin with",
    "vace": "a VACE transformer, which needs a guiding video",
    "clip": "a picture encoder, which text-to-video does not use",
    "optimizer": "an optimiser's state without weights",
    "other": "something unknown",
}
_BELONGS: dict[Kind, str] = {
    "dit": "name it as the model, as in studio.open(FILE)",
    "vae": "put it into the model's folder as Wan2.1_VAE.pth, or as vae/diffusion_pytorch_model.safetensors",
    "text": "put it into the model's folder as models_t5_umt5-xxl-enc-bf16.pth, or into text_encoder/",
    "lora": "load it on a base model: studio.load(BASE, loras=[FILE])",
    "critic": "name the generator's checkpoint",
    "probe": "name a model's folder",
    "image-to-video": "name a text-to-video checkpoint",
    "vace": "name a text-to-video checkpoint",
    "clip": "name a text-to-video checkpoint",
    "optimizer": "name the checkpoint that holds the generator",
    "other": "name a file listed by `studio download --list`",
}
_GENERATORS = ("generator", "generator_ema", "model", "state_dict", "module", "ema")
_CRITICS = ("critic", "critic_lora", "fake_score", "critic_ema")
# In names of mappings that a generator is never in.
_TRAINING = ("critic", "fake", "real", "teacher", "optim", "sched")
_LORAS = ("generator_lora", "lora", "lora_state_dict")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network's tensors out of a file, under official names.

    Args:
        kind: What they are.
        source: The tensors; a LoRA's keep their own names.
        container: The mapping they were in, as "generator_ema"; empty for a flat file.
        layout: Whose names the file has: "official", "diffusers" or "studio".
        beside: Other mappings of the checkpoint, as "critic".
    """

    kind: Kind
    source: Source
    container: str = ""
    layout: Literal["official", "diffusers", "studio"] = "official"
    beside: tuple[str, ...] = ()

    @property
    def is_generator(self) -> bool:
        """Whether the checkpoint says that it is a causal, few-step generator."""
        return self.container in ("generator", "generator_ema")

    @property
    def is_ema(self) -> bool:
        """Whether these are averaged weights."""
        return self.container in ("generator_ema", "ema")


def identify(source: Source, *, ema: bool | None = None, lora: bool = False) -> Part:
    """Find out what a file is, take its network out of the mappings around it and rename its tensors.

    Args:
        source: The file.
        ema: Whether to take averaged weights where a checkpoint has both; None: plain ones before averaged ones.
        lora: Whether to take a LoRA where a checkpoint has a whole network beside it.

    Returns:
        The network's part.

    Raises:
        ValueError: If averaged or plain weights are asked for and the checkpoint has none, or if it has several
            networks and nothing tells which one generates.
    """
    return _identify(source, (), ema, lora)


def _identify(source: Source, above: tuple[str, ...], ema: bool | None, lora: bool) -> Part:
    containers = _containers(source, len(above))
    beside = tuple(name for name in containers if name not in (*_GENERATORS, *_LORAS))
    adapter = next((name for name in _LORAS if name in containers), None)
    generator = _chosen(source, above, [name for name in _GENERATORS if name in containers], ema)
    if adapter is not None and (lora or generator is None):
        return Part(kind="lora", source=source.part(*above, adapter), container=adapter, beside=beside)
    generator = generator or _chosen(source, above, _unheard(source, above, containers), ema)
    if generator is not None:
        deeper = None if "ema" in generator else ema
        found = _identify(source.part(*above, generator), (*above, generator), deeper, lora)
        named = found.container if generator not in _GENERATORS[:2] else ""
        return dataclasses.replace(found, container=named or generator, beside=beside)
    critic = next((name for name in _CRITICS if name in containers), None)
    if critic is not None:
        return Part(kind="critic", source=source.part(*above, critic), container=critic, beside=beside)
    if containers and all("optimizer" in name for name in containers):
        return Part(kind="optimizer", source=source, beside=beside)
    return _network(source)


def require(part: Part, kind: Kind) -> Part:
    """The part itself, if it is of a kind.

    Args:
        part: What `identify` found.
        kind: What it must be.

    Raises:
        ValueError: If it is something else, saying what it is and where that belongs.
    """
    if part.kind != kind:
        raise ValueError(
            f"{part.source.path} must be {_IS[kind]}, got {_IS[part.kind]}{_among(part)}; {_BELONGS[part.kind]}"
        )
    return part


def _among(part: Part) -> str:
    if part.kind != "other" or not part.source.entries:
        return ""
    names = list(part.source.entries)
    return f" (tensors such as {', '.join(names[:3])})"


def _containers(source: Source, depth: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.key[depth] for entry in source.entries.values() if len(entry.key) > depth + 1))


def _unheard(source: Source, above: tuple[str, ...], containers: Collection[str]) -> list[str]:
    """Mappings of other names that hold a network, and none that only training uses."""
    plausible = (name for name in containers if not any(mark in name for mark in _TRAINING))
    found = [name for name in plausible if _network(source.part(*above, name)).kind in ("dit", "vae", "text")]
    if len([name for name in found if "ema" not in name]) > 1:
        raise ValueError(f"{source.path} holds several networks: {', '.join(found)}; save the one to open by itself")
    return found


def _chosen(source: Source, above: tuple[str, ...], containers: Sequence[str], ema: bool | None) -> str | None:
    averaged = [name for name in containers if "ema" in name]
    plain_ones = [name for name in containers if "ema" not in name]
    order = averaged + plain_ones if ema else plain_ones + averaged
    if ema is not None and order and ema != ("ema" in order[0]):
        # What is asked for may lie deeper.
        if _containers(source.part(*above, order[0]), len(above) + 1):
            return order[0]
        wanted, other = ("averaged", "plain") if ema else ("plain", "averaged")
        raise ValueError(f"{source.path} must hold {wanted} weights, got {other} ones only; use ema={not ema}")
    return order[0] if order else None


def _network(source: Source) -> Part:
    names = source.entries.keys()
    if any("lora_" in name or ".lora." in name for name in names):
        return Part(kind="lora", source=source)
    kind = _by_marks(names)
    if kind == "dit":
        return _dit(source)
    if kind is not None:
        return {"vae": _vae, "text": _text}.get(kind, lambda source: Part(kind=kind, source=source))(source)
    # Wrapped names show their network only without what is around them.
    bare = [plain(name) for name in names]
    kind = _by_marks(bare)
    if kind == "dit":
        return _dit(source)
    return Part(kind=kind or "other", source=source)


def _by_marks(names: Collection[str]) -> Kind | None:
    known = set(names)
    return next((kind for kind, marks in _MARKS if known.intersection(marks)), None)


def _dit(source: Source) -> Part:
    bare = source.renamed(plain)
    if "condition_embedder.time_proj.weight" in bare.entries:
        return Part(kind="dit", source=bare.renamed(dit_from_diffusers), layout="diffusers")
    return Part(kind="dit", source=bare)


def _vae(source: Source) -> Part:
    if "decoder.conv_out.weight" not in source.entries:
        return Part(kind="vae", source=source)
    return Part(kind="vae", source=source.renamed(vae_from_diffusers(_decoder_blocks(source))), layout="diffusers")


def _decoder_blocks(source: Source) -> list[int]:
    blocks: dict[int, int] = {}
    for name in source.entries:
        parts = name.split(".")
        if name.startswith("decoder.up_blocks.") and parts[3] == "resnets":
            level = int(parts[2])
            blocks[level] = max(blocks.get(level, 0), int(parts[4]) + 1)
    return [blocks[level] for level in sorted(blocks)]


def _text(source: Source) -> Part:
    if "token_embedding.weight" in source.entries:
        return Part(kind="text", source=source)
    own = "encoder.shared.weight" in source.entries
    if not own and "shared.weight" not in source.entries:
        source = source.renamed(lambda name: "shared.weight" if name == _EMBEDDING else name)
    rename: Callable[[str], str | None] = lambda name: to_official_name(name if own else f"encoder.{name}")  # noqa: E731
    return Part(kind="text", source=source.renamed(rename), layout="studio" if own else "diffusers")
