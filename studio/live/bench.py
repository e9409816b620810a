"""How fast a model is on this machine, from opening it to steering it.

What each figure means, so that it can be compared:

* denoise_fps: pixel frames per second of time spent in the denoising steps and the commits; no decoding, no waiting.
* vae_ms_per_block: median milliseconds to decode a block's latents to uint8 frames in memory.
* end_to_end_fps: pixel frames per second of wall-clock time that a loop over `Session.frames` gets, taking each block
  as soon as it is there.
* first_frame_s: seconds from `studio.open` to the first frame in that loop, in a process that has generated nothing
  before: it includes loading the weights and warming up, but not importing torch, which is there already.
* switch_latency_s: seconds from handing a prompt to `Session.switch` to the first frame under it being handed to the
  consumer, while a consumer plays at the video's own rate with the default lead. Median over requests spread evenly
  over a block's time. What is still buffered is shown before that frame: see `Session.lead`.
* watching_share: what watching the cache costs at its default sampling (attention, provenance and checks; no residue),
  as a share of the time of a block without it. Blocks with and without take turns, and the faster half of each is
  compared: others on the machine only ever slow a block down. A few per cent of noise remain, so that a share may even
  come out below 0.
* peak_memory_gib: the most memory the process held, in GiB (2^30 bytes): of the GPU where one computes, else resident.

Pixel frames are counted, never latent frames. The first blocks warm up and are left out of the first three.
"""

from __future__ import annotations

import platform
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import torch

from studio.events import Event
from studio.live.open import open as open_session
from studio.live.session import Session
from studio.timeline import check_whole

WARM_UP = 3
SWITCHES = 8
PROMPTS = (
    "a red fox runs in the snow",
    "a blue rabbit jumps in the forest",
    "a yellow robot dances at night",
    "a green turtle rolls in the desert",
)


