"""Safetensors in shards: files of a bounded size and an index, in the layout of the Hugging Face libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.writing import written

__all__ = ["read_shards", "write_shards"]

MAX_SHARD_BYTES = 15_000_000


def write_shards(
    folder: Path | str,
    name: str,
    tensors: Mapping[str, Tensor],
    *,
    limit: int = MAX_SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a state dict as `NAME.safetensors`, or as shards with `NAME.safetensors.index.json` where it is larger.

    Args:
        folder: Target folder; it is made.
        name: Stem of the files.
        tensors: What to write. All files are written aside, so that what was there before stays until they are whole,
            and the index takes its place last.
        limit: Largest size of a file in bytes of tensors; one larger tensor gets a file of its own.
        metadata: Strings for each file's header.

    Returns:
        The files written, the index last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in tensors.items():
        value = value.detach().cpu().contiguous()
        bytes_ = value.numel() * value.element_size()
        if shards[-1] and size + bytes_ > limit:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += bytes_
    several = len(shards) > 1
    names = [f"{name}-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    paths = [folder / one for one in names] if several else [folder / f"{name}.safetensors"]
    index = folder / f"{name}.safetensors.index.json"
    with ExitStack() as stack:
        # What is entered first takes its place last.
        if several:
            total = sum(t.numel() * t.element_size() for shard in shards for t in shard.values())
            where = {key: path.name for path, shard in zip(paths, shards, strict=True) for key in shard}
            told = json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=1)
            stack.enter_context(written(index)).write_text(told + "\n", encoding="utf-8")
        for path, shard in zip(paths, shards, strict=True):
            save_file(shard, stack.enter_context(written(path)), metadata={"format": "pt", **(metadata or {})})
    if several:
        paths.append(index)
    # The index goes before the shards that it names.
    for old in (index, folder / f"{name}.safetensors", *folder.glob(f"{name}-*-of-*.safetensors")):
        if old not in paths:
            old.unlink(missing_ok=True)
    return paths


def read_shards(folder: Path | str, name: str) -> dict[str, Tensor]:
    """Read what `write_shards` wrote, or any folder in that layout.

    Args:
        folder: The folder.
        name: Stem of the files.

    Returns:
        The state dict, on the CPU.

    Raises:
        FileNotFoundError: If neither a file nor an index of that stem is there, or a shard is missing.
    """
    folder = Path(folder)
    single, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    if single.exists():
        return load_file(single)
    if not index.exists():
        raise FileNotFoundError(f"{folder} holds neither {single.name} nor {index.name}; is this a model folder?")
    state: dict[str, Tensor] = {}
    for file in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        if not (folder / file).exists():
            raise FileNotFoundError(f"{folder / file} is missing, though {index.name} names it; copy the whole folder")
        state.update(load_file(folder / file))
    return state
