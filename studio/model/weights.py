"""Weights: safetensors files that say what they hold, one folder a model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write(path: Path, tensors: Mapping[str, Tensor], *, kind: str, config: Mapping[str, Any],
          dtype: torch.dtype | None = None) -> None:
    """Writes one safetensors file aside and renames it, with its kind and configuration in the header.

    Args:
        path: the file.
        tensors: a state dict.
        kind: what it holds: "dit", "vae", "text" or "probe".
        config: the JSON-ready configuration that the tensors belong to.
        dtype: type of the floating-point tensors in the file; None leaves them.
    """
    aside = path.with_name(path.name + ".part")
    stored = {key: value.detach().to("cpu", dtype if dtype and value.is_floating_point() else value.dtype).contiguous()
              for key, value in tensors.items()}
    save_file(stored, aside,
              metadata={"format": "pt", "kind": kind, "config": json.dumps(dict(config))})
    os.replace(aside, path)


def read(path: Path, *, kind: str | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads one safetensors file that `write` has written.

    Args:
        path: the file.
        kind: what it must hold; None: anything.

    Returns:
        (configuration, state dict).

    Raises:
        ValueError: if the file is damaged, or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
    except SafetensorError as error:
        raise ValueError(f"`{path}` must be a safetensors file, got a damaged or other one ({error}); copy it anew") from error
    if kind is not None and header.get("kind") != kind:
        raise ValueError(f"`{path}` must hold {kind!r} weights, got {header.get('kind')!r}; name another file")
    return json.loads(header.get("config", "{}")), tensors
