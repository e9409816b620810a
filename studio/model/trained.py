"""What `studio.train` writes, as a model to open: a run's folder, one of its checkpoints, or its generator's file.

A run keeps the weights that it trained and the name of the model that it began with, which brings all the rest.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from studio.config import ModelConfig, from_dict
from studio.model.kinds import identify, require
from studio.model.layouts import Layout
from studio.model.lora import LoRA, lora_of
from studio.model.sources import Source, open_source, stem_files

__all__ = ["Found", "Trained", "find_trained"]

Found = tuple[Layout, tuple[tuple[Path | LoRA, float], ...]]

# Names that a run gives; see `studio.train.running` and `studio.train.snapshots`.
_WEIGHTS, _STATE, _GENERATOR, _EXPORT = "weights.safetensors", "state.json", "generator", "model"
_AVERAGE = "average"
_FRESH = "pocket"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The weights of a run.

    Args:
        path: What was named.
        weights: The file of weights, or the index of its shards.
        began: Name or folder of the model that the run began with.
    """

    path: Path
    weights: Path
    began: str

    def open(self, begun: Callable[[str], Found], *, base: Path | None = None, ema: bool | None = None) -> Found:
        """Find the model.

        Args:
            begun: Finds the model that the run began with.
            base: Folder of a model that brings the rest instead.
            ema: Averaged weights or plain ones, where there are both; None: averaged ones, as a run exports them.

        Returns:
            (where its networks are; adapters with their strengths).

        Raises:
            FileNotFoundError: If the model that it began with is not here.
            ValueError: If the weights are of another kind, are adapters of a model that is not here, or if there are no
                averaged ones.
        """
        source = self._source(ema)
        part = identify(source)
        if base is None and self.began == _FRESH and not Path(_FRESH).exists():
            raise FileNotFoundError(
                f"{self.path} holds the transformer of a run that began with fresh weights, got no text encoder and "
                "VAE; write the whole model by `export()` of the run, or name one by `base`"
            )
        try:
            layout, adapters = begun(self.began if base is None else str(base))
        except FileNotFoundError as error:
            kind = ValueError if part.kind == "lora" else FileNotFoundError
            what = "a LoRA" if part.kind == "lora" else "the transformer"
            raise kind(f"{self.path} holds {what} of a run that began with {self.began!r}: {error}") from error
        except RecursionError:
            raise ValueError(
                f"{self.path} holds weights of a run that began with {self.began!r}, got one that began with this run; "
                "name the model that it began with by `base`"
            ) from None
        told = json.loads(source.header.get("config", "{}"))
        config = from_dict(ModelConfig, told) if "dit" in told else layout.config
        layout = dataclasses.replace(layout, path=self.path, config=config)
        if part.kind == "lora":
            return layout, (*adapters, (lora_of(part.source, self.path.stem), 1.0))
        return dataclasses.replace(layout, dit=require(part, "dit").source), ()

    def _source(self, ema: bool | None) -> Source:
        source = open_source(self.weights)
        if self.weights.name != _WEIGHTS:
            return source
        averaged = any(name.startswith(f"{_AVERAGE}.") for name in source.entries)
        if ema and not averaged:
            raise ValueError(f"{self.weights} must hold averaged weights, got plain ones only; use ema=False")
        role = _AVERAGE if averaged and ema is not False else _GENERATOR
        return source.renamed(lambda name: name.removeprefix(f"{role}.") if name.startswith(f"{role}.") else None)


def find_trained(path: Path) -> Trained | Path | None:
    """Find what a run of `studio.train` wrote.

    Args:
        path: An existing folder or file.

    Returns:
        The weights; the folder of the whole model where the run wrote one; None if it is nothing of a run.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / _STATE).is_file() and (folder / _WEIGHTS).is_file() and path in (folder, folder / _WEIGHTS):
        began = _began(folder / _STATE, "config")
        return None if began is None else Trained(path=path, weights=folder / _WEIGHTS, began=began)
    began = _began(folder / "config.json")
    if began is None:
        return None
    if path.is_file():
        own = path.name.startswith(_GENERATOR)
        return Trained(path=path, weights=path, began=began) if own else None
    if (folder / _EXPORT / "config.json").is_file():
        return folder / _EXPORT
    if files := stem_files(folder, _GENERATOR):
        return Trained(path=path, weights=files[0], began=began)
    steps = sorted((folder / "checkpoints").glob(f"*/{_STATE}"))
    return find_trained(steps[-1].parent) if steps else None


def _began(file: Path, *inside: str) -> str | None:
    """The model that a run began with, out of its configuration; None if the file is something else."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        for key in inside:
            data = data[key]
        return data["generator"] if isinstance(data["generator"], str) and "out" in data else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
