"""Checkpoints of a training: folders of safetensors that are whole or not there, the newest ones kept.

A checkpoint is written into a folder aside, forced to disk, and then renamed; a run killed at any moment finds its last
whole checkpoint. All randomness is counted from the step, so the step is the random state.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from studio.config import to_dict
from studio.train.averages import WeightAverage
from studio.train.ranks import shared_sum
from studio.train.sharding import spread, whole
from studio.train.trainer import Trainer

__all__ = ["agreed", "held", "load_snapshot", "newest", "require_shared", "save_snapshot"]

_PREFIX, _ASIDE = "step-", ".part-"
# What may differ between the run that wrote a checkpoint and the one that goes on from it.
_FREE = {
    *("out", "steps", "seconds", "save_every", "keep", "export", "device", "trackers", "preview_every"),
    *("compile", "fuse", "shard", "recompute"),
}
# Seconds after which a file that one process made must be seen by all; network disks take a while.
_SEEN_WITHIN = 10.0
# How the clips of an update are dealt out, besides the number of processes.
_DEALT = ("batch", "accumulate")


def newest(folder: Path | str) -> Path | None:
    """The last whole checkpoint of a training's folder, or `None`."""
    found = sorted(path for path in Path(folder).glob(f"{_PREFIX}*") if (path / "state.json").is_file())
    return found[-1] if found else None


def agreed(found: Path | None) -> Path | None:
    """The checkpoint to go on from, if all processes found the same; every rank calls it.

    Args:
        found: What this process found, see `newest`.

    Returns:
        The same.

    Raises:
        ValueError: On every rank, if they found different ones: mixed networks would train on in silence.
    """
    mark = float(0 if found is None else 1 + zlib.crc32(found.name.encode()) % 1_000_003)
    world, total, squares = (shared_sum(value) for value in (1.0, mark, mark * mark))
    if world * squares != total * total:
        here = "none" if found is None else str(found)
        raise ValueError(
            f"`out` must be one folder for all processes; they found different checkpoints there, this one {here}; "
            "name a folder on a disk that all hosts share, or copy the checkpoint to each"
        )
    return found


def require_shared(folder: Path, accelerator: Any) -> None:
    """Refuse a folder of checkpoints that is not one and the same for all processes; every rank calls it.

    Args:
        folder: It is made.
        accelerator: Of the training.

    Raises:
        ValueError: On every rank, if one does not see what the first one writes there.
    """
    if accelerator.num_processes == 1:
        return
    mark = folder / ".shared"
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    accelerator.wait_for_everyone()
    until = time.monotonic() + _SEEN_WITHIN
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.1)
    seen = shared_sum(float(mark.exists()))
    if accelerator.is_main_process:
        mark.unlink(missing_ok=True)
    if seen != accelerator.num_processes:
        blind = accelerator.num_processes - seen
        raise ValueError(
            f"`out` must be one folder for all processes, got {folder.parent}, where {blind:g} of them do not see what "
            "the first one writes; name a folder on a disk that all hosts share"
        )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Inside, no other training writes into a folder: two would rotate away each other's checkpoints.

    Args:
        folder: The training's; it is made. The process that writes there holds it for all.

    Raises:
        RuntimeError: If a training has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The system lets go of it when a process dies, however it dies; a training may end in another thread than it began.
    lock = filelock.FileLock(folder / ".lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise RuntimeError(
            f"a training is running in {folder}; call its `stop()`, wait for its end, or give another `out`"
        ) from error
    try:
        yield
    finally:
        lock.release()


