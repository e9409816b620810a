"""Exports: a range of a take as a film, a GIF, a folder of pictures or latents, beside playing and with progress."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from studio.live.engine import to_uint8
from studio.live.export import FILMS, Film, Writer, encoder
from studio.live.latents import save_latents
from studio.live.log import TakeLog
from studio.live.orders import Order
from studio.live.pictures import Gif, Pngs, check_folder
from studio.live.rebuild import rebuild_stream
from studio.live.vault import Reel
from studio.shapes import VideoShape
from studio.timeline import check_whole, shorten
from studio.writing import check_place

if TYPE_CHECKING:
    from studio.live.core import Core
    from studio.live.scrub import Scrub

FORMATS = ("mp4", "webm", "gif", "png", "safetensors")
REMEDY = "replace it with force=True"


class Cancelled(RuntimeError):
    """An export was cancelled; nothing was left under its name."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an export is to write.

    Args:
        path: the file, or the folder of pictures.
        kind: one of `FORMATS`.
        codec: of a film: "h264" or "av1"; None for the usual one.
        take: number of the take.
        start: first frame.
        stop: frame just past the last.
        exact: whether the pictures are decoded anew from the latents, rather than taken as they are kept.
    """

    path: Path
    kind: str
    codec: str | None
    take: int
    start: int
    stop: int
    exact: bool

    def blocks(self, units: VideoShape) -> range:
        """The blocks that hold the frames."""
        return range(units.block_at(self.start), units.block_at(self.stop - 1) + 1)


class Export:
    """An export under way in a thread of its own; the file appears under its name when it is complete.

    Args:
        plan: what to write.
        core: the session's generator.
        scrub: gives the frames.

    Attributes:
        changed: called without arguments when something has changed; it must return at once.
    """

    def __init__(self, plan: Plan, core: Core, scrub: Scrub) -> None:
        self.plan, self.changed = plan, _nothing
        self._core, self._scrub = core, scrub
        self._cancel, self._over = threading.Event(), threading.Event()
        self._done = 0
        self._error: BaseException | None = None
        with core.changed:
            take = core.takes[plan.take]
            last = plan.blocks(core.units).stop
            self._log = TakeLog(take.records[:last], core.describe, take.name)
            self._timeline, self._reel = take.history.timeline, take.latents
        self._thread = threading.Thread(target=self._run, name="studio-export", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The file, or the folder of pictures."""
        return self.plan.path

    @property
    def progress(self) -> tuple[int, int]:
        """Frames written, and frames in all."""
        return self._done, self.plan.stop - self.plan.start

    @property
    def state(self) -> str:
        """How it goes: "running", "done", "cancelled" or "failed"."""
        if not self._over.is_set():
            return "running"
        if self._error is None:
            return "done"
        return "cancelled" if isinstance(self._error, Cancelled) else "failed"

    @property
    def error(self) -> str | None:
        """What went wrong, in a sentence; None where nothing did."""
        return None if self._error is None or self.state != "failed" else str(self._error)

    def cancel(self) -> None:
        """Give it up; nothing is left under the final name, and a file that had it before stays."""
        self._cancel.set()

    def wait(self, timeout_s: float | None = None) -> Path:
        """Wait for its end.

        Args:
            timeout_s: at most so many seconds; None for as long as it takes.

        Returns:
            The file, or the folder of pictures.

        Raises:
            RuntimeError: it was cancelled or failed.
            TimeoutError: it is not over yet.
        """
        if not self._over.wait(timeout_s):
            done, of = self.progress
            raise TimeoutError(f"{self.path.name}: {done} of {of} frames are written; wait again, or cancel()")
        if isinstance(self._error, Cancelled):
            raise self._error
        if self._error is not None:
            raise RuntimeError(f"{self.path.name} could not be written: {self._error}") from self._error
        return self.path

    def __repr__(self) -> str:
        done, of = self.progress
        return f"<Export {self.path.name}: {self.state}, {done} of {of} frames>"

    # The thread

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:
            self._error = error
        finally:
            self._over.set()
            self.changed()

    def _write(self) -> None:
        plan = self.plan
        if plan.kind == "safetensors":
            self._write_latents(plan.blocks(self._core.units))
            return
        writer = self._writer()
        with writer:
            for frames in self._frames():
                for part in np.split(frames, range(4, len(frames), 4)):
                    self._check()
                    writer.write(part)
                    self._done += len(part)
                    self.changed()
            self._check()

    def _write_latents(self, blocks: range) -> None:
        latents = []
        for index in blocks:
            self._check()
            latents.append(self._reel[index])
        save_latents(self.path, latents, self._log, self._timeline, first=blocks.start)
        self._done = self.plan.stop - self.plan.start

    def _check(self) -> None:
        if self._cancel.is_set():
            raise Cancelled(f"{self.path.name} was cancelled; nothing was written")

    def _writer(self) -> Writer:
        plan, core = self.plan, self._core
        options = {"width": core.units.width, "height": core.units.height, "fps": core.units.fps}
        line, log = self._timeline.to_json(), self._log.to_json()
        if plan.kind in ("gif", "png"):
            words = {"title": self._log[0].prompt, "timeline": line, "log": log, "frames": f"{plan.start} {plan.stop}"}
            return (Gif if plan.kind == "gif" else Pngs)(plan.path, tags=words, **options)
        # What every container keeps.
        words = {"title": self._log[0].prompt, "comment": line, "description": log}
        return Film(plan.path, tags=words, codec=plan.codec, **options)

    def _frames(self) -> Iterator[np.ndarray]:
        plan, units = self.plan, self._core.units
        blocks = self._decoded() if plan.exact else self._kept()
        for index, frames in blocks:
            first = units.first_frame(index)
            yield frames[max(0, plan.start - first) : plan.stop - first]

    def _kept(self) -> Iterator[tuple[int, np.ndarray]]:
        for index in self.plan.blocks(self._core.units):
            block = self._scrub.block(index, self.plan.take)
            if block is None:
                raise RuntimeError("the take is no longer there; it was removed, or the session was closed")
            yield index, block.frames

    def _decoded(self) -> Iterator[tuple[int, np.ndarray]]:
        models, size = self._core.models, self._core.units.block
        if models is None:
            raise RuntimeError("the session was closed; its networks are gone")
        blocks = self.plan.blocks(self._core.units)
        yield from decode_blocks(models.vae, self._reel, [record.order for record in self._log], blocks, size)


