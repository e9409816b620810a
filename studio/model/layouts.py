"""Layouts: where a model's networks lie in a folder or file, whoever wrote it.

Known are the studio's own folders, the official Wan2.1 folder, diffusers' folder, and generator checkpoints of CausVid,
Self-Forcing, LongLive and their trainers, which need a Wan2.1 folder for text encoder and VAE. Nothing is read here but
names, shapes and configurations.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from studio.config import PRESETS, DiTConfig, ModelConfig, VAEConfig, from_dict
from studio.model.kinds import Part, identify, require
from studio.model.pickles import SUFFIXES
from studio.model.sizes import dit_sizes, text_sizes, vae_sizes
from studio.model.sources import Source, index_of, open_source, open_stem, stem_files

__all__ = ["Base", "Layout", "assemble", "base_of", "find", "find_base", "generator_files", "require_base"]

DIT_STEM = "diffusion_pytorch_model"
VAE_STEM = "Wan2.1_VAE"
TEXT_STEM = "models_t5_umt5-xxl-enc-bf16"
TOKENIZERS = ("google/umt5-xxl", "tokenizer")
_VAES = (VAE_STEM, f"vae/{DIT_STEM}")
_TEXTS = (TEXT_STEM, "text_encoder/model", "text_encoder/pytorch_model")
# Where checkpoints that bring the transformer only keep the rest, beside themselves or above.
_BASES = (".", "Wan2.1-T2V-1.3B", "Wan2.1-T2V-14B", "wan_models/Wan2.1-T2V-1.3B", "wan_models/Wan2.1-T2V-14B")
_GENERATOR_FOLDERS = (".", "models", "checkpoints", "autoregressive_checkpoint_warp_4step_cfg2")
_LEVELS_UP = 4


@dataclass(frozen=True, kw_only=True)
class Base:
    """Text encoder, tokenizer and VAE, which many transformers share.

    Args:
        folder: Where they were found.
        vae: The VAE under official names.
        vae_config: Its sizes.
        text: The text encoder under official names.
        tokenizer: The tokenizer's folder, or the studio's `tokenizer.json`.
        model: The model that it is of, where a configuration of the studio's says so.
    """

    folder: Path
    vae: Source
    vae_config: VAEConfig
    text: Source
    tokenizer: Path
    model: ModelConfig | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A model found on disk, ready to be loaded.

    Args:
        path: The folder or file that was named.
        config: Sizes of everything, read off the files.
        dit: The transformer under official names.
        vae: The VAE under official names.
        text: The text encoder under official names.
        tokenizer: The tokenizer's folder, or the studio's `tokenizer.json`.
        kind: "studio", "official", "diffusers" or "generator".
        container: For a generator's checkpoint, the mapping that was taken, as "generator_ema".
    """

    path: Path
    config: ModelConfig
    dit: Source
    vae: Source
    text: Source
    tokenizer: Path
    kind: str
    container: str = ""


def find(
    path: Path,
    *,
    like: ModelConfig | None = None,
    base: Path | None = None,
    ema: bool | None = None,
    elsewhere: Callable[[], Iterable[Path]] = tuple,
    called: Callable[[Path], str | None] = lambda file: None,
) -> Layout:
    """Find a model's networks.

    Args:
        path: A model's folder, or a generator's checkpoint.
        like: The preset that it must be; None: the one that its sizes and kind tell.
        base: Folder of text encoder and VAE; None: the model's own, or looked for beside it and above.
        ema: Averaged weights or plain ones, where a checkpoint has both; None: plain ones first.
        elsewhere: More folders to look for a base in, asked if there is none near.
        called: Tells the preset that a generator's file is by its name, or None.

    Returns:
        Where everything is.

    Raises:
        FileNotFoundError: If something is missing, naming it.
        ValueError: If a file is of another kind, saying what it is and where it belongs, or does not fit `like`.
    """
    where = _Where(base, elsewhere)
    if path.is_file():
        return _generator(path, like, where, ema, called(path))
    config = _json(path / "config.json")
    if "dit" in config:
        return _studio(path, config, base)
    if (path / "transformer").is_dir():
        return _diffusers(path, like, where)
    if stem_files(path, DIT_STEM):
        return _official(path, config, like, where)
    file = _only_generator(path)
    return _generator(file, like, where, ema, called(file))


def _only_generator(folder: Path) -> Path:
    checkpoints, refused = generator_files(folder)
    if not checkpoints:
        if refused:
            raise ValueError(f"{folder} holds no generator that can be opened: {'; '.join(map(str, refused[:5]))}")
        raise FileNotFoundError(
            f"`name` must be a model's folder, got {folder}, which has no config.json, no {DIT_STEM}.safetensors, no "
            "transformer/ and no generator's checkpoint"
        )
    if len(checkpoints) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in checkpoints)
        raise ValueError(f"{folder} holds several generators: {names}; name one of the files")
    return checkpoints[0]


