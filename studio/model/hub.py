"""Fetching public files with `huggingface_hub`: sizes first, resumed after a break, a mirror by HF_ENDPOINT.

Offline mode, cache folder, mirror and credentials are the hub client's own business (HF_HUB_OFFLINE, HF_HOME,
HF_ENDPOINT); nothing here asks for a token.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from studio.model.recipes import FOLDERS, RECIPES, Needed, Recipe, by_hand, homes, locate, model_folders

__all__ = ["Item", "Order", "fetch", "order", "recipe_of"]

GIB = 2**30
# What goes wrong on this machine and not on the way to the hub.
_LOCAL = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
    errno.EIO, errno.EDQUOT,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file of an order.

    Args:
        needed: The file.
        size: Its size in bytes.
        path: Where it already lies whole, or None.
        into: The folder of models that it is fetched into, where it has the other files of the repository or was named;
            None: the hub's cache.
        spoilt: Whether a file of another size lies where it belongs.
    """

    needed: Needed
    size: int
    path: Path | None
    into: Path | None = None
    spoilt: bool = False


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a download will fetch.

    Args:
        recipe: The model.
        items: All its files.
        folder: The folder of models that was named to fetch into, or None.
    """

    recipe: Recipe
    items: tuple[Item, ...]
    folder: Path | None

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(item.size for item in self.items)

    @property
    def missing(self) -> int:
        """Bytes still to fetch."""
        return sum(item.size for item in self.items if item.path is None)

    def as_text(self) -> str:
        """A line a file and the sum, for people."""
        lines = [
            f"{_size(item.size):>10}  {'here' if item.path else '    '}  {item.needed.repository} {item.needed.file}"
            for item in self.items
        ]
        return "\n".join([*lines, f"{_size(self.total):>10}  in all, {_size(self.missing)} to fetch"])


def recipe_of(name: str) -> Recipe:
    """Look up what a named model is made of.

    Args:
        name: A key of `RECIPES`.

    Raises:
        ValueError: If there is no such recipe.
    """
    if name not in RECIPES:
        import difflib

        near = difflib.get_close_matches(str(name), RECIPES, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"`name` must be a model to download, got {name!r}; {hint}known: {', '.join(RECIPES)}")
    return RECIPES[name]


def order(name: str, folder: Path | None = None) -> Order:
    """Ask the hub for the sizes of a model's files; where it cannot be reached, files that are all here need it not.

    Args:
        name: A key of `RECIPES`.
        folder: A folder of models to fetch into; None: for each repository the folder of STUDIO_MODELS that has some of
            its files, else the hub's cache. A repository is never parted, since its files are looked for in one place.

    Returns:
        What is to be fetched.

    Raises:
        ValueError: If there is no such model.
        NotADirectoryError: If `folder` is a file.
        ConnectionError: If the hub cannot be reached or lacks a file, naming the files and where to put them.
    """
    recipe = recipe_of(name)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`--local-dir` must be a folder, got the file {folder}; name another one")
    here = _here(recipe, folder)
    sizes = {needed: path.stat().st_size for needed, path in here.items() if path is not None}
    try:
        with _reachable(recipe, folder):
            sizes = _sizes(recipe.files)
    except ConnectionError:
        if len(sizes) < len(recipe.files):
            raise
    places = homes(recipe.files, model_folders())
    items = []
    for needed in recipe.files:
        path, into = here[needed], places[needed.repository] if folder is None else folder
        whole = _whole(path, sizes[needed])
        spoilt = path is not None and whole is None
        items.append(Item(needed=needed, size=sizes[needed], path=whole, into=into, spoilt=spoilt))
    return Order(recipe=recipe, items=tuple(items), folder=folder)


def fetch(wanted: Order, told: Callable[[Item], None] | None = None) -> list[Path]:
    """Fetch what is missing; a connection that breaks off goes on where it ended, and whole files stay.

    Args:
        wanted: What `order` gave.
        told: Called before each file that is fetched.

    Returns:
        The places of all files.

    Raises:
        OSError: If there is too little space, or a file cannot be written.
        ConnectionError: If the hub cannot be reached, naming the files and where to put them.
    """
    from huggingface_hub import hf_hub_download

    _require_space(wanted)
    paths = []
    for item in wanted.items:
        if item.path is None and told is not None:
            told(item)
        repository, file = item.needed.repository, item.needed.file
        local = None if item.into is None else item.into / repository.split("/")[-1]
        if item.path is not None:
            paths.append(item.path)
            continue
        # The client trusts its notes on a folder; a file of another size there is one that somebody spoilt.
        with _reachable(wanted.recipe, wanted.folder):
            path = hf_hub_download(repository, file, local_dir=local, endpoint=_endpoint(), force_download=item.spoilt)
        paths.append(Path(path))
    return paths


def _sizes(files: Sequence[Needed]) -> dict[Needed, int]:
    from huggingface_hub import HfApi

    api, sizes = HfApi(endpoint=_endpoint()), {}
    for repository in dict.fromkeys(needed.repository for needed in files):
        names = [needed.file for needed in files if needed.repository == repository]
        told = {entry.path: getattr(entry, "size", 0) for entry in api.get_paths_info(repository, names)}
        lacking = [name for name in names if name not in told]
        if lacking:
            raise ConnectionError(f"{repository} has no {', '.join(lacking)}")
        sizes.update({Needed(repository=repository, file=name): told[name] for name in names})
    return sizes


def _here(recipe: Recipe, folder: Path | None) -> dict[Needed, Path | None]:
    """Where each file lies already, whole or not."""
    if folder is None:
        return locate(recipe)
    return {n: folder / n.local if (folder / n.local).is_file() else None for n in recipe.files}


def _whole(path: Path | None, size: int) -> Path | None:
    return path if path is not None and path.stat().st_size == size else None


def _require_space(wanted: Order) -> None:
    from huggingface_hub import constants

    missing: dict[Path, int] = {}
    for item in wanted.items:
        place = Path(item.into or wanted.folder or constants.HF_HUB_CACHE).absolute()
        missing[place] = missing.get(place, 0) + (item.size if item.path is None else 0)
    for place, size in missing.items():
        there = next((path for path in (place, *place.parents) if path.exists()), None)
        if there is None:
            raise FileNotFoundError(f"there is no {place.anchor or place}; choose another place with --local-dir")
        free = shutil.disk_usage(there).free
        if size > free:
            raise OSError(
                f"{wanted.recipe.name!r} needs {_size(size)} more, got {_size(free)} free in {there}; make room or "
                "choose another place with --local-dir"
            )


@contextmanager
def _reachable(recipe: Recipe, folder: Path | None) -> Iterator[None]:
    """Turn whatever the hub's client raises into one message that helps; a file refused here is not the hub's fault."""
    try:
        yield
    except OSError as error:
        if error.errno not in _LOCAL:
            raise ConnectionError(_by_hand(recipe, folder, error)) from error
        place = f" {error.filename}" if error.filename else ""
        raise OSError(
            f"the files of {recipe.name!r} cannot be written:{place} {error.strerror}; mend that, or choose another "
            "place with --local-dir"
        ) from error
    except Exception as error:  # its client raises the errors of whichever HTTP library it uses
        raise ConnectionError(_by_hand(recipe, folder, error)) from error


def _by_hand(recipe: Recipe, folder: Path | None, error: Exception) -> str:
    place, here = folder or next(iter(model_folders()), Path("DIR")), _here(recipe, folder)
    missing = [needed for needed, path in here.items() if path is None] or recipe.files
    lines = by_hand(missing, here, place)
    why = str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
    return (
        f"the hub at {_endpoint() or 'its usual place'} could not serve {recipe.name!r} ({why}). Try again, name a "
        f"mirror in HF_ENDPOINT, or fetch these files elsewhere, put them there and set {FOLDERS}={place}:\n"
        + "\n".join(lines)
    )


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB // 10 else f"{count / 2**20:.1f} MiB"
