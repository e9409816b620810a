"""Which module belongs to which room, and which rooms a room may import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

WORDS = frozenset(
    {"calm", "comms", "config", "shapes", "screens", "timeline", "schedule", "events", "formats", "writing"}
)
ROOMS = {
    **dict.fromkeys(WORDS, "words"),
    **dict.fromkeys(("sampler", "solvers", "whole", "probes"), "loop"),
    "opening": "facade",
    **{room: room for room in ("model", "live", "train", "evaluate", "world", "widgets", "cli")},
}
MAY_IMPORT = {
    "words": {"words"},
    "model": {"words", "model"},
    "loop": {"words", "model", "loop"},
    "world": {"words", "world"},
    "live": {"words", "model", "loop", "live"},
    "train": {"words", "model", "loop", "world", "train"},
    "evaluate": {"words", "model", "loop", "world", "evaluate"},
    "widgets": {"words", "widgets"},
    "cli": {"words", "model", "loop", "world", "live", "train", "evaluate", "widgets", "cli"},
    "facade": {"words", "model", "loop", "world", "live", "train", "evaluate", "widgets", "cli", "facade"},
}


def room_of(module: str) -> str:
    """Returns the room of a dotted module name of the package.

    Raises:
        KeyError: If no room claims it.
    """
    parts = module.split(".")
    return "facade" if len(parts) == 1 else ROOMS[parts[1]]


def module_name(path: Path, root: Path) -> str:
    """Returns the dotted name of a file of the package, such as `studio.model.dit`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, *, package: bool) -> Iterator[tuple[int, str]]:
    """Yields line and dotted name of everything that a module imports, at its top or inside a function.

    Args:
        source: Text of the module.
        module: Its dotted name, to resolve relative imports.
        package: Whether it is an `__init__.py`.
    """
    here = module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{stem}.{alias.name}"


def arrows(source: str, module: str, *, package: bool = False) -> list[str]:
    """Returns a sentence for each import that goes the wrong way.

    Args:
        source: Text of the module.
        module: Its dotted name.
        package: Whether it is an `__init__.py`.
    """
    room = room_of(module)
    wrong = []
    for line, name in imports(source, module, package=package):
        parts = name.split(".")
        if parts[0] != "studio" or len(parts) < 2:
            continue
        # `from studio import Session` names no module: it goes through the facade.
        target = ROOMS.get(parts[1], "facade")
        if target not in MAY_IMPORT[room]:
            wrong.append(f"{module}:{line} imports {name}, but {room} may not import {target}")
    return wrong
