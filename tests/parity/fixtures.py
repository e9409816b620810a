"""Finds the numeric parity fixtures: folders of `NAME.json` and `NAME.safetensors` pairs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

TOLERANCE = 1e-4


def folder() -> Path:
    """The folder named by STUDIO_FIXTURES, by default `../shared/fixtures` beside the repository."""
    named = os.environ.get("STUDIO_FIXTURES")
    return Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "fixtures"


def paths(kind: str) -> list[Path]:
    """The JSON files of one kind that have their tensors beside them, in alphabetical order."""
    found = sorted(folder().glob(f"{kind}*.json")) if folder().is_dir() else []
    return [path for path in found if path.with_suffix(".safetensors").exists() and _read(path).get("case") == kind]


def cases(kind: str) -> list[tuple[dict, dict[str, Tensor]]]:
    """Every case of a kind as (JSON, tensors); an empty list where there is none."""
    return [load(path) for path in paths(kind)]


def load(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """One case as (JSON, tensors)."""
    return _read(path), load_file(path.with_suffix(".safetensors"))


def case_params(kind: str) -> list:
    """Pytest parameters, one path a case; a single skipped parameter with its reason where there is none."""
    found = paths(kind)
    if found:
        return [pytest.param(path, id=path.stem) for path in found]
    reason = f"no {kind}*.json with tensors in {folder()}; name the fixtures' folder in STUDIO_FIXTURES"
    return [pytest.param(None, id=f"no-{kind}", marks=pytest.mark.skip(reason=reason))]


def variant_params(kind: str) -> list:
    """Pytest parameters (path, variant name), one a variant of every case; skipped with the reason where none."""
    found = [(path, name) for path in paths(kind) for name in _read(path).get("variants", {})]
    if found:
        return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in found]
    reason = f"no variants of {kind} in {folder()}; name the fixtures' folder in STUDIO_FIXTURES"
    return [pytest.param(None, None, id=f"no-{kind}", marks=pytest.mark.skip(reason=reason))]


def weights(tensors: dict[str, Tensor], prefix: str = "weights.") -> dict[str, Tensor]:
    """The state dict stored under `weights.`, with the prefix taken off."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def manifest() -> dict | None:
    """The checkpoint manifest (`models.NAME.tensors`), or None where the folder has none."""
    path = folder() / "checkpoint_manifest.json"
    return _read(path) if path.exists() else None


def assert_close(got: Tensor, expected: Tensor, name: str, tolerance: float = TOLERANCE) -> None:
    """Fails with the largest absolute difference when `got` is off by more than the tolerance."""
    assert got.shape == expected.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    difference = (got.double() - expected.double()).abs().max().item() if got.numel() else 0.0
    assert difference <= tolerance, f"{name}: off by {difference:.3g}, tolerance {tolerance:g}"


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
