"""Recordings: a take's frames with everything that was read of its cache, in one file; played without the model.

A zip archive: `head.json` with model, timeline and log; for each block `frames/N`, its JPEG pictures; and for each
block that was watched `readings/N.json` and `readings/N.npz`, its provenance and its numbers. What was not read then
can be read later: the log and the networks make the take again, bit for bit on the same device.
"""

from __future__ import annotations

import io
import json
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from studio.events import DecodedBlock, Listener, Stats, Switch, UnknownWord
from studio.live.archive import compress, expand
from studio.live.blockreading import BlockReading, check_point
from studio.live.engine import Models, Texts
from studio.live.log import TakeLog
from studio.live.origin import origin_of
from studio.live.readingfile import reading_from, reading_to
from studio.live.replay import replay
from studio.live.rereading import reread, reread_block
from studio.live.watching import Observer
from studio.model.weights import load
from studio.shapes import VideoShape
from studio.timeline import Timeline, check_whole, shorten
from studio.writing import check_place, written

__all__ = ["Recording", "open_recording", "save_recording"]

FORMAT, VERSION, ENDING = "studio-recording", 1, ".studio"
KEPT = 8
# Far above what any block needs, far below what would exhaust a machine.
LARGEST = 512 * 2**20
# All readings of a recording are kept.
WITHOUT_END = 2**62


def save_recording(
    session: Any,
    path: str | Path,
    *,
    force: bool = False,
    taken: tuple[int, TakeLog, Timeline] | None = None,
) -> Path:
    """Write the current take of a session to a file, with what was read of its cache; whole or not at all.

    Args:
        session: The session; its readings are saved where it is watched, or was while it made the take.
        path: The file, ending in .studio.
        force: Whether it may replace another one.
        taken: Number, log and timeline of the take, taken down together; `None` asks the session for each.

    Returns:
        The path.

    Raises:
        FileExistsError: If it exists, and `force` is not set.
        FileNotFoundError: If its folder does not exist.
        RuntimeError: If the take was removed meanwhile.
        ValueError: If it ends otherwise, or nothing was made yet.
    """
    path = Path(path)
    if path.suffix.lower() != ENDING:
        raise ValueError(f"a recording must end in {ENDING}, got {shorten(str(path))}; name it {path.stem}{ENDING}")
    check_place(path, force=force, remedy="replace it")
    take, log, timeline = taken or (session.take, session.log, session.timeline)
    if not len(log):
        raise ValueError("a recording must hold at least one block, got none; play first")
    with written(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as file:
        file.writestr("head.json", json.dumps(_head(session, log, timeline), ensure_ascii=False))
        for index in range(len(log)):
            block = session.block(index, take)
            if block is None:
                raise RuntimeError("the take was removed while it was being recorded; record another one")
            file.writestr(f"frames/{index}", compress(block.frames))
        for reading in session.readings:
            if reading.take == take and reading.block < len(log):
                fields, arrays = reading_to(reading)
                file.writestr(f"readings/{reading.block}.json", json.dumps(fields, ensure_ascii=False))
                packed = io.BytesIO()
                np.savez_compressed(packed, allow_pickle=False, **arrays)
                file.writestr(f"readings/{reading.block}.npz", packed.getvalue())
    return path


def _head(session: Any, log: TakeLog, timeline: Timeline) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": session.name,
        "fps": session.fps,
        "width": session.width,
        "height": session.height,
        "device": session.device,
        "blocks": len(log),
        "timeline": timeline.to_json(),
        "log": log.to_json(),
    }


def open_recording(path: str | Path, *, models: Models | None = None) -> Recording:
    """Open a recording; show it with `studio.Studio` and every view of the cache.

    Args:
        path: A file that `Session.record` wrote.
        models: The networks that made it, for what was not read when it was recorded; `None` loads them by their name
            when they are needed first.

    Returns:
        The recording.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no recording, or a damaged one.
    """
    return Recording(path, models=models)


