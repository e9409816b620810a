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
* first_frame_after_warm_up_s: seconds from `Session.play` to the first frame, when all is loaded and warm.
* switch_latency_worst_s: the longest of those that switch_latency_s is the median of.
* denoise_ms_per_block, commit_ms_per_block, decode_ms_per_block, transport_ms_per_block: medians of a block's parts;
  the last is the change to bytes and their way to the CPU. vae_ms_per_block holds both of the last two.
* recache_ms: median milliseconds of a recache, as switches while playing caused them.
* recache_overhead_10s: what one recache adds to the time that ten seconds of video take, as a share.
* denoise_tflops, decode_tflops: operations a second of matrix products and convolutions, in 10^12;
  matrix_product_tflops: those of one large matrix product in the same run; the rooflines are the shares of it.
* latents_error, commit_error, recache_error, decode_psnr_db: see `studio.live.accuracy`.
* watching_share: what watching the cache costs at its default sampling (attention, provenance and checks; no residue),
  as a share of the time of a block without it. Blocks with and without take turns, and the faster half of each is
  compared: others on the machine only ever slow a block down. A few per cent of noise remain, so that a share may even
  come out below 0.
* peak_memory_gib: the most memory the process held, in GiB (2^30 bytes): of the GPU where one computes, else resident.

Pixel frames are counted, never latent frames. The first blocks warm up and are left out of the first three. What is
compiled, and whatever computes on a GPU, is warmed up before its session opens; `warm_up_s` says how long that took.
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

