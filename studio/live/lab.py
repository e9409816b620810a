"""The recache lab: one seed, one switch of prompt, several policies made side by side, and what each leaves behind.

What comes before the switch is made once and shared; from there on each policy has a cache and a decoder of its own.
"""

from __future__ import annotations

import logging
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from studio.config import Policy, SinkPolicy
from studio.events import ErrorReport, UnknownWord
from studio.live.engine import Abandoned, Engine, Models, Order, Texts
from studio.live.judging import Alignment, Judge
from studio.live.turns import short_turns
from studio.live.watching import BlockReading, Observer, Past
from studio.live.words import find_unknown
from studio.probes import CacheWarning
from studio.shapes import VideoShape
from studio.timeline import POLICIES, check_prompt, check_seed, check_whole, shorten
from studio.timeline.checks import check_choice

__all__ = ["Lab", "LabBlock", "LabRun", "LabSettings"]

logger = logging.getLogger(__name__)

RUNS = (2, 4)
BLOCKS = 64

Policies = Sequence[Policy | tuple[Policy, SinkPolicy]]
Jump = Callable[[np.ndarray, int], float]


@dataclass(frozen=True, kw_only=True)
class LabSettings:
    """What a lab compares.

    Args:
        first: The first prompt.
        then: The second one.
        at: First block under the second, from 1.
        blocks: Length of the take in blocks, above `at`.
        seed: Seed of the noise, the same for all.
        policies: Two to four policies: "clear", "keep", "recache", or ("recache", "keep" or "rewrite") with what the
            recache does to the sink.

    Raises:
        ValueError: If a value makes no sense; it says which and what to use.
    """

    first: str
    then: str
    at: int = 6
    blocks: int = 10
    seed: int = 0
    policies: tuple[Policy | tuple[Policy, SinkPolicy], ...] = ("clear", "keep", "recache")

    def __post_init__(self) -> None:
        for name in ("first", "then"):
            check_prompt(getattr(self, name))
        if self.first == self.then:
            raise ValueError(f"`then` must be another prompt than `first`, got {shorten(self.then)} twice")
        check_whole(self.blocks, "blocks", 2, BLOCKS)
        check_whole(self.at, "at", 1, self.blocks - 1, f"the take has {self.blocks} blocks")
        check_seed(self.seed)
        given = self.policies if isinstance(self.policies, (list, tuple)) else ()
        policies = tuple(_policy(wanted) for wanted in given)
        if not RUNS[0] <= len(policies) <= RUNS[1] or len(set(policies)) < len(policies):
            raise ValueError(
                f"`policies` must be {RUNS[0]} to {RUNS[1]} different ones, got {shorten(self.policies)}; "
                'use ("clear", "keep", "recache")'
            )
        object.__setattr__(self, "policies", policies)

    @property
    def names(self) -> tuple[str, ...]:
        """The policies as shown."""
        return tuple(name_of(policy) for policy in self.policies)


def name_of(policy: Policy | tuple[Policy, SinkPolicy]) -> str:
    """A policy as shown: "keep", "recache, sink: rewrite"."""
    return policy if isinstance(policy, str) else f"{policy[0]}, sink: {policy[1]}"


def _policy(wanted: Any) -> Any:
    # JSON has lists only.
    pair = isinstance(wanted, (list, tuple)) and len(wanted) == 2
    policy, sink = wanted if pair else (wanted, None)
    if policy not in POLICIES:
        raise ValueError(f"`policies` must name {', '.join(POLICIES)}, got {shorten(policy)}")
    check_choice(sink, "sink_policy", ("keep", "rewrite"))
    if sink is not None and policy != "recache":
        raise ValueError(f'a sink policy belongs to "recache" only, got it with {shorten(policy)}; leave it out')
    return policy if sink is None else (policy, sink)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabBlock:
    """One block of one run.

    Args:
        run: Number of the run, or `None` where all runs share it.
        reading: What it saw of the cache, with the residue of the first prompt and the alignment to both.
        frames: uint8 `[T, H, W, 3]`, read-only.
        seconds: Seconds by part: "recache", "denoise", "commit", "vae" and others.
        version: `Lab.version` of the settings that it was made for.
    """

    run: int | None
    reading: BlockReading
    frames: np.ndarray
    seconds: dict[str, float]
    version: int = 0

    def __repr__(self) -> str:
        of = "all runs" if self.run is None else f"run {self.run}"
        return f"<LabBlock {self.reading.block} of {of}: {len(self.frames)} frames>"