def find_base(folder: Path) -> Base | None:
    """Find text encoder, tokenizer and VAE in a model's folder of any layout; None where one of them is missing.

    A `config.json` that cannot be read is somebody else's, and the folder then no model of the studio's.
    """
    told = _json_or_nothing(folder / "config.json")
    if "dit" in told:
        return _studio_base(folder, told)
    tokenizer = next((folder / name for name in TOKENIZERS if (folder / name).is_dir()), None)
    vae, text = _first_stem(folder, _VAES), _first_stem(folder, _TEXTS)
    if tokenizer is None or vae is None or text is None:
        return None
    return base_of(folder, _open_below(folder, vae), _open_below(folder, text), tokenizer)


def base_of(folder: Path, vae: Source, text: Source, tokenizer: Path) -> Base:
    """Put a base together out of opened files.

    Args:
        folder: What to name in messages.
        vae: The VAE's file or shards.
        text: The text encoder's file or shards.
        tokenizer: The tokenizer's folder.

    Raises:
        ValueError: If a file is of another kind.
    """
    parts = require(identify(vae), "vae"), require(identify(text), "text")
    told = _json(vae.path.parent / "config.json") if parts[0].layout == "diffusers" else {}
    mean, std = _numbers(told.get("latents_mean")), _numbers(told.get("latents_std"))
    with _naming(parts[0].source):
        config = vae_sizes(parts[0].source.shapes, mean=mean, std=std)
    return Base(folder=folder, vae=parts[0].source, vae_config=config, text=parts[1].source, tokenizer=tokenizer)


def _studio_base(folder: Path, told: dict[str, Any]) -> Base | None:
    if not all(stem_files(folder, kind) for kind in ("vae", "text")):
        return None
    model = _model_config(folder / "config.json", told)
    parts = {kind: require(identify(open_stem(folder, kind)), kind).source for kind in ("vae", "text")}
    return Base(folder=folder, **parts, vae_config=model.vae, tokenizer=_tokenizer(folder), model=model)


def generator_files(folder: Path) -> tuple[list[Path], list[ValueError]]:
    """Checkpoints of transformers in a folder, without LoRAs, VAEs and text encoders.

    Args:
        folder: Where CausVid, Self-Forcing, LongLive or a trainer keep theirs.

    Returns:
        (the files, several shards by their index; why others could not be opened).
    """
    found: list[Path] = []
    refused: list[ValueError] = []
    for place in _GENERATOR_FOLDERS:
        for file in sorted((folder / place).glob("*")):
            if file.suffix.lower() in (*SUFFIXES, ".safetensors") and file.is_file():
                file = index_of(file) or file
                try:
                    if file not in found and identify(open_source(file)).kind == "dit":
                        found.append(file)
                except ValueError as error:
                    refused.append(error)
    return found, refused


def assemble(
    part: Part, base: Base, like: ModelConfig | None, path: Path, *, kind: str, causal: bool, called: str | None = None
) -> Layout:
    """Put a layout together and check it against the preset that it must be.

    Args:
        part: The transformer.
        base: Text encoder and VAE.
        like: The preset, or None.
        path: What was named.
        kind: As in `Layout`.
        causal: Whether the transformer generates block by block.
        called: The preset to take among those that fit, where the file's name tells it.

    Raises:
        ValueError: If the transformer has other sizes than the preset, or is of the other kind.
    """
    told = _told(part, base) or ({} if like is None or like.dit.dim != _dim(part) else {"heads": like.dit.heads})
    known = base.model or like
    with _naming(base.text):
        text = text_sizes(base.text.shapes, text_len=told.get("text_len") or (known and known.text.text_len))
    with _naming(part.source):
        dit = dit_sizes(part.source.shapes, heads=told.get("heads"), text_len=text.text_len)
    dit = dataclasses.replace(dit, eps=told.get("eps", dit.eps))
    if like is not None:
        _require_like(part, dit, like, causal)
    known = like or _preset_of(dit, causal, called)
    frame = known or base.model or PRESETS[called or ("longlive-1.3b" if causal else "wan2.1-t2v-1.3b")]
    name = frame.name if known else path.name if path.is_dir() else path.stem.removesuffix(".safetensors.index")
    config = dataclasses.replace(frame, name=name, dit=dit, vae=base.vae_config, text=text, causal=causal)
    return Layout(
        path=path,
        config=config,
        dit=part.source,
        vae=base.vae,
        text=base.text,
        tokenizer=base.tokenizer,
        kind=kind,
        container=part.container,
    )


