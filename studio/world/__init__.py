"""The miniature's world: a procedural picture-book theatre with captions, endless and seeded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.world.grammar import (
    ACTIONS,
    ATTRIBUTES,
    COLOURS,
    PLACES,
    SHAPES,
    Scene,
    all_scenes,
    canonical_caption,
    caption,
    held_out,
    parse,
    sample_scene,
    vocabulary,
)

if TYPE_CHECKING:
    from studio.world.renderer import Clip, SceneBatch, compiled_painter, render, switched

__all__ = [
    "ACTIONS",
    "ATTRIBUTES",
    "COLOURS",
    "PLACES",
    "SHAPES",
    "Clip",
    "Scene",
    "SceneBatch",
    "all_scenes",
    "canonical_caption",
    "caption",
    "compiled_painter",
    "held_out",
    "parse",
    "render",
    "sample_scene",
    "switched",
    "vocabulary",
]

_LAZY = {
    "Clip": "renderer",
    "SceneBatch": "renderer",
    "render": "renderer",
    "switched": "renderer",
    "compiled_painter": "renderer",
}


def __getattr__(name: str) -> object:
    # Captions and parsing must not wait for torch.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