@dataclass(frozen=True, kw_only=True, eq=False)
class LabRun:
    """One policy's take, as far as it was made.

    Args:
        policy: What the switch does to the cache.
        sink_policy: What a recache does to the sink; `None` for the model's own.
        at: First block under the second prompt.
        blocks: The blocks so far.
    """

    policy: Policy
    sink_policy: SinkPolicy | None
    at: int
    blocks: tuple[LabBlock, ...]

    def __repr__(self) -> str:
        return f"<LabRun {self.name}: {len(self.blocks)} blocks, the switch at block {self.at}>"

    @property
    def name(self) -> str:
        """The policy as shown."""
        return name_of(self.policy if self.sink_policy is None else (self.policy, self.sink_policy))

    @property
    def film(self) -> np.ndarray:
        """All frames, uint8 `[T, H, W, 3]`."""
        return np.concatenate([block.frames for block in self.blocks])

    def rows(self) -> list[dict[str, Any]]:
        """A row for each residue measured, ready for a data frame or `studio.widgets.figures.residue_figure`."""
        return [
            {"policy": self.name, "block": found.block, "moment": found.moment, "residue": found.total}
            for block in self.blocks
            for found in block.reading.residues
        ]

    @property
    def warnings(self) -> tuple[CacheWarning, ...]:
        """Every fault of its cache."""
        return tuple(fault for block in self.blocks for fault in block.reading.warnings)

    def trace_rows(self) -> list[dict[str, Any]]:
        """A row for each block and word found in the cache, those of the first prompt too, ready for a data frame."""
        return [{"policy": self.name, **row} for block in self.blocks for row in block.reading.trace_rows()]

    def alignment_rows(self) -> list[dict[str, Any]]:
        """A row for each block and prompt judged, ready for a data frame."""
        return [
            {"policy": self.name, "block": block.reading.block, "prompt": ("first", "then")[number], "alignment": value}
            for block in self.blocks
            for number, value in block.reading.alignment.items()
        ]