def save_snapshot(trainer: Trainer, folder: Path | str, history: list[dict[str, float]]) -> Path:
    """Write a checkpoint and remove the oldest beyond those to keep; every rank calls it.

    Args:
        trainer: The training.
        folder: Where its checkpoints are; it is made.
        history: Metrics of the steps so far.

    Returns:
        The checkpoint's folder.
    """
    folder, name = Path(folder), f"{_PREFIX}{trainer.done:08d}"
    aside, target = folder / f"{_ASIDE}{name}", folder / name
    accelerator = trainer.accelerator
    # Sharded tensors are put together by all processes and written by one.
    weights, moments = ({key: whole(value) for key, value in part(trainer).items()} for part in (_weights, _moments))
    if accelerator.is_main_process:
        for left in folder.glob(f"{_ASIDE}*"):
            shutil.rmtree(left)
        aside.mkdir(parents=True)
        _write(aside / "weights.safetensors", weights, {"config": json.dumps(to_dict(trainer.exported_config))})
        _write(aside / "optimizers.safetensors", moments)
    accelerator.wait_for_everyone()
    kept = trainer.state()
    _write(aside / f"rank-{trainer.rank}.safetensors", {k: v for k, v in kept.items() if isinstance(v, Tensor)})
    plain = {key: value for key, value in kept.items() if not isinstance(value, Tensor)}
    _write_text(aside / f"rank-{trainer.rank}.json", json.dumps(plain))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state = {
            "step": trainer.done,
            "processes": accelerator.num_processes,
            "config": dataclasses.asdict(trainer.config),
            "history": history,
        }
        _write_text(aside / "state.json", json.dumps(state))
        if target.exists():
            shutil.rmtree(target)
        os.replace(aside, target)
        _sync(folder)
        for old in sorted(folder.glob(f"{_PREFIX}*"))[: -trainer.config.keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return target


def load_snapshot(trainer: Trainer, path: Path | str) -> list[dict[str, float]]:
    """Put a checkpoint into a fresh trainer.

    Args:
        trainer: A trainer of the same configuration, changed in place.
        path: The checkpoint's folder.

    Returns:
        Metrics of the steps before it.

    Raises:
        ValueError: If it is damaged, or of another configuration, number of clips or network.
    """
    path = Path(path)
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        weights, moments = load_file(path / "weights.safetensors"), load_file(path / "optimizers.safetensors")
        then = (state["processes"], *(state["config"][name] for name in _DEALT))
        now = (trainer.accelerator.num_processes, *(getattr(trainer.config, name) for name in _DEALT))
        moved = then != now
        # What each process keeps for itself fits as many clips only; elsewhere the first one's says how far it came.
        rank = 0 if moved else trainer.rank
        kept: dict[str, Any] = json.loads((path / f"rank-{rank}.json").read_text(encoding="utf-8"))
        tensors = {} if moved else load_file(path / f"rank-{rank}.safetensors")
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        fault = f"{path} must be a whole checkpoint ({error})"
        raise ValueError(f"{fault}; remove it to go on from the one before") from error
    _check_clips(then, now, path)
    _check(trainer, state, path)
    _fill(trainer, weights, path)
    _fill_moments(trainer, moments)
    trainer.done = state["step"]
    if moved:
        trainer.begin_anew(kept)
    else:
        trainer.restore({**kept, **tensors})
    return state["history"]


def _check_clips(then: tuple[int, ...], now: tuple[int, ...], path: Path) -> None:
    """Draws are counted by clips, whoever makes them and when: as many clips an update are the same training."""
    clips = math.prod(then)
    if clips != math.prod(now):
        processes, _, accumulate = now
        batch, rest = divmod(clips, processes * accumulate)
        remedy = f"use batch={batch}" if not rest else f"use a batch that makes them {clips}"
        raise ValueError(
            f"{path} was written by {then[0]} processes with {clips} clips an update, "
            f"got {processes} with {math.prod(now)}; {remedy}"
        )


def _check(trainer: Trainer, state: dict[str, Any], path: Path) -> None:
    now, then = json.loads(json.dumps(dataclasses.asdict(trainer.config))), state["config"]
    for name in now.keys() | then.keys():
        if name not in (*_FREE, *_DEALT) and now.get(name) != then.get(name):
            raise ValueError(
                f"{path} was written with `{name}` {then.get(name)!r}, got {now.get(name)!r}; "
                "use another `out` for another training"
            )


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for role, learner in trainer.learners.items():
        found |= {f"{role}.{name}": parameter for name, parameter in _trained(learner.network).items()}
    if trainer.average is not None:
        found |= {f"average.{name}": value for name, value in trainer.average.weights.items()}
    return found


@torch.no_grad()
def _fill(trainer: Trainer, weights: Mapping[str, Tensor], path: Path) -> None:
    if not any(key.startswith("average.") for key in weights):
        trainer.average = None
    elif trainer.average is None:
        trainer.average = WeightAverage(trainer.networks.generator, trainer.config.average or 0.0)
    mine = _weights(trainer)
    misfits = sorted(mine.keys() ^ weights.keys())
    misfits += [key for key in mine.keys() & weights.keys() if mine[key].shape != weights[key].shape]
    if misfits:
        fault = f"{path} must fit the networks, got {len(misfits)} misfits such as {misfits[0]}"
        raise ValueError(f"{fault}; use the model it was written for")
    for key, value in mine.items():
        value.copy_(spread(weights[key], value))


def _moments(trainer: Trainer) -> dict[str, Tensor]:
    # From the optimiser itself: what its `state_dict` gives may be wrapped up for others.
    return {
        f"{role}.{index}.{name}": torch.as_tensor(value)
        for role, learner in trainer.learners.items()
        for index, parameter in enumerate(learner.parameters)
        for name, value in learner.optimizer.state.get(parameter, {}).items()
    }


def _fill_moments(trainer: Trainer, moments: Mapping[str, Tensor]) -> None:
    for role, learner in trainer.learners.items():
        whole = learner.optimizer.state_dict()
        state: dict[int, dict[str, Any]] = {}
        for key, value in moments.items():
            owner, index, name = key.split(".")
            if owner == role:
                own = learner.parameters[int(index)]
                kept = spread(value, own) if value.shape == own.shape else value
                # A count that was a plain number is one again.
                plain = not value.dim() and not value.is_floating_point()
                state.setdefault(int(index), {})[name] = value.item() if plain else kept
        learner.optimizer.load_state_dict({**whole, "state": state})


def _write(path: Path, tensors: Mapping[str, Tensor], told: dict[str, str] | None = None) -> None:
    save_file({key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}, path, told)
    _sync(path)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
