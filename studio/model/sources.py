"""Tensors in files: names, shapes and types first, values later, one at a time.

A `Source` is a table of contents over one file or many shards. Renaming and choosing parts touch the table only; the
values are read by `tensors`, file by file, so that no more than one file is ever open.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from studio.model.pickles import SUFFIXES, is_pickle, read_pickle

__all__ = ["Entry", "Source", "index_of", "open_source", "open_stem", "stem_files"]

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_INDEX = ".index.json"
_SHARD = re.compile(r"(.+)-\d+-of-\d+(\.\w+)")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor in a file, not read yet.

    Args:
        file: The file.
        key: Its name there; several names for a tensor inside nested mappings.
        shape: Its shape.
        dtype: Its type in the file.
    """

    file: Path
    key: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True)
class Source:
    """A table of contents over files of tensors.

    Args:
        path: What messages name: the file, or the index of the shards.
        entries: Name to tensor, in the order of the files.
        header: Strings out of the safetensors header.
    """

    path: Path
    entries: Mapping[str, Entry]
    header: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape."""
        return {name: entry.shape for name, entry in self.entries.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the entries, each once."""
        return tuple(dict.fromkeys(entry.file for entry in self.entries.values()))

    def renamed(self, rename: Callable[[str], str | None]) -> Source:
        """The same tensors under other names.

        Args:
            rename: Old name to new; None leaves the tensor out.

        Raises:
            ValueError: If two tensors would get one name.
        """
        entries: dict[str, Entry] = {}
        for name, entry in self.entries.items():
            new = rename(name)
            if new is None:
                continue
            if new in entries:
                raise ValueError(f"{self.path} must hold each tensor once, got {new!r} under two names; remove one")
            entries[new] = entry
        return dataclasses.replace(self, entries=entries)

    def part(self, *keys: str) -> Source:
        """The tensors inside one of the nested mappings, their names without its own."""
        depth = len(keys)
        inside = {name: entry for name, entry in self.entries.items() if entry.key[:depth] == keys}
        return dataclasses.replace(self, entries={".".join(e.key[depth:]): e for e in inside.values()})

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Read the tensors, on the CPU, one at a time and file by file.

        Raises:
            FileNotFoundError: If a file has gone.
            ValueError: If a file is damaged.
        """
        for file in self.files:
            yield from _read(file, {name: entry for name, entry in self.entries.items() if entry.file == file})


def open_source(path: Path) -> Source:
    """Open one file: safetensors, a checkpoint of `torch.save` without code, or an index of shards.

    Args:
        path: The file; its first bytes count more than its ending. One of several shards stands for all of them where
            their index is beside it.

    Returns:
        Its table of contents.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged or holds code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; copy the whole folder of the model")
    index = index_of(path)
    return _open_file(path) if index is None else _open_index(index)


def index_of(path: Path) -> Path | None:
    """The index that a file is, or the one of the shards that it is among; None where it stands for itself."""
    if path.name.endswith(_INDEX):
        return path
    shard = _SHARD.fullmatch(path.name)
    index = path.with_name(f"{shard[1]}{shard[2]}{_INDEX}") if shard else path
    return index if shard and index.is_file() else None


def _open_file(path: Path) -> Source:
    if not is_pickle(path):
        return _open_safetensors(path)
    entries = {}
    for key, value in _leaves(read_pickle(path)):
        entries[".".join(key)] = Entry(file=path, key=key, shape=tuple(value.shape), dtype=value.dtype)
    if not entries:
        raise ValueError(f"{path} must hold named tensors, got none; is this a checkpoint?")
    return Source(path=path, entries=entries)


def stem_files(folder: Path, stem: str) -> tuple[Path, ...]:
    """The files of a folder that begin a stem: the index of its shards, one file, or a pickle, in this order.

    Args:
        folder: The folder.
        stem: As "diffusion_pytorch_model".
    """
    pickles = (f"{stem}{suffix}" for suffix in SUFFIXES)
    names = (f"{stem}.safetensors{_INDEX}", f"{stem}.safetensors", f"{stem}.bin{_INDEX}", *pickles)
    return tuple(folder / name for name in names if (folder / name).is_file())


def open_stem(folder: Path, stem: str) -> Source:
    """Open what a folder holds under a stem: shards by their index, else one file; safetensors before pickles.

    Args:
        folder: The folder.
        stem: As "diffusion_pytorch_model".

    Returns:
        The table of contents over all shards.

    Raises:
        FileNotFoundError: If there is nothing, or a shard is missing.
        ValueError: If a file is damaged, or the index is none.
    """
    found = stem_files(folder, stem)
    if not found:
        raise FileNotFoundError(f"{folder / stem}.safetensors is missing; copy the whole folder of the model")
    return open_source(found[0])


def _open_index(index: Path) -> Source:
    try:
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(where.values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} must be an index of shards, got something else ({error}); copy it anew") from error
    return _joined(index, [_neighbour(index, file) for file in files], where)


def _neighbour(index: Path, file: str) -> Path:
    if not isinstance(file, str) or Path(file).name != file:
        raise ValueError(f"{index} must name files of its own folder, got {file!r}; copy it anew")
    path = index.parent / file
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, though {index.name} names it; copy the whole folder")
    return path


def _joined(index: Path, files: Sequence[Path], where: Mapping[str, str]) -> Source:
    entries: dict[str, Entry] = {}
    header: dict[str, str] = {}
    for file in files:
        shard = _open_file(file)
        entries.update(shard.entries)
        header.update(shard.header)
    lost = sorted(where.keys() - entries.keys())
    if lost:
        shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        raise ValueError(f"{index} must agree with its shards, got {len(lost)} tensors in no shard: {shown}")
    return Source(path=index, entries=entries, header=header)


def _open_safetensors(path: Path) -> Source:
    entries = {}
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118, it is no mapping
                told = file.get_slice(key)
                dtype = _TYPES.get(str(told.get_dtype()), torch.uint8)
                entries[key] = Entry(file=path, key=(key,), shape=tuple(told.get_shape()), dtype=dtype)
    except SafetensorError as error:
        fault = f"{path} must be a safetensors file, got a damaged or other one"
        raise ValueError(f"{fault} ({error}); copy it anew") from error
    return Source(path=path, entries=entries, header=header)


def _leaves(tree: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """The named tensors of nested mappings; an optimiser's numbered ones have no names and stay outside."""
    if isinstance(tree, Tensor):
        yield above, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            if isinstance(key, str):
                yield from _leaves(value, (*above, key))


def _read(file: Path, entries: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; copy the whole folder of the model")
    if is_pickle(file):
        tree = read_pickle(file)
        for name, entry in entries.items():
            value = tree
            for key in entry.key:
                value = value[key]
            yield name, value
        return
    try:
        with safe_open(file, framework="pt") as opened:
            for name, entry in entries.items():
                yield name, opened.get_tensor(entry.key[0])
    except SafetensorError as error:
        raise ValueError(f"{file} must be a safetensors file, got a damaged one ({error}); copy it anew") from error
