"""Streaming long tuning: train long, test long, with the memory of one chunk.

The rollout goes on across updates with its cache; what was generated is constant, and distribution matching acts on
each new chunk. A prompt switch recaches by the very function that plays it, so the sink's policy is the player's.

Source: LongLive (ICLR 2026), section 3.2; figures of its public configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from studio.sampler import make_cache, rollout
from studio.train import draws
from studio.train.matching import MATCHING_PRESETS, Clip, Draw, MatchingTrainer
from studio.train.networks import Networks, open_networks
from studio.train.prompts import GivenPrompts
from studio.train.recipe import MatchingConfig, check_whole
from studio.train.stream import Stream, chunk_plan
from studio.train.training import Training

__all__ = ["LONG_TUNE_PRESETS", "LongTuneConfig", "LongTuning", "long_tune", "long_tune_preset"]


@dataclass(frozen=True, kw_only=True)
class LongTuneConfig(MatchingConfig):
    """Streaming long tuning; the defaults are the public recipe's figures. See `MatchingConfig` for all other fields.

    Args:
        max_length: Latent frames after which a new video begins.
        new_frames: New latent frames of each chunk after the first; the clip's others overlap with the past.
        switch_frames: Latent frames of which one is drawn for each video as its switch: beginnings of later chunks;
            an empty tuple for no switch, `None` for all but the last, which leaves the new prompt two chunks or more.
        sink_policy: What the switch's recache does to the sink: "keep" or "rewrite"; `None`: what the model plays with.

    Raises:
        ValueError: If a value is out of range, or a switch is no beginning of a chunk.
    """

    steps: int = 3000
    generator_rate: float = 1e-5
    critic_rate: float = 2e-6
    average: float | None = None
    lora: int | None = 256
    max_length: int = 240
    new_frames: int = 18
    switch_frames: tuple[int, ...] | None = None
    sink_policy: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "new_frames", 0)
        check_whole(self, "max_length", 1)
        frames = () if self.switch_frames is None else self.switch_frames
        if not isinstance(frames, tuple) or not all(isinstance(frame, int) for frame in frames):
            raise ValueError(f"`switch_frames` must be latent frames such as (21, 39), got {self.switch_frames!r}")
        if not 0 < self.new_frames < self.frames:
            raise ValueError(
                f"`new_frames` must lie in 1..{self.frames - 1}, so that clips overlap, got {self.new_frames}"
            )
        if self.max_length < self.frames:
            raise ValueError(
                f"`max_length` must be at least one clip of {self.frames} latent frames, got {self.max_length}"
            )
        if self.sink_policy not in (None, "keep", "rewrite"):
            raise ValueError(f"`sink_policy` must be one of keep, rewrite or None, got {self.sink_policy!r}")
        starts = self.chunk_starts[1:]
        for frame in frames:
            if frame not in starts:
                near = min(starts, key=lambda start: abs(start - frame), default=None)
                hint = "a video has one chunk only; use none" if near is None else f"use {near}"
                raise ValueError(f"`switch_frames` must be beginnings of later chunks, got {frame}; {hint}")

    @property
    def video_frames(self) -> int:
        """Latent frames of the longest video that is rolled out."""
        return self.max_length

    @property
    def switches(self) -> tuple[int, ...]:
        """Latent frames of which one is drawn for each video as its switch."""
        return self.chunk_starts[1:-1] if self.switch_frames is None else self.switch_frames

    @property
    def chunk_starts(self) -> tuple[int, ...]:
        """First latent frame of every chunk of a video."""
        return (0, *range(self.frames, self.max_length - self.new_frames + 1, self.new_frames))


# The miniature is small enough to be tuned whole; 975 latent frames are four minutes of it.
LONG_TUNE_PRESETS: dict[str, dict[str, Any]] = {
    **MATCHING_PRESETS,
    "miniature": {
        **MATCHING_PRESETS["miniature"],
        "steps": 874,
        "batch": 48,
        "max_length": 975,
        "average": 0.99,
        "average_from": 300,
        "lora": None,
    },
    "pocket": {**MATCHING_PRESETS["pocket"], "lora": None, "new_frames": 6, "max_length": 45},
}


class LongTuning(MatchingTrainer):
    """The trainer of streaming long tuning: each clip is the next chunk of a video that goes on; see `Trainer`.

    Attributes:
        stream: The videos that are being rolled out, or `None` before the first chunk.
    """

    config: LongTuneConfig

    def __init__(self, config: LongTuneConfig, networks: Networks, prompts: GivenPrompts | None = None) -> None:
        block = networks.config.sampler.block
        if config.new_frames % block:
            low = max(block, config.new_frames // block * block)
            raise ValueError(
                f"`new_frames` must be a multiple of the block size {block}, got {config.new_frames}; "
                f"use {low} or {low + block}"
            )
        if networks.vae is None:
            raise ValueError("`networks` must have a VAE, which makes the overlap's image latent, got None")
        super().__init__(config, networks, prompts)
        self.stream: Stream | None = None
        self._first = 0

    @property
    def overlap(self) -> int:
        """Latent frames that a clip shares with the one before it."""
        return self.config.frames - self.config.new_frames

    def clip(self, draw: Draw, *, gradient: bool) -> Clip:
        """See `MatchingTrainer.clip`; the stream goes on, whoever asks."""
        stream, nets = self._current(), self.networks
        start = stream.length
        count = self.config.frames if start == 0 else self.config.new_frames
        plan = chunk_plan(
            stream,
            count,
            exit_step=self.exit_step("stream", stream.video, start),
            gradient=gradient,
            sink_policy=self.config.sink_policy,  # type: ignore[arg-type]
        )
        noise = self.noise("stream", stream.video)
        blocks = rollout(nets.generator, stream.cache, plan, noise, nets.config.sampler, timed=False)
        new = torch.cat([block.latents for block in blocks], dim=1).float()
        latents, mask = stream.clip(new)
        text = stream.after if stream.switched(start) else stream.text
        if self._goes_on(stream):
            assert nets.vae is not None
            stream.advance(new, self.overlap, nets.vae)
        return Clip(latents=latents, text=text, mask=mask)

    def state(self) -> dict[str, Any]:
        """See `MatchingTrainer.state`."""
        if self.stream is None:
            return {}
        begun = (self.stream.video + 1) * self._clips
        return {"clips": begun, **self.stream.plain(), **self.stream.tensors()}

    def restore(self, state: dict[str, Any]) -> None:
        """See `MatchingTrainer.restore`."""
        self.stream = None
        if state:
            self.stream = self._begin(state["video"])
            self.stream.fill(state)

    def begin_anew(self, state: dict[str, Any]) -> None:
        """See `MatchingTrainer.begin_anew`; the next videos are begun, of prompts that no video has had."""
        self.stream, self._first = None, -(-state.get("clips", 0) // self._clips)

    def release(self) -> None:
        """See `Trainer.release`."""
        super().release()
        self.stream = None

    @property
    def _clips(self) -> int:
        """Videos that are rolled out side by side, of all processes."""
        return self.accelerator.num_processes * self.config.batch

    def _current(self) -> Stream:
        if self.stream is None:
            self.stream = self._begin(self._first)
        elif not self._goes_on(self.stream):
            video = self.stream.video + 1
            self.stream = None  # The old cache goes before the new one comes.
            self.stream = self._begin(video)
        return self.stream

    def _goes_on(self, stream: Stream) -> bool:
        return stream.length == 0 or stream.length + self.config.new_frames <= self.config.max_length

    def _begin(self, video: int) -> Stream:
        config, nets = self.config, self.networks
        text, after = self.encoded(video)
        switch = None
        if config.switches:
            switch = config.switches[draws.choice(len(config.switches), config.seed, "switch", video)]
        cache = make_cache(
            nets.config, batch=config.batch, frames=config.max_length, device=self.device, dtype=self.cache_dtype
        )
        assert nets.vae is not None
        return Stream(video=video, cache=cache, pixels=nets.vae.stream(), text=text, after=after, switch=switch)


long_tune = Training(
    name="long_tune",
    teaches="a generator on long videos, chunk after chunk",
    config=LongTuneConfig,
    trainer=LongTuning,
    opens=open_networks,
    presets=LONG_TUNE_PRESETS,
)
long_tune_preset = long_tune.preset
