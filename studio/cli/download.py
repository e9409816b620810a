"""`studio download`: fetch the public files of a named model, their size shown first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.config import PRESETS

TEXT = "fetch the public weights of a named model"
MORE = """The files go to the hub's cache, or to the folder of STUDIO_MODELS that has others of the same repository,
or with --local-dir to a folder of models that STUDIO_MODELS then names.
A connection that breaks off goes on where it ended, and files that are whole are not fetched again.
HF_ENDPOINT names a mirror, HF_HOME the cache's place, and HF_HUB_OFFLINE=1 keeps off the network."""


def add_arguments(parser: Any) -> None:
    """Add the command's words.

    Args:
        parser: Its parser.
    """
    names = [name for name in PRESETS if name != "miniature"]
    parser.add_argument("name", nargs="?", help=f"one of {', '.join(names)}")
    parser.add_argument("--list", action="store_true", help="list the models and their files, without the network")
    parser.add_argument("--local-dir", type=Path, metavar="DIR", help="a folder of models to fetch into")
    parser.add_argument("--dry-run", action="store_true", help="show the sizes only")


def run(options: Any, tell: Callable[[str], None], say: Callable[[str], None]) -> int:
    """Run the command.

    Args:
        options: Its words.
        tell: Writes what was asked for.
        say: Writes everything else.

    Returns:
        Exit status.

    Raises:
        ValueError: If there is no such model, or none is named.
        OSError: If the hub cannot be reached, if there is too little space, or if the folder cannot be written to.
    """
    from studio.model import hub
    from studio.model.recipes import FOLDERS, RECIPES

    if options.list:
        for recipe in RECIPES.values() if options.name is None else (hub.recipe_of(options.name),):
            tell(recipe.name)
            for needed in recipe.files:
                tell(f"  {needed.repository} {needed.file}")
        return 0
    if options.name is None:
        raise ValueError(f"`name` must be given; use one of {', '.join(RECIPES)}")
    # A shell leaves the sign of the home folder in --local-dir=~/models as it is.
    folder = None if options.local_dir is None else options.local_dir.expanduser().absolute()
    wanted = hub.order(options.name, folder)
    say(wanted.as_text())
    if options.dry_run:
        return 0
    paths = hub.fetch(wanted, told=lambda item: say(f"{item.needed.repository} {item.needed.file}"))
    tell("\n".join(str(path) for path in paths))
    if folder is not None:
        say(f"set {FOLDERS}={folder} so that studio.open({options.name!r}) finds them")
    return 0