def bench(
    model: Any = "miniature",
    *,
    blocks: int = 24,
    device: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure a model; see the module for what each figure means.

    Args:
        model: as for `studio.open`.
        blocks: blocks measured after warming up.
        device: as for `studio.open`.
        say: told what is being done.

    Returns:
        JSON-ready figures under the keys listed in the module, and "hardware" and "versions".

    Raises:
        ValueError: `blocks` is no whole number from 2 up.
    """
    blocks = check_whole(blocks, "blocks", 2, 100_000)
    say("opening")
    started = time.perf_counter()
    with open_session(model, prompt=PROMPTS[0], device=device) as session:
        frames = session.frames()
        next(frames)
        first_frame_s = time.perf_counter() - started
        say("generating")
        speed = _speed(session, frames, blocks)
        say("watching")
        share = watching_share(session, frames, max(4, blocks // 4))
        frames.close()
        session.pause()
        session.restart()
        say("switching")
        latencies = switch_latencies(session, SWITCHES)
        compute = session.device
        memory = peak_memory(torch.cuda.is_available() and "CPU" not in compute)
    return {
        **speed,
        "watching_share": round(share, 4),
        "first_frame_s": round(first_frame_s, 3),
        "switch_latency_s": round(median(latencies), 3),
        "peak_memory_gib": round(memory / 2**30, 3),
        "hardware": hardware(compute),
        "versions": versions(),
    }


def _speed(session: Session, frames: Any, blocks: int) -> dict[str, float]:
    for _ in range(WARM_UP):
        next(frames)
    made: list[int] = []
    started = time.perf_counter()
    for _ in range(blocks):
        made.append(len(next(frames)))
    elapsed = time.perf_counter() - started
    timings = session.timings()[-blocks:]
    spent = sum(part["denoise"] + part["commit"] for part in timings)
    per_block = sum(made) / len(made)
    return {
        "denoise_fps": round(per_block * len(timings) / spent, 2),
        "vae_ms_per_block": round(1000 * median(part["vae"] for part in timings), 2),
        "end_to_end_fps": round(sum(made) / elapsed, 2),
    }


def watching_share(session: Session, frames: Any, turns: int) -> float:
    """Compare blocks that are watched with blocks that are not.

    Args:
        session: a session that nobody watches yet.
        frames: its frames; each block is made as it is taken.
        turns: turns of two blocks with and two without, at least 1.

    Returns:
        Seconds that watching adds to a block, as a share of those of a block without; means over the faster halves.
    """
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(turns):
        for watched in (True, False):
            with session.watch() if watched else nullcontext():
                for block in range(2 + session.lead):
                    started = time.perf_counter()
                    next(frames)
                    # The first ones had begun before the turn did.
                    if block >= session.lead:
                        seconds[watched].append(time.perf_counter() - started)
    watched, plain = (sum(sorted(seconds[on])[:turns]) / turns for on in (True, False))
    return watched / plain - 1


def switch_latencies(session: Session, switches: int) -> list[float]:
    """Play a session at its own rate and switch its prompt now and then.

    Args:
        session: one that nobody else watches; it plays from the first block of its take.
        switches: how often to switch.

    Returns:
        Seconds from each request to the first frame under the new prompt in the consumer's hands.

    Raises:
        RuntimeError: the generator failed.
    """
    player = _Player(session)
    block_s = session.timeline.start_seconds(2) - session.timeline.start_seconds(1)
    latencies = []
    try:
        player.play(until=lambda: player.frame >= session.timeline.start_frame(2))
        for i in range(switches):
            # A request may come at any moment of a block; these are spread evenly over it.
            player.rest(2 * block_s + block_s * i / switches)
            prompt = PROMPTS[(i + 1) % len(PROMPTS)]
            asked = time.perf_counter()
            block = session.switch(prompt).effective_block
            player.play(until=lambda block=block: block in player.handed)
            latencies.append(player.handed[block] - asked)
    finally:
        player.close()
    return latencies


class _Player:
    """A consumer that shows frames at the video's rate and waits when they are late, as a person's screen does."""

    def __init__(self, session: Session) -> None:
        self._session, self._seat = session, session.attach()
        self.handed: dict[int, float] = {}
        self._end, self._news = 0, threading.Event()
        self._clock = time.perf_counter()
        self._exact = 0.0
        self._forget = session.subscribe(self._listen)
        session.play()

    @property
    def frame(self) -> int:
        """The frame being shown."""
        return int(self._exact)

    def _listen(self, event: Event) -> None:
        if event.kind == "block":
            self.handed[event.payload.index] = time.perf_counter()
            self._end = event.payload.end_frame
        self._news.set()

    def play(self, until: Callable[[], bool]) -> None:
        """Show frames until something is true."""
        while not until():
            if self._session.error is not None:
                raise RuntimeError(f"the generator failed: {self._session.error.message}")
            self._news.wait(0.25 / self._session.fps)
            self._news.clear()
            now = time.perf_counter()
            # Frames that are not there yet hold playback up; it does not jump afterwards.
            last = max(0, self._end - 1)
            self._exact = min(self._exact + (now - self._clock) * self._session.fps, float(last))
            self._clock = now
            self._seat.played(self.frame)

    def rest(self, seconds: float) -> None:
        """Show frames for a while."""
        end = time.perf_counter() + seconds
        self.play(until=lambda: time.perf_counter() >= end)

    def close(self) -> None:
        """Leave."""
        self._forget()
        self._seat.close()


def peak_memory(gpu: bool) -> int:
    """Most bytes that this process ever held.

    Args:
        gpu: whether to ask for the GPU's memory rather than the resident memory.

    Returns:
        Bytes.
    """
    if gpu:
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows has another counter
        import psutil

        info = psutil.Process().memory_info()
        return getattr(info, "peak_wset", info.rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def processor() -> str:
    """Name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def hardware(compute: str) -> str:
    """Say what computed.

    Args:
        compute: `Session.device`.

    Returns:
        As "CPU, 2 threads; Intel(R) Xeon(R) CPU; Linux x86_64".
    """
    return f"{compute}; {processor()}; {platform.system()} {platform.machine()}"


def versions() -> dict[str, str]:
    """Versions of what matters for speed."""
    import studio

    found = {"studio": studio.__version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in ("numpy", "transformers", "av"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
