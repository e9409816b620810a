"""A live session: a video that plays, pauses and changes its prompt while it is being generated."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from studio.events import DecodedBlock, ErrorReport, Listener, Stats, Switch, TakeInfo, UnknownWord
from studio.live.blockreading import check_point
from studio.live.consumers import Attachment
from studio.live.core import Core
from studio.live.editing import Editor
from studio.live.engine import Models
from studio.live.exporting import REMEDY, Export, plan_of
from studio.live.frames import Frames
from studio.live.judging import Judge
from studio.live.latents import check_out, save_latents
from studio.live.log import TakeLog, script_of
from studio.live.recording import save_recording
from studio.live.scrub import Scrub
from studio.live.takes import Takes
from studio.live.watching import SAMPLES, BlockReading, Watching
from studio.live.words import UnknownWords, find_unknown
from studio.timeline import (
    EXAMPLE,
    MAX_BLOCKS,
    POLICIES,
    Operation,
    Segment,
    Timeline,
    Transition,
    Weighted,
    check_policy,
    check_seed,
    check_text,
    check_whole,
)

MAX_LEAD = 64


class Session:
    """A video that is generated while it is watched.

    One background thread generates, block by block, at most `lead` blocks ahead of the slowest player (without one, of
    the loop over `frames` that has come furthest), and waits where there is none. No method waits for it, except
    `stop`, `close` and iterating over `frames`. All methods may be called from any thread. As a context manager the
    session is closed at the end of the block.

    Args:
        models: the networks, as `studio.load` gives them.
        timeline: the prompts by block; None for an endless one of a single example prompt.
        policy: what a switch does to the cache unless its segment says so: "recache", "keep" or "clear".
        lead: blocks generated ahead of the one being shown, at least 1; one more where a live switch begins.
        load_s: seconds that loading the networks took, counted into the time to the first frame.

    Raises:
        ValueError: a value that makes no sense, a timeline that does not count as the model does, or a model that does
            not generate block by block.
    """

    def __init__(
        self,
        models: Models,
        *,
        timeline: Timeline | None = None,
        policy: str = "recache",
        lead: int = 1,
        load_s: float = 0.0,
    ) -> None:
        lead = check_whole(lead, "lead", 1, MAX_LEAD)
        if not models.config.causal:
            raise ValueError(
                f"`{models.config.name}` makes a clip at a time, not block by block; make clips with `studio.clip`, or "
                "use a causal one, as longlive-1.3b"
            )
        if timeline is None:
            timeline = self.plain_timeline(models, EXAMPLE)
        self._core = Core(models, timeline, policy=_policy(policy), lead=lead, load_s=load_s)
        self._takes, self._editor, self._scrub = Takes(self._core), Editor(self._core), Scrub(self._core)
        self._exports: list[Export] = []
        self._device = describe_device(next(models.dit.parameters()).device, models.dit.backend.name)
        self._finalizer = weakref.finalize(self, _drop, weakref.ref(self._core))
        self._finalizer.atexit = False

    @staticmethod
    def plain_timeline(models: Models, prompt: str, seed: int = 0) -> Timeline:
        """An endless timeline of one prompt that counts as a model does."""
        config = models.config
        return Timeline((Segment(prompt),), seed=seed, fps=config.fps, block_latent_frames=config.sampler.block)

    # What it is

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._core.config.name

    @property
    def models(self) -> Models:
        """The networks, as `studio.load` gives them, with `adapters` to weigh while playing.

        Raises:
            RuntimeError: the session is closed and holds none any more.
        """
        if self._core.models is None:
            raise RuntimeError("the session is closed and let go of its networks; open another one by studio.open(...)")
        return self._core.models

    @property
    def fps(self) -> float:
        """Pixel frames a second of video."""
        return self._core.units.fps

    @property
    def width(self) -> int:
        """Width of a frame in pixels."""
        return self._core.units.width

    @property
    def height(self) -> int:
        """Height of a frame in pixels."""
        return self._core.units.height

    @property
    def device(self) -> str:
        """What computes, for people: "CPU, 2 threads", or a GPU with its attention back end."""
        return self._device

    @property
    def seed(self) -> int:
        """Seed of the current take; `restart` changes it."""
        return self._core.timeline.seed

    @property
    def policy(self) -> str:
        """What a switch does to the cache unless it says so itself."""
        return self._core.policy

    @policy.setter
    def policy(self, policy: str) -> None:
        self._core.policy = _policy(policy)

    @property
    def lead(self) -> int:
        """Blocks generated ahead of what the slowest player shows; without one, of where the loops have come to."""
        return self._core.gate.lead

    # How it goes

    @property
    def state(self) -> str:
        """One of `studio.events.STATES`."""
        return self._core.state

    @property
    def stats(self) -> Stats:
        """How fast it goes."""
        return self._core.stats()

    def timings(self) -> list[dict[str, float]]:
        """Seconds that the recent blocks of this take took, by part, oldest first; starting blocks are left out.

        Returns:
            For each block "denoise", "commit", "recache", "text", "vae" with its parts "decode" and "transport", and
            "total".
        """
        with self._core.changed:
            return self._core.take.meter.history

    @property
    def error(self) -> ErrorReport | None:
        """What went wrong, while the state is "error"."""
        return self._core.error

    @property
    def log(self) -> TakeLog:
        """The event log of this take: what each block was made under, in order, and what made it."""
        with self._core.changed:
            take = self._core.take
            return TakeLog(take.records, self._core.describe, take.name)

    @property
    def script(self) -> Timeline:
        """The timeline that makes this take's latents again, bit for bit on the same device and build.

        Raises:
            ValueError: nothing was made yet, or the cache was rebuilt after an error.
        """
        return script_of(self.log, self.timeline)

    @property
    def latents(self) -> list[Tensor]:
        """The clean latents of each block of this take, `[1, f, C, H, W]` each, on the CPU.

        Raises:
            RuntimeError: the session is closed.
        """
        self._core.check_open()
        with self._core.changed:
            reel = self._core.take.latents
        return list(reel)

    def save_latents(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the latents of this take to a .safetensors file, with its log and its timeline in the metadata.

        Args:
            path: the file.
            force: whether it may replace another one.

        Returns:
            The path.

        Raises:
            FileExistsError: it exists, and `force` is not set.
            RuntimeError: the session is closed.
            ValueError: another ending, or nothing was made yet.
        """
        self._core.check_open()
        path = check_out(path, force=force)
        with self._core.changed:
            latents, log, timeline = self._core.take.latents, self.log, self.timeline
        save_latents(path, latents[: len(log)], log, timeline)
        return path

    def export(
        self,
        path: str | Path,
        *,
        format: str | None = None,
        codec: str | None = None,
        take: int | str | None = None,
        start: int = 0,
        stop: int | None = None,
        exact: bool = False,
        force: bool = False,
    ) -> Export:
        """Write what was made to a file, in a thread of its own, while playing goes on.

        The event log and the timeline go with it: in the metadata of films and latents, in the comments of a GIF, in
        the first of the pictures and beside them. `studio replay` reads them all.

        Args:
            path: a file that ends in .mp4, .webm, .gif or .safetensors, or a folder for PNG files.
            format: "mp4", "webm", "gif", "png" or "safetensors"; None goes by the ending.
            codec: of a film: "h264" or "av1" where this build of PyAV has it; None for H.264 in MP4, VP9 in WebM.
            take: number or name of the take; None for the current one.
            start: first frame; latents begin with its block.
            stop: frame just past the last; None for all made by now.
            exact: whether to decode the latents anew, for the very pictures that were generated. Else they are taken
                as they are kept: the recent ones as generated, older ones as good as JPEG of high quality keeps them.
            force: whether it may replace another file, or a folder that holds an export and nothing else.

        Returns:
            The export: `wait()` for it, look at its `progress`, or `cancel()` it, which leaves no file.

        Raises:
            FileExistsError: the file exists or another export is writing it, and `force` is not set.
            FileNotFoundError: its folder does not exist.
            RuntimeError: the session is closed, or there is no encoder for it.
            ValueError: a value that makes no sense, or nothing was made yet.
        """
        core = self._core
        with core.changed:
            number = core.take.number if take is None else self._takes.number(take)
        plan = plan_of(core, path, format, codec, number, start, stop, exact=exact, force=force)
        self._exports = [one for one in self._exports if one.state == "running"]
        if not force and any(one.path.resolve() == plan.path.resolve() for one in self._exports):
            raise FileExistsError(f"another export is writing {plan.path.name}; name another file, or {REMEDY}")
        export = Export(plan, core, self._scrub)
        self._exports.append(export)
        return export

    @property
    def take(self) -> int:
        """Number of the current take; `restart` raises it."""
        return self._core.take.number

    def block(self, index: int, take: int | None = None) -> DecodedBlock | None:
        """The frames of a block.

        Args:
            index: block number.
            take: number of the take; None for the current one.

        Returns:
            The block, or None when it was not made yet. Blocks that left memory as they were come back as good as
            JPEG of high quality keeps them.
        """
        return self._scrub.block(index, take)

    def frame(self, index: int) -> np.ndarray:
        """A frame of what was made, wherever it is kept.

        Args:
            index: its number, from 0.

        Returns:
            uint8 `[H, W, 3]`, read-only.

        Raises:
            RuntimeError: the session is closed.
            ValueError: it was not made.
        """
        return self._scrub.frame(index)

    def clip(self, start: int, stop: int) -> np.ndarray:
        """A range of frames of what was made.

        Args:
            start: first frame.
            stop: frame just past the last.

        Returns:
            uint8 `[stop - start, H, W, 3]`.

        Raises:
            RuntimeError: the session is closed.
            ValueError: a frame that was not made, or an empty range.
        """
        return self._scrub.clip(start, stop)

    def loop(self, start: int, stop: int, *, step: int = 1) -> Iterator[np.ndarray]:
        """Frames of a range of what was made, over and over.

        Args:
            start: first frame.
            stop: frame just past the last.
            step: from one to the next; -1 plays backwards.

        Returns:
            An endless iterator of uint8 `[H, W, 3]`.

        Raises:
            RuntimeError: the session is closed, also while it is gone over.
            ValueError: a frame that was not made, an empty range, or a step of 0.
        """
        return self._scrub.loop(start, stop, step=step)

    # Playing

    def play(self) -> None:
        """Generate on and on; after an error, from the last good block on.

        Raises:
            RuntimeError: the session is closed.
        """
        self._core.run()

    def pause(self) -> None:
        """Stop generating after the current block.

        Raises:
            RuntimeError: the session is closed.
        """
        self._core.pause()

    def step(self) -> None:
        """Generate one block, however far consumers have come, and pause.

        Raises:
            RuntimeError: the session is closed.
        """
        self._core.run(steps=1)

    def restart(self, seed: int | None = None) -> None:
        """Begin a new take of the same timeline from block 0; the old one stays in `takes`.

        Args:
            seed: seed of the new take; None for the same one.

        Raises:
            RuntimeError: the session is closed.
            ValueError: not a seed.
        """
        self._core.restart(self.seed if seed is None else check_seed(seed))

    def stop(self) -> None:
        """End the thread after the current block, and all loops over `frames`; `play` goes on from there."""
        self._core.stop()

    def close(self) -> None:
        """End the session for good: its thread, its cache and its frames are gone; harmless when repeated.

        Exports that are under way are cancelled: wait for them first.
        """
        for export in self._exports:
            export.cancel()
        self._core.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        core = self._core
        return f"<Session {self.name}: {self.state}, {core.take.made} blocks, seed {self.seed}, {self.device}>"

    # Steering

    @property
    def timeline(self) -> Timeline:
        """The prompts by block; set an edited one to steer the blocks that have not begun.

        Raises:
            RuntimeError: when set: the session is closed.
            ValueError: when set: it differs in a block that has begun (colours and notes may differ), or does not count
                as the model does.
        """
        return self._core.timeline

    @timeline.setter
    def timeline(self, timeline: Timeline) -> None:
        self._core.set_timeline(timeline)

    def switch(
        self,
        prompt: str,
        *,
        policy: str | None = None,
        at: int | None = None,
        sink_policy: str | None = None,
        transition: Transition | None = None,
        blend: Sequence[Weighted] = (),
    ) -> Switch:
        """Change the prompt as soon as may be, or at a later block.

        The timeline gets a segment there, in place of one that started at the same block; later segments stay. A block
        under way whose last denoising step has not begun begins again with the new prompt, unless it is the first of
        the take or began with a recache or a clear; else the next block is the first one with it.

        Args:
            prompt: what to see.
            policy: what it does to the cache: "recache", "keep", "clear"; None for the session's own.
            at: block number, one that has not begun; None for the first that can be made with it.
            sink_policy: whether a recache keeps or rewrites the sink: "keep", "rewrite"; None for the model's own.
            transition: how the prompt before goes over into it; None for at once.
            blend: further prompts to mix in, with their weights beside the 1 of `prompt`.

        Returns:
            When it was asked for and when it takes effect.

        Raises:
            RuntimeError: the session is closed.
            ValueError: a value that makes no sense, a block that has begun, or one past the end of the video.
        """
        look: dict[str, Any] = {"policy": policy, "sink_policy": sink_policy}
        return self._core.switch(Segment(prompt, 0, **look, transition=transition, blend=tuple(blend)), at)

    @property
    def takes(self) -> Takes:
        """All takes of this session, a tree: iterate over them, `choose` one, `rename` or `remove` one."""
        return self._takes

    def fork(
        self,
        at: int,
        *,
        prompt: str | None = None,
        policy: str | None = None,
        sink_policy: str | None = None,
        seed: int | None = None,
        timeline: Timeline | None = None,
        name: str = "",
        take: int | str | None = None,
    ) -> TakeInfo:
        """Begin another take with the first `at` blocks of this one; see `Takes.fork`."""
        return self._takes.fork(
            at,
            prompt=prompt,
            policy=policy,
            sink_policy=sink_policy,
            seed=seed,
            timeline=timeline,
            name=name,
            take=take,
        )

    def start_from(
        self,
        source: str | Path | bytes | np.ndarray,
        *,
        prompt: str | None = None,
        seed: int | None = None,
        seconds: float | None = None,
        name: str = "",
    ) -> TakeInfo:
        """Begin another take with a picture or a clip, and go on from there.

        It is scaled to cover the frame, encoded by the VAE and cut to whole blocks; a picture, or a clip shorter than
        the first block, stands still to its end. The cache is computed from it under the prompt, as at a recache. The
        log keeps the latents, so that a replay needs no file. Waits for the encoding.

        Args:
            source: path of an image or a clip, its bytes, or uint8 frames `[T, H, W, 3]` or `[H, W, 3]`.
            prompt: the prompt of the new take; None takes over the timeline as it is.
            seed: seed of the noise; None for the same.
            seconds: at most so much of the clip, up to 60; None for all of it, up to 60.
            name: name of the take; "" for one made up.

        Returns:
            What the new take is.

        Raises:
            FileNotFoundError: no such file.
            ImportError: PyAV is not installed.
            RuntimeError: the session is closed.
            ValueError: no picture, a clip longer than the timeline, or another value without sense.
        """
        return self._takes.start_from(source, prompt=prompt, seed=seed, seconds=seconds, name=name)

    @property
    def editor(self) -> Editor:
        """Edits the timeline by operations, with undo and redo."""
        return self._editor

    def edit(self, operation: Operation | dict[str, Any], *, past: str | None = None) -> Timeline:
        """Edit the timeline by an operation; see `Editor.apply`."""
        return self._editor.apply(operation, past=past)

    def undo(self, *, past: str | None = None) -> Timeline:
        """Take the last edit of the timeline back; see `Editor.undo`."""
        return self._editor.undo(past=past)

    def redo(self, *, past: str | None = None) -> Timeline:
        """Do the edit again that was undone last; see `Editor.redo`."""
        return self._editor.redo(past=past)

    def _find(self, text: str) -> list[UnknownWord]:
        encoder = self._core.models.text if self._core.models else None
        return [] if encoder is None else find_unknown(encoder, check_text(text, "text", 10**6))

    if TYPE_CHECKING:
        # To a type checker it is the method that widgets call; read without a call, it tells of the current prompt.
        def unknown_words(self, text: str) -> list[UnknownWord]: ...

    else:

        @property
        def unknown_words(self) -> UnknownWords:
            """Words of the prompt in force that the model has never seen; call it with a text to look at that one."""
            core = self._core
            return UnknownWords(core.timeline.segment_at(max(0, core.take.begun - 1)).prompt, self._find)

    # Watching

    def frames(self, start: int | None = None) -> Frames:
        """Iterate over the frames, block by block; starts playing.

        Args:
            start: first block; None goes on after the last one that was handed out.

        Returns:
            An iterator of uint8 `[T, H, W, 3]`; close it, or drop it, to detach.

        Raises:
            RuntimeError: the session is closed.
            ValueError: a block that is no longer held.
        """
        frames = Frames(self, self._core, start)
        self._core.run()
        return frames

    def attach(self) -> Attachment:
        """Attach a consumer that shows blocks as they are announced; the slowest one bounds generation.

        Returns:
            Its handle, to report the playhead and to detach.

        Raises:
            RuntimeError: the session is closed.
        """
        return self._core.attach()

    def played(self, frame: int) -> None:
        """Report the playhead for a consumer that has no handle of its own: the first report attaches it.

        Args:
            frame: pixel frame being shown.

        Raises:
            RuntimeError: the session is closed.
            ValueError: no frame number.
        """
        self._core.own_seat().played(frame)

    def watch(self, *, samples: int = SAMPLES) -> Watching:
        """Watch the cache: provenance, attention and faults of every block from the next one on.

        Args:
            samples: queries sampled of each latent frame.

        Returns:
            A hold with the readings so far; watching ends when the last one is closed or dropped.

        Raises:
            RuntimeError: the session is closed.
            ValueError: no number of queries, or another one is in use already.
        """
        return Watching(self._core.watch(check_whole(samples, "samples", 1, 4096)))

    def reread(self, *, residue: bool = False, block: int | None = None) -> Watching:
        """Read the cache of what was made while nobody watched: each block is made once more, with the probes on.

        It takes as long as making them did, and returns when it is done; what was read already stays as it is. The
        take itself does not change.

        Args:
            residue: Whether the residue is measured as well, also of blocks that were read without.
            block: This block alone; those before it take one pass each.

        Returns:
            A hold with the readings.

        Raises:
            RuntimeError: the session is closed, or its take was changed meanwhile.
            ValueError: nothing was made yet, or there is no such block.
        """
        watching = self.watch()
        try:
            if block is None:
                self._core.reread(residue)
            else:
                self._core.look_back(check_whole(block, "block", 0, MAX_BLOCKS), None)
        except BaseException:
            watching.close()
            raise
        return watching

    def look_back(self, block: int, frame: int, row: int, column: int) -> BlockReading:
        """Read where a point of a block looks that was made already.

        That block is made once more, the same bit for bit; those before it take one pass each. Whoever watches gets the
        reading as well.

        Args:
            block: The block of the current take.
            frame: Latent frame within the block, from 0.
            row: Token row.
            column: Token column.

        Returns:
            Its reading, with the gaze of the point.

        Raises:
            RuntimeError: the session is closed, or its take was changed meanwhile.
            ValueError: there is no such block or point, or the block was given and not generated.
        """
        point = check_point(self._core.units.block, self._core.units.grid, frame, row, column)
        return self._core.look_back(check_whole(block, "block", 0, MAX_BLOCKS), point)

    @property
    def readings(self) -> tuple[BlockReading, ...]:
        """What was read of the cache of this take while it is watched, old to new."""
        observer = self._core.observer
        return () if observer is None else observer.readings

    def record(self, path: str | Path, *, force: bool = False) -> Path:
        """Write this take to a file with everything that was read of its cache; see `studio.live.recording`.

        Args:
            path: the file, ending in .studio; `studio.open_recording` opens it.
            force: whether it may replace another one.

        Returns:
            The path.

        Raises:
            FileExistsError: it exists, and `force` is not set.
            RuntimeError: the session is closed.
            ValueError: another ending, or nothing was made yet.
        """
        core = self._core
        core.check_open()
        with core.changed:
            taken = core.take.number, self.log, self.timeline
        return save_recording(self, path, force=force, taken=taken)

    @property
    def judge(self) -> Judge | None:
        """Tells how well frames show a prompt, for whoever watches; set one before `watch`. See `studio.evaluate`."""
        return self._core.judge

    @judge.setter
    def judge(self, judge: Judge | None) -> None:
        if judge is not None and not callable(judge):
            raise ValueError(
                f"`judge` must be called with frames and texts, got {type(judge).__name__}; "
                "use studio.evaluate.alignment.ProbeJudge or TextImageJudge"
            )
        self._core.judge = judge

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Announce events to a listener.

        Args:
            listener: called with each event, one at a time; it must return at once. Bound methods are held weakly.

        Returns:
            A function that ends it, harmless when repeated.

        Raises:
            ValueError: it cannot be called.
        """
        return self._core.outbox.subscribe(listener)


def describe_device(device: torch.device, attention: str) -> str:
    """Name what computes, for people.

    Args:
        device: a torch device.
        attention: the back end of attention.

    Returns:
        As "CPU, 2 threads", or the name of the GPU and of what computes attention on it.
    """
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, attention by {attention}"
    return device.type.upper()


def _policy(policy: object) -> str:
    if policy is None:
        raise ValueError(f"`policy` must be one of {', '.join(POLICIES)}, got None; leave it out for recache")
    return check_policy(policy) or "recache"


def _drop(core: weakref.ref[Core]) -> None:
    # Runs wherever the garbage collector happens to be: it may set a flag, but must not wait or take a lock.
    alive = core()
    if alive is not None:
        alive.dropped = True