@contextmanager
def _naming(source: Source) -> Iterator[None]:
    """Inside, what is wrong with the sizes that a file tells is said with the file's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source.path} does not tell its sizes: {error}") from error


def _model_config(path: Path, data: dict[str, Any]) -> ModelConfig:
    try:
        return from_dict(ModelConfig, data)
    except ValueError as error:
        raise ValueError(f"{path} does not describe a model: {error}") from error


def _studio(folder: Path, data: dict[str, Any], base: Path | None) -> Layout:
    config = _model_config(folder / "config.json", data)
    if base is not None:
        return _on_base(folder, config, require_base(base, folder))
    return Layout(
        path=folder,
        config=config,
        dit=_own(folder, "dit"),
        vae=_own(folder, "vae"),
        text=_own(folder, "text"),
        tokenizer=_tokenizer(folder),
        kind="studio",
    )


def _own(folder: Path, kind: str) -> Source:
    """One of the networks in a folder of the studio's."""
    part = identify(open_stem(folder, kind))
    found = part.source.header.get("kind") or part.kind
    if found != kind:
        raise ValueError(f"{part.source.path} must hold {kind!r} weights, got {found!r}; name another file")
    return part.source


def _on_base(folder: Path, config: ModelConfig, base: Base) -> Layout:
    """The transformer of a studio folder with text encoder, tokenizer and VAE of the base that was named."""
    with _naming(base.text):
        text = text_sizes(base.text.shapes, text_len=config.text.text_len)
    try:
        config = dataclasses.replace(config, vae=base.vae_config, text=text)
    except ValueError as error:
        raise ValueError(f"`base` must fit the transformer of {folder}, got {base.folder}: {error}") from error
    return Layout(
        path=folder,
        config=config,
        dit=_own(folder, "dit"),
        vae=base.vae,
        text=base.text,
        tokenizer=base.tokenizer,
        kind="studio",
    )


def _official(folder: Path, config: dict[str, Any], like: ModelConfig | None, where: _Where) -> Layout:
    part = require(identify(open_stem(folder, DIT_STEM)), "dit")
    base = _base_of_folder(folder, where)
    causal = "Causal" in str(config.get("_class_name", ""))
    return assemble(part, base, like, folder, kind="official", causal=causal)


def _diffusers(folder: Path, like: ModelConfig | None, where: _Where) -> Layout:
    part = require(identify(open_stem(folder / "transformer", DIT_STEM)), "dit")
    base = _base_of_folder(folder, where)
    # A converted generator carries no mark of its own; its preset, its pipeline's or its class's name tells it.
    files = (folder / "model_index.json", folder / "transformer" / "config.json")
    named = " ".join(str(_json(file).get("_class_name", "")) for file in files)
    causal = like.causal if like is not None else "Causal" in named or "SelfForcing" in named
    return assemble(part, base, like, folder, kind="diffusers", causal=causal)


def _generator(file: Path, like: ModelConfig | None, where: _Where, ema: bool | None, called: str | None) -> Layout:
    part = require(identify(open_source(file), ema=ema), "dit")
    own = file.name.startswith(DIT_STEM)
    # A flat file says nothing; a preset or a configuration does, and Wan2.1's own file name is that of the
    # bidirectional network.
    marked = own and "Causal" in str(_json(file.parent / "config.json").get("_class_name", ""))
    causal = part.is_generator or marked or (like.causal if like is not None else not own)
    return assemble(part, _base_near(file, where), like, file, kind="generator", causal=causal, called=called)


class _Where(NamedTuple):
    """Where a base may be: the folder that was named, or more folders to look in."""

    named: Path | None
    elsewhere: Callable[[], Iterable[Path]]


def _base_near(path: Path, where: _Where) -> Base:
    if where.named is not None:
        return require_base(where.named, path)
    for folder in itertools.chain(_around(path), (one for one in _defer(where.elsewhere) if one.is_dir())):
        found = find_base(folder)
        if found is not None:
            return found
    raise FileNotFoundError(
        f"{path} holds the transformer only; put the Wan2.1 folder beside it as Wan2.1-T2V-1.3B, or name it by "
        f"`base`, with {VAE_STEM}.pth, {TEXT_STEM}.pth and {TOKENIZERS[0]}/"
    )


def _base_of_folder(folder: Path, where: _Where) -> Base:
    """The base that was named, else the folder's own; one elsewhere only for a folder that has nothing of one."""
    if where.named is None and any(there for _, there in _base_parts(folder)):
        return require_base(folder, folder)
    return _base_near(folder, where)


def _defer(folders: Callable[[], Iterable[Path]]) -> Iterator[Path]:
    yield from folders()


def _around(file: Path) -> Iterator[Path]:
    for above in list(file.absolute().parents)[:_LEVELS_UP]:
        for name in _BASES:
            if (above / name).is_dir():
                yield above / name


