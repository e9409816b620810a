"""Keeps what was made: in memory up to a budget, the rest on disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MEMORY = 512 * 2**20


class Kept:
    """One thing in a vault; it stays as long as somebody holds this handle.

    Args:
        value: bytes or an array.
    """

    def __init__(self, value: bytes | np.ndarray) -> None:
        self._value: bytes | np.ndarray | None = value
        self._path: Path | None = None
        self._kind = None if isinstance(value, bytes) else (value.dtype, value.shape)
        self.nbytes = len(value) if isinstance(value, bytes) else value.nbytes

    @property
    def in_memory(self) -> bool:
        """Whether it is not on disk."""
        return self._path is None

    def get(self) -> Any:
        """The value, read from disk where it is there."""
        value = self._value
        if value is not None:
            return value
        assert self._path is not None
        data = self._path.read_bytes()
        return data if self._kind is None else np.frombuffer(data, self._kind[0]).reshape(self._kind[1])

    def spill(self, path: Path) -> None:
        """Write it to disk and let go of the memory."""
        value = self._value
        if value is None:
            return
        path.write_bytes(value if isinstance(value, bytes) else value.tobytes())
        weakref.finalize(self, _remove, str(path)).atexit = False
        self._path, self._value = path, None  # in this order, so that a reader finds one of the two


class Vault:
    """A store whose oldest things go to disk when memory runs out.

    Args:
        budget: bytes kept in memory.
    """

    def __init__(self, budget: int = MEMORY) -> None:
        self.budget = budget
        self._held: deque[weakref.ref[Kept]] = deque()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0
        self._lock = threading.Lock()
        self.closed = False

    @property
    def folder(self) -> Path | None:
        """Where things are written; None while everything fits into memory."""
        return None if self._folder is None else Path(self._folder.name)

    @property
    def memory(self) -> int:
        """Bytes in memory."""
        with self._lock:
            return sum(kept.nbytes for kept in self._alive())

    def keep(self, value: bytes | np.ndarray) -> Kept:
        """Take something in.

        Args:
            value: bytes, or an array that nobody writes to any more.

        Returns:
            The handle that gives it back.
        """
        kept = Kept(value)
        with self._lock:
            self._held.append(weakref.ref(kept))
            if not self.closed:
                self._shrink()
        return kept

    def close(self) -> None:
        """Delete what is on disk."""
        with self._lock:
            self.closed = True
            folder, self._folder = self._folder, None
            self._held.clear()
        if folder is not None:
            folder.cleanup()

    def _alive(self) -> list[Kept]:
        return [kept for reference in self._held if (kept := reference()) is not None and kept.in_memory]

    def _shrink(self) -> None:
        alive = self._alive()
        self._held = deque(map(weakref.ref, alive))
        total = sum(kept.nbytes for kept in alive)
        for kept in alive:
            if total <= self.budget:
                break
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="studio-", ignore_cleanup_errors=True)
            self._count += 1
            kept.spill(Path(self._folder.name) / str(self._count))
            total -= kept.nbytes


class KeptTensor:
    """A tensor in a vault.

    Args:
        vault: where it is kept.
        tensor: on the CPU; nobody writes to it any more.
    """

    def __init__(self, vault: Vault, tensor: Tensor) -> None:
        self._dtype, self._shape = tensor.dtype, tensor.shape
        self._kept = vault.keep(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())

    @property
    def in_memory(self) -> bool:
        """Whether it is not on disk."""
        return self._kept.in_memory

    def get(self) -> Tensor:
        """The tensor, read from disk where it is there."""
        data = self._kept.get()
        data = data if data.flags.writeable else data.copy()
        return torch.from_numpy(data).view(self._dtype).reshape(self._shape)


class Reel(Sequence[Tensor]):
    """Tensors in a vault, each read as it is asked for.

    Args:
        kept: the tensors.
    """

    def __init__(self, kept: Sequence[KeptTensor]) -> None:
        self._kept = list(kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [kept.get() for kept in self._kept[index]]
        return self._kept[index].get()


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
