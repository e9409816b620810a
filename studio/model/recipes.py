"""Recipes: which public files make each named model, and where on this machine they may lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.config import preset
from studio.model.kinds import identify, require
from studio.model.layouts import (
    DIT_STEM,
    TEXT_STEM,
    TOKENIZERS,
    VAE_STEM,
    Base,
    Layout,
    assemble,
    base_of,
    require_base,
)
from studio.model.sources import open_source

__all__ = [
    "RECIPES",
    "Needed",
    "Recipe",
    "adapters_of",
    "advice",
    "base_named",
    "bases",
    "by_hand",
    "called",
    "homes",
    "locate",
    "model_folders",
    "recipe_layout",
]

_WAN_1_3B = "Wan-AI/Wan2.1-T2V-1.3B"
_WAN_14B = "Wan-AI/Wan2.1-T2V-14B"
_TOKENIZER = tuple(
    f"{TOKENIZERS[0]}/{name}"
    for name in ("special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json")
)
_BASE = (f"{VAE_STEM}.pth", f"{TEXT_STEM}.pth", *_TOKENIZER)
_SHARDS_14B = 6
FOLDERS = "STUDIO_MODELS"


@dataclass(frozen=True, kw_only=True)
class Needed:
    """One file of a public repository.

    Args:
        repository: As "Wan-AI/Wan2.1-T2V-1.3B".
        file: Its path there.
    """

    repository: str
    file: str

    @property
    def local(self) -> Path:
        """Its place under a folder of models: the repository's own name, then its path."""
        return Path(self.repository.split("/")[-1]) / self.file


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a named model is made of.

    Args:
        name: The preset.
        dit: The transformer: one file, or the index of its shards first.
        base: Repository of text encoder, tokenizer and VAE.
        lora: An adapter that belongs to it, or None.
    """

    name: str
    dit: tuple[Needed, ...]
    base: str = _WAN_1_3B
    lora: Needed | None = None

    @property
    def files(self) -> tuple[Needed, ...]:
        """Everything to have, the transformer first."""
        base = tuple(Needed(repository=self.base, file=file) for file in _BASE)
        return (*self.dit, *(() if self.lora is None else (self.lora,)), *base)


def _one(name: str, repository: str, file: str, lora: str | None = None) -> Recipe:
    adapter = None if lora is None else Needed(repository=repository, file=lora)
    return Recipe(name=name, dit=(Needed(repository=repository, file=file),), lora=adapter)


def _sharded(name: str, repository: str, count: int) -> Recipe:
    shards = (f"{DIT_STEM}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1))
    files = (f"{DIT_STEM}.safetensors.index.json", *shards)
    return Recipe(name=name, dit=tuple(Needed(repository=repository, file=file) for file in files), base=repository)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _one("wan2.1-t2v-1.3b", _WAN_1_3B, f"{DIT_STEM}.safetensors"),
        _sharded("wan2.1-t2v-14b", _WAN_14B, _SHARDS_14B),
        _one("causvid-1.3b", "tianweiy/CausVid", "autoregressive_checkpoint_warp_4step_cfg2/model.pt"),
        _one("self-forcing-1.3b", "gdhe17/Self-Forcing", "checkpoints/self_forcing_dmd.pt"),
        _one("longlive-1.3b", "Efficient-Large-Model/LongLive-1.3B", "models/longlive_base.pt", lora="models/lora.pt"),
    )
}


def model_folders() -> tuple[Path, ...]:
    """Folders of models named by STUDIO_MODELS, several of them parted as in PATH."""
    return tuple(Path(part).expanduser() for part in os.environ.get(FOLDERS, "").split(os.pathsep) if part)


def locate(recipe: Recipe, folders: Sequence[Path] | None = None) -> dict[Needed, Path | None]:
    """Look for a model's files in folders of models and in the hub's cache.

    Args:
        recipe: The model.
        folders: Folders with a subfolder a repository; None: those of STUDIO_MODELS.

    Returns:
        Each file's place, or None where it is missing. All files of a repository are of one place, see `homes`: shards
        lie beside their index, and a tokenizer's files together.
    """
    return _located(recipe.files, model_folders() if folders is None else folders)


def homes(files: Sequence[Needed], folders: Sequence[Path]) -> dict[str, Path | None]:
    """Choose the one place where each repository's files are taken from.

    Args:
        files: What is needed.
        folders: Folders of models, the first one first; the hub's cache comes after them.

    Returns:
        Repository to the first place that has all its files, else to the one that has most of them; None is the hub's
        cache, or nowhere.
    """
    found: dict[str, Path | None] = {}
    for repository in dict.fromkeys(needed.repository for needed in files):
        wanted = [needed for needed in files if needed.repository == repository]
        counts = {place: sum(_at(needed, place) is not None for needed in wanted) for place in (*folders, None)}
        best = max(counts, key=lambda place: counts[place])
        found[repository] = best if counts[best] else None
    return found


def _located(files: Sequence[Needed], folders: Sequence[Path]) -> dict[Needed, Path | None]:
    places = homes(files, folders)
    return {needed: _at(needed, places[needed.repository]) for needed in files}


def _at(needed: Needed, folder: Path | None) -> Path | None:
    """A file in a folder of models, or in the hub's cache; None where it is not there."""
    if folder is not None:
        return folder / needed.local if (folder / needed.local).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(needed.repository, needed.file)
    return Path(cached) if isinstance(cached, str) else None