def decode_blocks(
    vae: torch.nn.Module, latents: Reel, orders: list[Order], blocks: range, size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode blocks of a take anew: the very pictures that were generated.

    Args:
        vae: the video VAE.
        latents: of all blocks up to the last one decoded, `[1, f, C, H, W]` each.
        orders: what each was made of.
        blocks: the blocks to decode.
        size: latent frames a block.

    Returns:
        Number and frames, uint8 `[T, H, W, 3]`, of each block.
    """
    like = next(vae.parameters())
    with torch.inference_mode():
        stream = rebuild_stream(vae, latents[: blocks.start], orders[: blocks.start], size)
    for index in blocks:
        with torch.inference_mode():
            pixels = vae.decode(latents[index].to(like), stream, cut=orders[index].policy == "clear")  # type: ignore[operator]
            frames = to_uint8(pixels)
        yield index, frames


def kind_of(path: Path, given: str | None) -> str:
    """The format of an export.

    Args:
        path: where to; its ending tells the format, and no ending means a folder of pictures.
        given: the format, where a caller names it.

    Returns:
        One of `FORMATS`.

    Raises:
        ValueError: there is no such format, or the ending belongs to another one.
    """
    ending = path.suffix.lower().removeprefix(".")
    told = ending or "png"
    kind = told if given is None else given
    if kind not in FORMATS:
        what = "`format`" if given is not None else "the ending"
        raise ValueError(f"{what} must be one of {', '.join(FORMATS)}, got {shorten(kind)}; no ending is a PNG folder")
    if given is not None and told != given and (ending in FORMATS or given != "png"):
        raise ValueError(f"{shorten(path.name)} has the ending of another format than {given}; rename it")
    if kind == "png" and ending == "png":
        raise ValueError(f"PNG frames go into a folder; name it without an ending, as {shorten(path.stem)}")
    return kind


def plan_of(
    core: Core, path: str | Path, kind: str | None, codec: str | None, take: int, start: int, stop: int | None,
    *, exact: bool, force: bool,
) -> Plan:  # fmt: skip
    """Check what an export is to write, before anything is begun; see `Session.export`."""
    path = Path(path)
    kind = kind_of(path, kind)
    if codec is not None and kind not in ("mp4", "webm"):
        raise ValueError(f"`codec` is for films, got {shorten(codec)} for {kind}; leave it out")
    if f".{kind}" in FILMS:
        encoder(f".{kind}", codec)
    if kind == "png" and force and path.is_dir():
        check_folder(path)
    else:
        check_place(path, force=force, remedy=REMEDY)
    with core.changed:
        core.check_open()
        made = core.units.first_frame(core.takes[take].made)
    if not made:
        raise ValueError("there is no frame to export yet; play first")
    start = check_whole(start, "start", 0, made - 1, f"{made} frames were made, counted from 0")
    stop = check_whole(made if stop is None else stop, "stop", start + 1, made, f"use {start + 1} to {made}")
    return Plan(path=path, kind=kind, codec=codec, take=take, start=start, stop=stop, exact=bool(exact))


def _nothing() -> None:
    pass