from studio.config import ModelConfig
from studio.events import Event
from studio.live.accuracy import accuracy
from studio.live.open import check_device, check_dtype, endless, load_models
from studio.live.roofline import block_flops, decode_flops, matrix_product_flops
from studio.live.session import Session
from studio.live.warming import Progress, warm_up
from studio.model.backends import choose
from studio.model.blank import blank_models
from studio.model.replay import Replays
from studio.shapes import VideoShape
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
    dtype: str | None = None,
    quantization: str | None = None,
    attention: str | None = None,
    compiled: bool = False,
    recorded: bool | None = None,
    random: bool = False,
    exact: bool = False,
    say: Callable[[str], None] = lambda text: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model; see the module for what each figure means.

    Args:
        model: name or folder of a model.
        blocks: blocks measured after warming up.
        device: as for `studio.open`.
        dtype: as for `studio.open`.
        quantization: as for `studio.load`.
        attention: as for `studio.load`.
        compiled: as for `studio.load`.
        recorded: as for `studio.load`.
        random: weights drawn at random, at the sizes of a preset, where its files are not here.
        exact: whether to compare with the plain model in float32, which needs memory for both.
        say: told what is being done.
        progress: told how far the warm-up is.

    Returns:
        JSON-ready figures under the keys listed in the module, the setting, "hardware" and "versions".

    Raises:
        ValueError: `blocks` is no whole number from 2 up, or an option makes no sense.
    """
    blocks = check_whole(blocks, "blocks", 2, 100_000)
    place = check_device(device)
    kind = check_dtype(dtype) or (torch.bfloat16 if place.type == "cuda" else torch.float32)
    say("opening")
    started = time.perf_counter()
    if random:
        models = blank_models(model, device=place, dtype=kind, quantization=quantization)
        backend = choose(attention, place, kind, models.config.dit.head_dim)
        models = models.quickened(backend, compiled=compiled, recorded=recorded)
    else:
        asked = {
            "quantization": quantization,
            "attention": attention,
            "compiled": compiled or None,
            "recorded": recorded,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        models = load_models(model, place, kind, "auto", **given)
    figures = _measured(endless(models), blocks, started, say, progress)
    compute = figures.pop("compute").split(", attention by")[0]  # the setting says it
    if exact:
        say("comparing")
        figures |= {name: float(f"{value:.4g}") for name, value in _errors(model, models, place, kind, random).items()}
    return {
        **figures,
        "model": f"{models.config.name}, random weights" if random else models.config.name,
        "quantization": quantization or "none",
        "dtype": str(kind).removeprefix("torch."),
        "attention": models.dit.backend.name,
        "compiled": compiled,
        "recorded": _recorded(models.dit.replays),
        "hardware": hardware(compute),
        "versions": versions(),
    }


def _measured(
    models: Any, blocks: int, started: float, say: Callable[[str], None], progress: Progress | None
) -> dict[str, Any]:
    gpu, warm_s = next(models.dit.parameters()).is_cuda, 0.0
    if gpu or models.dit.fused is not None:
        say("warming up")
        warm_s = sum(warm_up(models, progress).values())
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    timeline = Session.plain_timeline(models, PROMPTS[0])
    with Session(models, timeline=timeline) as session:
        asked = time.perf_counter()
        frames = session.frames()
        next(frames)
        shown = time.perf_counter()
        say("generating")
        speed = _speed(session, frames, blocks)
        say("watching")
        share = watching_share(session, frames, max(4, blocks // 4))
        frames.close()
        session.pause()
        session.restart()
        say("switching")
        latencies = switch_latencies(session, SWITCHES)
        recaches = [part["recache"] for part in session.timings() if part["recache"] > 0]
        compute = session.device
        memory = peak_memory(gpu)
    say("roofline")
    return {
        **speed,
        "watching_share": round(share, 4),
        "first_frame_s": round(shown - started, 3),
        "switch_latency_s": round(median(latencies), 3),
        "peak_memory_gib": round(memory / 2**30, 3),
        "first_frame_after_warm_up_s": round(shown - asked, 3),
        "warm_up_s": round(warm_s, 3),
        "switch_latency_worst_s": round(max(latencies), 3),
        **_recaching(models.config, speed, recaches),
        **_roofline(models, speed),
        "compute": compute,
    }


def _recaching(config: ModelConfig, speed: dict[str, float], recaches: list[float]) -> dict[str, float]:
    if not recaches:
        return {}
    shape = VideoShape.of(config)
    parts = ("denoise", "commit", "vae")
    usual = shape.blocks_for(10.0) * sum(speed[f"{part}_ms_per_block"] for part in parts)
    spent = 1000 * median(recaches)
    return {"recache_ms": round(spent, 2), "recache_overhead_10s": round(spent / usual, 4)}


def _roofline(models: Any, speed: dict[str, float]) -> dict[str, float]:
    config, parameter = models.config, next(models.dit.parameters())
    best = matrix_product_flops(parameter.device, parameter.dtype)
    denoise = 1000 * block_flops(config) / (speed["denoise_ms_per_block"] + speed["commit_ms_per_block"])
    decode = 1000 * decode_flops(config) / speed["decode_ms_per_block"]
    return {
        "denoise_tflops": float(f"{denoise / 1e12:.4g}"),
        "decode_tflops": float(f"{decode / 1e12:.4g}"),
        "matrix_product_tflops": float(f"{best / 1e12:.4g}"),
        "denoise_roofline": round(denoise / best, 4),
        "decode_roofline": round(decode / best, 4),
    }


def _errors(model: Any, fast: Any, place: torch.device, dtype: torch.dtype, random: bool) -> dict[str, float]:
    """The same weights, rounded to the same type, then computed with in float32."""
    if random:
        exact = blank_models(model, device=place, dtype=dtype)
    else:
        exact = load_models(model, place, dtype, None, attention="pytorch")
    exact.dit.float()
    exact.vae.float()
    return accuracy(fast, exact)


def _recorded(replays: Replays | None) -> str:
    if replays is None:
        return "no"
    return f"no: {replays.fault}" if replays.fault else "yes"


def _speed(session: Session, frames: Any, blocks: int) -> dict[str, float]:
    cache = session.models.config.cache
    # Passes are recorded once the window is full, at each of its places.
    places = (cache.capacity or 0) // session.models.config.sampler.block
    for _ in range(WARM_UP if session.models.dit.replays is None else WARM_UP + 2 * places):
        next(frames)
    made: list[int] = []
    started = time.perf_counter()
    for _ in range(blocks):
        made.append(len(next(frames)))
    elapsed = time.perf_counter() - started
    timings = session.timings()[-blocks:]
    spent = sum(part["denoise"] + part["commit"] for part in timings)
    per_block = sum(made) / len(made)
    parts = ("denoise", "commit", "decode", "transport")
    return {
        "denoise_fps": round(per_block * len(timings) / spent, 2),
        "vae_ms_per_block": round(1000 * median(part["vae"] for part in timings), 2),
        "end_to_end_fps": round(sum(made) / elapsed, 2),
        **{f"{name}_ms_per_block": round(1000 * median(part[name] for part in timings), 3) for name in parts},
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