class Recording:
    """A take that was saved: it can be watched and looked back on, but not steered.

    Args:
        path: The file.
        models: The networks that made it; `None` loads them by their name when they are needed first.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no recording, or a damaged one.
    """

    def __init__(self, path: str | Path, *, models: Models | None = None) -> None:
        self.path, self._models = Path(path), models
        self._latents: list[Tensor] = []
        self._reading = threading.Lock()
        self._store = Observer(gone=lambda _: None, budget=WITHOUT_END)
        self._store.hold()
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no recording {shorten(str(path))}; check the path")
        try:
            with zipfile.ZipFile(self.path) as file:
                head = json.loads(_member(file, "head.json"))
                self._check(head, file)
                self._timeline, self._log = Timeline.from_json(head["timeline"]), TakeLog.from_json(head["log"])
                for index in self._watched(file, head["blocks"]):
                    self._store.adopt(self._read(file, index))
        except (zipfile.BadZipFile, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{self.path.name} is no recording, or a damaged one: {shorten(str(error))}") from None
        self._head = head
        self._held: OrderedDict[int, DecodedBlock] = OrderedDict()

    def _check(self, head: Any, file: zipfile.ZipFile) -> None:
        if not isinstance(head, dict) or (head.get("format"), head.get("version")) != (FORMAT, VERSION):
            raise ValueError(
                f"{self.path.name} must be a recording of version {VERSION}; save it anew with this studio"
            )
        missing = [i for i in range(head["blocks"]) if f"frames/{i}" not in file.namelist()]
        if missing or not head["blocks"]:
            raise ValueError(f"{self.path.name} lacks the frames of blocks {missing[:5]}; it was cut off")

    @staticmethod
    def _watched(file: zipfile.ZipFile, blocks: int) -> list[int]:
        names = set(file.namelist())
        return [index for index in range(blocks) if f"readings/{index}.json" in names]

    @staticmethod
    def _read(file: zipfile.ZipFile, index: int) -> BlockReading:
        fields = json.loads(_member(file, f"readings/{index}.json"))
        with np.load(io.BytesIO(_member(file, f"readings/{index}.npz")), allow_pickle=False) as arrays:
            return reading_from(fields, dict(arrays))

    # What it is

    @property
    def name(self) -> str:
        """Name of the model that made it."""
        return str(self._head["name"])

    @property
    def fps(self) -> float:
        """Pixel frames a second."""
        return float(self._head["fps"])

    @property
    def width(self) -> int:
        """Width of a frame in pixels."""
        return int(self._head["width"])

    @property
    def height(self) -> int:
        """Height of a frame in pixels."""
        return int(self._head["height"])

    @property
    def device(self) -> str:
        """What computed it."""
        return f"recorded on {self._head['device']}"

    @property
    def seed(self) -> int:
        """Seed of the take."""
        return self._timeline.seed

    @property
    def state(self) -> str:
        """Always "finished"."""
        return "finished"

    @property
    def timeline(self) -> Timeline:
        """The prompts by block, as far as it goes.

        Raises:
            RuntimeError: When set.
        """
        return self._timeline.cut(len(self._log))

    @timeline.setter
    def timeline(self, timeline: Timeline) -> None:
        self._refuse()

    @property
    def log(self) -> TakeLog:
        """What each block was made under."""
        return self._log

    @property
    def stats(self) -> Stats:
        """How much of it there is."""
        count = len(self._log)
        return Stats(generated_blocks=count, generated_frames=self._timeline.start_frame(count))

    @property
    def readings(self) -> tuple[BlockReading, ...]:
        """What was read of the cache, old to new."""
        return self._store.readings

    def __repr__(self) -> str:
        return (
            f"<Recording {self.path.name}: {self.name}, {len(self._log)} blocks, {len(self.readings)} of them watched>"
        )

    def block(self, index: int) -> DecodedBlock | None:
        """The frames of a block.

        Args:
            index: Its number.

        Returns:
            The block, or `None` beyond the end.
        """
        if not 0 <= index < len(self._log):
            return None
        if index not in self._held:
            record = self._log[index]
            with zipfile.ZipFile(self.path) as file:
                frames = expand(_member(file, f"frames/{index}"))
            switch = None
            if record.policy is not None:
                switch = self._switch(index)
            self._held[index] = DecodedBlock(
                index=index, first_frame=record.first_frame, frames=frames, prompt=record.prompt,
                segment=record.segment, switch=switch,
            )  # fmt: skip
            while len(self._held) > KEPT:
                self._held.popitem(last=False)
        return self._held.get(index)

    def _switch(self, index: int) -> Switch:
        record = self._log[index]
        asked = record.first_frame if record.requested_frame is None else record.requested_frame
        return Switch(
            prompt=record.prompt,
            policy=record.policy or "keep",
            requested_frame=asked,
            requested_block=self._timeline.clock.block_at(asked),
            effective_block=index,
            effective_frame=record.first_frame,
        )

    # What a source does

    def play(self) -> None:
        """Nothing is to be made; whoever shows it plays it."""

    def pause(self) -> None:
        """Nothing is being made."""

    def step(self) -> None:
        """Nothing is to be made."""

    def restart(self, seed: int | None = None) -> None:
        """A recording cannot be made anew.

        Raises:
            RuntimeError: Always.
        """
        self._refuse()

    def switch(self, prompt: str, *, policy: str | None = None, at: int | None = None) -> Switch:
        """A recording cannot be steered.

        Raises:
            RuntimeError: Always.
        """
        self._refuse()
        raise AssertionError("unreachable: it was refused")

    def _refuse(self) -> None:
        raise RuntimeError(
            "a recording cannot be steered; open a live session with studio.open(...), and give it this timeline"
        )

    def unknown_words(self, text: str) -> list[UnknownWord]:
        """None: there is no model that could know a word."""
        return []

    def attach(self) -> RecordedConsumer:
        """Attach a consumer, which holds nothing back."""
        return RecordedConsumer()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Nothing happens in a recording that could be announced."""
        return lambda: None

    def watch(self) -> RecordedWatch:
        """Look at what was read of the cache."""
        return RecordedWatch(self._store)

    def look_back(self, block: int, frame: int, row: int, column: int) -> BlockReading:
        """Read where a point of a block looks: the block is made once more, and whoever watches gets the reading.

        The first time the take is made again up to there from its log, to know its latents.

        Args:
            block: The block.
            frame: Latent frame within the block, from 0.
            row: Token row.
            column: Token column.

        Returns:
            Its reading, with the gaze of the point.

        Raises:
            ValueError: If there is no such block or point, or the networks are not those that made the recording.
        """
        check_whole(block, "block", 0, len(self._log) - 1)
        units = VideoShape.of(self._networks().config)
        point = check_point(units.block, units.grid, frame, row, column)
        return self._read_again(lambda **given: [reread_block(**given, at=block)], block + 1, point=point)[-1]

    def reread(self, *, residue: bool = False, block: int | None = None) -> RecordedWatch:
        """Read the cache of what was made while nobody watched: the take is made once more, with the probes on.

        Args:
            residue: Whether the residue is measured as well.
            block: This block alone; those before it take one pass each.

        Returns:
            A hold with the readings.

        Raises:
            ValueError: If the networks are not those that made the recording, or there is no such block.
        """
        if block is None:
            self._read_again(lambda **given: reread(**given), len(self._log), residue=residue)
        else:
            check_whole(block, "block", 0, len(self._log) - 1)
            self._read_again(lambda **given: [reread_block(**given, at=block)], block + 1)
        return self.watch()

    def _networks(self) -> Models:
        models = load(self.name) if self._models is None else self._models
        if origin_of(models).weights != self._log.origin.weights:
            raise ValueError(
                f"`{self.name}` as it is here has other weights than what made the recording; "
                "give its networks: studio.open_recording(path, models=...)"
            )
        self._models = models
        return models

    def _read_again(
        self, read: Callable[..., Iterable[BlockReading]], blocks: int, *, residue: bool = False, point: Any = None
    ) -> list[BlockReading]:
        """Read the first blocks once more with an observer of its own; returns the last reading."""
        models = self._networks()
        with self._reading:
            if len(self._latents) < blocks:
                again = replay(TakeLog(self._log[:blocks], self._log.origin), models)
                self._latents = again.latents
                if again.differing:
                    warnings.warn(
                        f"blocks {list(again.differing)} come out otherwise here than where they were recorded; "
                        "what is read now is of these",
                        stacklevel=3,
                    )
            reader = Observer(gone=lambda _: None)
            reader.residue = residue
            reader.look(point)
            holder, found = reader.hold(), []
            taken = next((reading.take for reading in self.readings), 0)
            try:
                for reading in read(
                    log=self._log, models=models, texts=Texts(models.text), latents=self._latents, block=self.block,
                    take=taken, observer=reader,
                ):  # fmt: skip
                    found = [reading]
                    self._store.adopt(reading)
            finally:
                reader.release(holder)
            return found

    def close(self) -> None:
        """Let go of the frames held; harmless when repeated."""
        self._held.clear()


class RecordedConsumer:
    """A consumer of a recording."""

    def played(self, frame: int, take: int | None = None, dropped: int = 0) -> None:
        """Nothing depends on it."""

    def close(self) -> None:
        """Nothing is held."""


class RecordedWatch:
    """The readings of a recording, as a watched session has them.

    Args:
        store: Holds the readings.
    """

    def __init__(self, store: Observer) -> None:
        self._store = store

    @property
    def readings(self) -> tuple[BlockReading, ...]:
        """The readings, old to new."""
        return self._store.readings

    @property
    def active(self) -> bool:
        """Always: a recording's readings are there for good."""
        return True

    @property
    def trouble(self) -> None:
        """None can befall a recording."""

    def subscribe(self, reader: Callable[[Any], None]) -> Callable[[], None]:
        """Be handed each reading that is made later, until the returned function is called."""
        return self._store.subscribe(reader)

    def warn(self, alarm: Callable[[str], None]) -> Callable[[], None]:
        """There is nothing to warn of."""
        return lambda: None

    def look(self, frame: int, row: int, column: int) -> None:
        """A recording has no next block.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a recording has no next block; call `recording.look_back(block, frame, row, column)`")

    def look_away(self) -> None:
        """Nothing is looked at."""

    def measure_residue(self, on: bool = True) -> None:
        """Measure it, or not, where blocks are read once more."""
        self._store.residue = on

    @property
    def measures_residue(self) -> bool:
        """Whether it was measured, or is to be where blocks are read once more."""
        return self._store.residue or any(reading.residues for reading in self.readings)

    def close(self) -> None:
        """Nothing is held."""


def _member(file: zipfile.ZipFile, name: str) -> bytes:
    """A part of the archive, unless it claims to be larger than any block."""
    if file.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST} bytes, got {file.getinfo(name).file_size}")
    return file.read(name)