def require_base(folder: Path, wanted_by: Path) -> Base:
    """The text encoder, tokenizer and VAE of a folder.

    Args:
        folder: A model's folder of any layout.
        wanted_by: What needs them, for the message.

    Raises:
        FileNotFoundError: If one of them is missing, naming it.
        ValueError: If a file is of another kind.
    """
    # What was named is a model's: there a damaged configuration is said, not passed over.
    _json(folder / "config.json")
    found = find_base(folder)
    if found is None:
        missing = [what for what, there in _base_parts(folder) if not there]
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}, needed by {wanted_by}; copy the whole folder")
    return found


def _base_parts(folder: Path) -> tuple[tuple[str, bool], ...]:
    """What makes a base, and whether a folder has it."""
    return (
        (f"{VAE_STEM}.pth or vae/", _first_stem(folder, _VAES) is not None),
        (f"{TEXT_STEM}.pth or text_encoder/", _first_stem(folder, _TEXTS) is not None),
        (f"{TOKENIZERS[0]}/ or tokenizer/", any((folder / name).is_dir() for name in TOKENIZERS)),
    )


def _require_like(part: Part, dit: DiTConfig, like: ModelConfig, causal: bool) -> None:
    ours, theirs = dataclasses.asdict(like.dit), dataclasses.asdict(dit)
    other = [f"{key} {theirs[key]} instead of {ours[key]}" for key in ours if ours[key] != theirs[key]]
    if other:
        fits = _preset_of(dit, causal)
        hint = f"it belongs with {fits.name!r}" if fits else "name it by its path to open it as it is"
        raise ValueError(
            f"{part.source.path} must be the transformer of {like.name!r}, got one of other sizes: "
            f"{', '.join(other)}; {hint}"
        )
    if causal != like.causal:
        what = "a causal generator" if causal else "the bidirectional base"
        wanted = "a causal generator" if like.causal else "the bidirectional base"
        fits = _preset_of(dit, causal)
        hint = f"it belongs with {fits.name!r}" if fits else "name the other checkpoint"
        raise ValueError(f"{part.source.path} must be {wanted} for {like.name!r}, got {what}; {hint}")


def _preset_of(dit: DiTConfig, causal: bool, called: str | None = None) -> ModelConfig | None:
    # LongLive's window serves any causal generator of its sizes, so it is the one to take where nothing tells.
    names = (*([called] if called else []), "longlive-1.3b", *PRESETS)
    fits = (PRESETS[name] for name in names if PRESETS[name].dit == dit and PRESETS[name].causal == causal)
    return next(fits, None)


def _dim(part: Part) -> int:
    return part.source.shapes["patch_embedding.weight"][0]


def _told(part: Part, base: Base) -> dict[str, Any]:
    """Heads, text tokens and epsilon out of the configuration of the transformer or of its base, where it fits."""
    dim = _dim(part)
    if base.model is not None and base.model.dit.dim == dim:
        model = base.model.dit
        return {"heads": model.heads, "text_len": model.text_len, "eps": model.eps}
    for folder in (part.source.path.parent, base.folder, base.folder / "transformer"):
        told = _json_or_nothing(folder / "config.json")
        heads = _count(told.get("num_heads", told.get("num_attention_heads")))
        head_dim = _count(told.get("attention_head_dim"))
        width = told.get("dim", heads * head_dim if heads and head_dim else dim)
        if heads and width == dim:
            eps, text_len = told.get("eps"), _count(told.get("text_len"))
            found = {"heads": heads, "text_len": text_len, "eps": eps if isinstance(eps, float) and eps > 0 else None}
            return {key: value for key, value in found.items() if value is not None}
    return {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _first_stem(folder: Path, stems: tuple[str, ...]) -> str | None:
    return next((stem for stem in stems if stem_files(folder, stem)), None)


def _open_below(folder: Path, stem: str) -> Source:
    return open_stem((folder / stem).parent, Path(stem).name)


def _tokenizer(folder: Path) -> Path:
    for path in (folder / "tokenizer.json", *(folder / name for name in TOKENIZERS)):
        if path.exists():
            return path
    raise FileNotFoundError(f"{folder / 'tokenizer.json'} is missing; copy the whole folder of the model")


def _numbers(values: Any) -> tuple[float, ...] | None:
    return tuple(float(value) for value in values) if isinstance(values, list) else None


def _json_or_nothing(path: Path) -> dict[str, Any]:
    """As `_json`, of a file that may be anybody's."""
    try:
        return _json(path)
    except (OSError, ValueError):
        return {}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got something else ({error}); copy it anew") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must be a JSON object, got {type(data).__name__}; copy it anew")
    return data