def recipe_layout(
    name: str, *, folders: Sequence[Path] | None = None, ema: bool | None = None, base: Path | None = None
) -> tuple[Layout, tuple[tuple[Path, float], ...]]:
    """Find a named model's networks and adapters.

    Args:
        name: A key of `RECIPES`.
        folders: As for `locate`.
        ema: Averaged weights or plain ones, where the checkpoint has both; None: plain ones first.
        base: Folder of text encoder and VAE; None: the recipe's.

    Returns:
        (where its networks are; its adapters with their strengths).

    Raises:
        FileNotFoundError: If files are missing, naming them, the command that fetches them and the folder to put them.
        ValueError: If a file is of another kind.
    """
    recipe, like = RECIPES[name], preset(name)
    files = [needed for needed in recipe.files if base is None or needed.file not in _BASE]
    found = _located(files, model_folders() if folders is None else folders)
    if None in found.values():
        raise FileNotFoundError(advice(recipe, found))
    there = {needed.file: path for needed, path in found.items() if path is not None}
    first = there[recipe.dit[0].file]
    part = require(identify(open_source(first), ema=ema), "dit")
    parts = _base_files(there) if base is None else require_base(base, first)
    layout = assemble(part, parts, like, first, kind="official", causal=part.is_generator)
    return layout, () if recipe.lora is None else ((there[recipe.lora.file], 1.0),)


def bases() -> Iterator[Path]:
    """Folders that may hold text encoder and VAE: those of Wan2.1 in the folders of models and in the hub's cache."""
    for repository in (_WAN_1_3B, _WAN_14B):
        for folder in (*model_folders(), None):
            found = _at(Needed(repository=repository, file=_BASE[0]), folder)
            if found is not None:
                yield found.parent


def called(checkpoint: Path) -> str | None:
    """The model that a checkpoint of a generator is by its public name; None where its name says nothing.

    Args:
        checkpoint: The file. A name that anything may have, as "model.pt", counts with its folder only.
    """
    for recipe in RECIPES.values():
        parts = Path(recipe.dit[0].file).parts
        telling = parts if Path(parts[-1]).stem == "model" else parts[-1:]
        if not parts[-1].startswith(DIT_STEM) and checkpoint.absolute().parts[-len(telling) :] == telling:
            return recipe.name
    return None


def base_named(name: str) -> Path:
    """The folder of a named model's text encoder and VAE.

    Args:
        name: A key of `RECIPES`.

    Raises:
        FileNotFoundError: If they are not here, naming the files.
    """
    recipe = RECIPES[name]
    found = _located([needed for needed in recipe.files if needed.file in _BASE], model_folders())
    if None in found.values():
        raise FileNotFoundError(advice(recipe, found))
    return next(path.parent for needed, path in found.items() if path is not None and needed.file == _BASE[0])


def adapters_of(folder: Path, checkpoint: Path) -> tuple[tuple[Path, float], ...]:
    """The adapters that belong to a checkpoint in a folder laid out like a public repository, with their strengths.

    Args:
        folder: The folder that was named.
        checkpoint: The transformer found there.
    """
    for recipe in RECIPES.values():
        if recipe.lora is not None and checkpoint.name == Path(recipe.dit[0].file).name:
            beside = checkpoint.with_name(Path(recipe.lora.file).name)
            return ((beside, 1.0),) if folder in checkpoint.parents and beside.is_file() else ()
    return ()


def _base_files(there: dict[str, Path]) -> Base:
    vae, text, tokenizer = (there[file] for file in (_BASE[0], _BASE[1], _TOKENIZER[0]))
    return base_of(vae.parent, open_source(vae), open_source(text), tokenizer.parent)


def advice(recipe: Recipe, found: dict[Needed, Path | None]) -> str:
    """Say which files are missing, how to fetch them and where to put them by hand.

    Args:
        recipe: The model.
        found: What `locate` gave.
    """
    missing = [needed for needed, path in found.items() if path is None]
    where = "" if model_folders() else f", then set {FOLDERS}=DIR"
    return (
        f"{len(missing)} of the {len(found)} files of {recipe.name!r} are not shipped and not on this machine; "
        f"`studio download {recipe.name}` fetches them, or put them there by hand{where}:\n"
        + "\n".join(by_hand(missing, found, next(iter(model_folders()), Path("DIR"))))
    )


def by_hand(missing: Sequence[Needed], found: Mapping[Needed, Path | None], folder: Path) -> list[str]:
    """A line a missing file: what it is, and where to put it, beside the others of its repository.

    Args:
        missing: The files.
        found: What `locate` gave.
        folder: Folder of models for repositories of which nothing is here.
    """
    roots = {
        needed.repository: path.parents[len(Path(needed.file).parts) - 1]
        for needed, path in found.items()
        if path is not None
    }
    places = {needed: folder / needed.local for needed in missing}
    places |= {needed: roots[needed.repository] / needed.file for needed in missing if needed.repository in roots}
    return [f"  {needed.repository} {needed.file}  ->  {places[needed]}" for needed in missing]
