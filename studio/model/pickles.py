"""Checkpoints in PyTorch's own format, opened without ever running what is in them."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch

__all__ = ["SUFFIXES", "is_pickle", "read_pickle"]

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
# A zip archive, which `torch.save` makes, or a bare pickle stream, whatever the file's name says.
_ZIP = b"PK"
_STREAMS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
# A safetensors file begins with the length of its header, in eight bytes of which any may be those of a pickle.
_LENGTH = 8


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle by its ending or by its first bytes.

    Args:
        path: An existing file.
    """
    with path.open("rb") as file:
        start = file.read(_LENGTH + 1)
    if start[_LENGTH:] == b"{" and int.from_bytes(start[:_LENGTH], "little") <= path.stat().st_size - _LENGTH:
        return False
    return path.suffix.lower() in SUFFIXES or start[:2] == _ZIP or start[:2] in _STREAMS


def read_pickle(path: Path) -> Any:
    """Open a checkpoint of tensors, mappings and plain numbers; tensors stay on disk until they are used.

    Args:
        path: A file written by `torch.save`.

    Returns:
        What was saved.

    Raises:
        ValueError: If it holds code, is damaged, or is not of the format that can be read in place.

    Source: `torch.load` with `weights_only` and `mmap`; the restricted unpickler builds tensors and containers only.
    """
    with path.open("rb") as file:
        start = file.read(2)
    if start != _ZIP:
        raise ValueError(
            f"{path} must be a file of `torch.save` in its zip format or of safetensors, got "
            f"{'a bare or old pickle' if start in _STREAMS else 'something else'}; copy it anew or convert it to "
            "safetensors where you trust it"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path} must be a {path.suffix or 'checkpoint'} file as its name says, got a pickle; if it is meant to be "
            f"one, rename it to {path.stem}.pth"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" (`{named[1]}`)" if named else ""
        raise ValueError(
            f"{path} must hold tensors only, got a pickle with code in it{what}, which would run when it is read; it "
            "was not opened. Ask its maker for safetensors"
        ) from None
    except Exception as error:  # a torn pickle fails in as many ways as it has instructions
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} must hold tensors only, got a TorchScript program; it was not opened. Ask its maker "
                "for safetensors"
            ) from None
        first = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise ValueError(f"{path} must be a checkpoint, got a damaged or other file ({first}); copy it anew") from error