class Lab:
    """Makes the same take under several policies, in a thread of its own, and anew when something is changed.

    It begins at once. As a context manager it is closed at the end of the block.

    Args:
        models: The networks.
        settings: What is compared.
        judge: Tells how well frames show a prompt; `None` for nobody.
        jump: Tells how much of a jump there is in a film at a frame, 1 being the film's own motion; `None` for nobody.

    Raises:
        ValueError: If the model does not generate block by block.
    """

    def __init__(
        self, models: Models, settings: LabSettings, *, judge: Judge | None = None, jump: Jump | None = None
    ) -> None:
        if not models.config.causal:
            raise ValueError(f"`{models.config.name}` makes a clip at a time and has no cache; use a causal model")
        self._models, self._judge, self._jump = models, judge, jump
        self._units, self._texts = VideoShape.of(models.config), Texts(models.text)
        self._changed = threading.Condition()
        self._settings, self._version = settings, 0
        self._trunk: tuple[Any, _Run] | None = None
        self._blocks: list[LabBlock] = []
        self._error: ErrorReport | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self._listeners: list[Callable[[str, Any], None]] = []
        self._begin()

    # What it is

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._models.config.name

    @property
    def units(self) -> VideoShape:
        """Counts frames and blocks; sizes of the pictures."""
        return self._units

    @property
    def settings(self) -> LabSettings:
        """What is compared."""
        return self._settings

    @property
    def version(self) -> int:
        """How often something was changed."""
        return self._version

    @property
    def state(self) -> str:
        """What it is doing: "making", "ready", "error" or "closed"."""
        with self._changed:
            if self._closed:
                return "closed"
            if self._error is not None:
                return "error"
            return "ready" if self._done() else "making"

    @property
    def error(self) -> ErrorReport | None:
        """What went wrong, while the state is "error"."""
        return self._error

    @property
    def blocks(self) -> tuple[LabBlock, ...]:
        """Every block so far, in the order in which they were made."""
        with self._changed:
            return tuple(self._blocks)

    @property
    def runs(self) -> tuple[LabRun, ...]:
        """The policies' takes, as far as they were made."""
        with self._changed:
            settings, blocks = self._settings, list(self._blocks)
        found = []
        for number, wanted in enumerate(settings.policies):
            policy, sink_policy = (wanted, None) if isinstance(wanted, str) else wanted
            mine = tuple(block for block in blocks if block.run in (None, number))
            found.append(LabRun(policy=policy, sink_policy=sink_policy, at=settings.at, blocks=mine))
        return tuple(found)

    def table(self) -> list[dict[str, Any]]:
        """The summary, a row a policy, ready for a data frame; NaN for what was not made or cannot be told yet.

        Returns:
            For each policy: the residue of the first prompt before and after the switch, when the first block under
            the new prompt was made, and at the end; how well the last frames show the first and the second prompt; the
            jump of the picture at the switch; how much of the attention finds words of the first prompt in the cache
            at the end; the seconds of the recache, and these as a share of a block's, both without the time that the
            probes took.
        """
        return [self._row(run) for run in self.runs]

    def _row(self, run: LabRun) -> dict[str, Any]:
        nothing = float("nan")
        by_block = {block.reading.block: block for block in run.blocks}
        here, last = by_block.get(run.at), by_block.get(self._settings.blocks - 1)
        spent = [_own_seconds(block, "denoise") + _own_seconds(block, "commit") for block in run.blocks]
        recache = nothing if here is None else _own_seconds(here, "recache")
        jump = nothing if self._jump is None or last is None else self._jump(run.film, self._units.first_frame(run.at))
        return {
            "policy": run.name,
            "before": nothing if here is None else here.reading.residue("before"),
            "after": nothing if here is None else here.reading.residue("after"),
            "first block": nothing if here is None else here.reading.residue(),
            "last block": nothing if last is None else last.reading.residue(),
            "shows first": nothing if last is None else last.reading.alignment.get(0, nothing),
            "shows then": nothing if last is None else last.reading.alignment.get(1, nothing),
            "jump": jump,
            "old words": nothing if last is None or last.reading.trace is None else last.reading.trace.share(0),
            "recache (s)": recache,
            "share of a block": recache / (sum(spent) / len(spent)) if spent else nothing,
        }

    @property
    def judged(self) -> bool:
        """Whether somebody tells how well the film shows each prompt."""
        return self._judge is not None

    # What callers ask for

    def unknown_words(self, text: str) -> list[UnknownWord]:
        """Words of a text that the model's text encoder has never seen.

        Args:
            text: Any text.

        Returns:
            One entry for each place, in the order of the text.
        """
        return find_unknown(self._models.text, text)

    def change(self, **changes: Any) -> LabSettings:
        """Compare something else: everything that it touches is made anew.

        Args:
            **changes: Fields of `LabSettings`.

        Returns:
            The settings now.

        Raises:
            RuntimeError: If the lab is closed.
            ValueError: If there is no such field, or a value makes no sense; nothing is changed then.
        """
        unknown = sorted(set(changes) - set(LabSettings.__dataclass_fields__))
        if unknown:
            raise ValueError(f"there is no `{unknown[0]}` in a lab; use {', '.join(LabSettings.__dataclass_fields__)}")
        with self._changed:
            if self._closed:
                raise RuntimeError("the lab is closed; make another with `studio.compare`")
            settings = replace(self._settings, **changes)
            if settings == self._settings and self._error is None:
                return settings
            self._settings = settings
            self._begin()
        self._tell("settings", settings)
        return settings

    def wait(self, timeout: float | None = None) -> Lab:
        """Wait until everything was made.

        Args:
            timeout: Seconds; `None` for as long as it takes.

        Returns:
            Itself.

        Raises:
            TimeoutError: If it takes longer.
            RuntimeError: If something went wrong, or the lab is closed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._error or self._done(), timeout):
                raise TimeoutError(
                    f"the lab was not ready within {timeout} s; wait longer, or ask for fewer blocks or policies"
                )
        if self._error is not None:
            raise RuntimeError(
                f"the lab failed: {self._error.message}; `lab.error.traceback` says where, "
                "and `lab.change(...)` begins anew"
            )
        if self._closed:
            raise RuntimeError("the lab is closed; make another with `studio.compare`")
        return self

    def subscribe(self, listener: Callable[[str, Any], None]) -> Callable[[], None]:
        """Announce what happens.

        Args:
            listener: Called with "settings" and `LabSettings`, "block" and `LabBlock`, "state" and a text, or "error"
                and `ErrorReport`; from any thread, it must return at once.

        Returns:
            A function that ends it, harmless when repeated.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def close(self) -> None:
        """End it; harmless when repeated."""
        with self._changed:
            self._closed = True
            thread, self._thread = self._thread, None
            trunk, self._trunk = self._trunk, None
            self._changed.notify_all()
        if trunk is not None:
            trunk[1].stop()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=60)
        self._tell("state", "closed")

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Lab {self.name}: {', '.join(self._settings.names)}; {self.state}>"

    # Behind it

    def _done(self) -> bool:
        settings = self._settings
        return len(self._blocks) == settings.at + len(settings.policies) * (settings.blocks - settings.at)

    def _begin(self) -> None:
        with self._changed:
            self._version += 1
            self._blocks, self._error = [], None
            if self._thread is None:
                work = _Worker(weakref.ref(self))
                self._thread = threading.Thread(target=work, name="studio-lab", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _tell(self, kind: str, payload: Any) -> None:
        for listener in list(self._listeners):
            try:
                listener(kind, payload)
            except Exception:
                logger.exception("a listener of the lab failed")

    def _work(self) -> bool:
        """Make everything once; whether there is more to do."""
        with self._changed:
            version, settings = self._version, self._settings
        self._tell("state", "making")
        try:
            with short_turns():
                self._make(settings, version)
        except Abandoned:
            pass
        except Exception as error:
            logger.warning("the lab failed", exc_info=error)
            report = ErrorReport(message=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
            with self._changed:
                if version == self._version:
                    self._error = report
                    self._changed.notify_all()
            self._tell("error", report)
        with self._changed:
            if not self._closed and version != self._version:
                return True
            self._thread = None
        self._tell("state", self.state)
        return False

    def _make(self, settings: LabSettings, version: int) -> None:
        def check() -> None:
            if self._closed or version != self._version:
                raise Abandoned

        trunk = self._trunk_of(settings)
        for block in trunk.made:
            self._put(replace(block, reading=trunk.judged(block, settings)), version)
        while len(trunk.made) < settings.at:
            block = trunk.step()
            self._put(replace(block, reading=trunk.judged(block, settings)), version)
        branches = [trunk.branch(number, policy, settings, check) for number, policy in enumerate(settings.policies)]
        try:
            for _ in range(settings.at, settings.blocks):
                for branch in branches:
                    block = branch.step()
                    self._put(replace(block, reading=branch.judged(block, settings)), version)
        finally:
            for branch in branches:
                branch.stop()

    def _trunk_of(self, settings: LabSettings) -> _Run:
        """What comes before the switch: that of the last time, where it can go on."""
        key = self._trunk_key(settings)
        if self._trunk is not None:
            if self._trunk[0] == key and len(self._trunk[1].made) <= settings.at:
                return self._trunk[1]
            self._trunk[1].stop()

        def check() -> None:
            # Another second prompt or switch leaves what comes before it as it is.
            if self._closed or self._trunk_key(self._settings) != key:
                self._trunk = None
                raise Abandoned

        trunk = _Run.first(self._models, self._texts, settings, check, self._judge)
        self._trunk = key, trunk
        return trunk

    def _trunk_key(self, settings: LabSettings) -> tuple[Any, ...]:
        whole = self._models.config.cache.window is None
        return settings.first, settings.seed, settings.blocks if whole else None

    def _put(self, block: LabBlock, version: int) -> None:
        block = replace(block, version=version)
        with self._changed:
            if self._closed or version != self._version:
                raise Abandoned
            self._blocks.append(block)
            self._changed.notify_all()
        self._tell("block", block)


class _Worker:
    """The thread's work; it holds the lab only while there is something to do."""

    def __init__(self, lab: weakref.ref[Lab]) -> None:
        self._lab = lab

    def __call__(self) -> None:
        while (lab := self._lab()) is not None and lab._work():
            del lab


class _Run:
    """One take under way: the part that all share, or one policy's."""

    def __init__(self, number: int | None, texts: Texts, alignment: Alignment, observer: Observer) -> None:
        self.number, self._texts, self._alignment, self._observer = number, texts, alignment, observer
        self.made: list[LabBlock] = []
        self._latents: list[Tensor] = []
        self._engine: Any = None
        observer.hold()

    @classmethod
    def first(
        cls, models: Models, texts: Texts, settings: LabSettings, check: Callable[[], None], judge: Judge | None
    ) -> _Run:
        """The part before the switch."""
        run = cls(None, texts, Alignment(judge), Observer(gone=_ignore))
        order = Order(prompt=settings.first, number=0)
        run._engine = Engine(
            models, texts, seed=settings.seed, order=lambda: order, check=check, blocks=settings.blocks,
            observer=lambda: run._observer,
        )  # fmt: skip
        return run

    def branch(self, number: int, policy: Any, settings: LabSettings, check: Callable[[], None]) -> _Run:
        """One policy's way to go on."""
        kind, sink_policy = (policy, None) if isinstance(policy, str) else policy
        latents = list(self._latents)
        past = Past(latents=latents, prompts={0: settings.first}, text=self._texts(settings.first))
        run = type(self)(number, self._texts, self._alignment.fork(), Observer(gone=_ignore, past=lambda: past))
        run._observer.residue, run._latents = True, latents
        run._observer.inherit(self._observer, self._engine.take)
        plain = Order(prompt=settings.then, number=1)
        orders = iter([replace(plain, policy=kind, sink_policy=sink_policy, switched=True)])
        run._engine = self._engine.fork(lambda: next(orders, plain), lambda: run._observer, check)
        return run

    def step(self) -> LabBlock:
        """Make the next block."""
        made = self._engine.next()
        if self._observer.over:
            raise RuntimeError(self._observer.trouble or "the cache could not be read")
        self._latents.append(made.block.latents)
        reading = self._observer.readings[-1]
        block = LabBlock(run=self.number, reading=reading, frames=made.frames, seconds=made.seconds)
        self.made.append(block)
        return block

    def judged(self, block: LabBlock, settings: LabSettings) -> BlockReading:
        """The block's reading with how well it shows both prompts."""
        if block.reading.block == 0:
            self._alignment.forget()
        texts = {0: settings.first, 1: settings.then}
        found = self._alignment.of(block.frames, texts, cut=block.reading.policy == "clear")
        return replace(block.reading, alignment=found, prompts={**block.reading.prompts, **texts})

    def stop(self) -> None:
        """Let go of the network."""
        self._observer.stop()


def _own_seconds(block: LabBlock, part: str) -> float:
    """Seconds of a part of a block without those that the probes took in it."""
    return max(0.0, block.seconds[part] - block.reading.spent.get(part, 0.0))


def _ignore(_: object) -> None:
    """Nobody needs to know."""
