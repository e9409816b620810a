"""LongLive's interactive prompt files: JSON lines, one video a line, the same number of prompts in each.

    {"prompts": ["a red fox runs in the snow", "the red fox jumps in the snow"]}

The switches stand elsewhere, in the setting `switch_frame_indices` of the inference configuration: latent frames,
separated by commas, each taking effect at the next block.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from studio.formats import native
from studio.formats.losses import Losses
from studio.timeline.checks import MAX_BLOCKS, check_whole, shorten
from studio.timeline.segment import Segment
from studio.timeline.units import clock
from studio.timeline.value import SEGMENT_BLOCKS, Timeline

BLOCK = 3
FPS = 16
SWITCHES = (40, 80, 120, 160, 200)
FRAMES = 240


def from_longlive(text: str, *, switches: Sequence[int] | None = None, video: int = 0) -> tuple[Timeline, list[str]]:
    """Read LongLive's interactive JSON lines.

    Args:
        text: the file.
        switches: latent frames of the switches, rising; None for LongLive's default, every 40.
        video: which line, counted from 0 without empty ones.

    Returns:
        The timeline, as long as LongLive's default or, where it switches after that, about five seconds longer than
        its last switch; and what was taken for granted or passed over.

    Raises:
        ValueError: no such lines, another number of switches than prompts need, or two switches in one block.
    """
    videos = _videos(text)
    video = check_whole(video, "video", 0, len(videos) - 1, f"there are {len(videos)}, counted from 0")
    prompts, notes = videos[video], []
    if len(videos) > 1:
        notes.append(f"video {video} of {len(videos)} was read; choose another by its number")
    if switches is None:
        step = SWITCHES[0]
        switches = [step * i for i in range(1, len(prompts))]
        notes.append(f"the file does not say when to switch; every {step} latent frames was taken, LongLive's default")
    if len(switches) != len(prompts) - 1:
        raise ValueError(
            f"`switches` must hold {len(prompts) - 1} latent frames for {len(prompts)} prompts, got {len(switches)}"
        )
    starts = [0, *_blocks(switches, notes)]
    segments = tuple(Segment(prompt, start) for prompt, start in zip(prompts, starts, strict=True))
    length = FRAMES // BLOCK
    said = f"{FRAMES} latent frames, LongLive's default, were taken"
    if starts[-1] >= length:
        length = starts[-1] + SEGMENT_BLOCKS
        said = f"{length * BLOCK} latent frames were taken, about five seconds past the last switch"
    notes.append(f"the file does not say how long the video is; {said}")
    return Timeline(segments, length, fps=FPS, block_latent_frames=BLOCK), notes


def _blocks(switches: Sequence[int], notes: list[str]) -> list[int]:
    units, blocks = clock(FPS, BLOCK), []
    for i, frame in enumerate(switches):
        frame = check_whole(frame, f"switches[{i}]", 1, MAX_BLOCKS)
        block = units.block_at_latent_frame(frame)
        if frame % BLOCK:
            notes.append(f"the switch at latent frame {frame} waits for the next block, latent frame {block * BLOCK}")
        if blocks and block <= blocks[-1]:
            raise ValueError(f"`switches` must rise by whole blocks of {BLOCK}, got {list(switches)}; set them apart")
        blocks.append(block)
    return blocks


def _videos(text: str) -> list[list[str]]:
    videos: list[list[str]] = []
    # Other separators, as U+2028, may stand within a prompt.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        try:
            videos.append(_prompts(native.parse(line)))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if len(videos[-1]) != len(videos[0]):
            raise ValueError(f"line {number}: every line must hold {len(videos[0])} prompts, got {len(videos[-1])}")
    if not videos:
        raise ValueError('the file must hold at least one line, got none; write {"prompts": ["..."]}')
    return videos


def _prompts(item: Any) -> list[str]:
    prompts = item.get("prompts") if isinstance(item, dict) else None
    if not isinstance(prompts, list) or not prompts:
        raise ValueError(f'a line must be {{"prompts": [at least one]}}, got {shorten(item)}')
    return [Segment(prompt).prompt for prompt in prompts]


def switch_indices(timeline: Timeline) -> str:
    """The switches of a timeline as LongLive's setting `switch_frame_indices` wants them.

    Args:
        timeline: the prompts.

    Returns:
        Latent frames, separated by commas; empty without a switch.
    """
    return ",".join(str(segment.start * timeline.block_latent_frames) for segment in timeline.switches())


def to_longlive(timeline: Timeline) -> tuple[str, list[str]]:
    """Write a timeline as LongLive's interactive JSON lines.

    Args:
        timeline: what to write.

    Returns:
        One line, and what it cannot hold; the switches come first, as the setting that LongLive needs for them.
    """
    losses = Losses(timeline)
    notes = []
    if len(timeline.segments) > 1:
        notes.append(f'the switches; set switch_frame_indices: "{switch_indices(timeline)}" in the configuration')
    if timeline.length is not None:
        frames = timeline.length * timeline.block_latent_frames
        notes.append(f"the length; set num_output_frames: {frames} in the configuration")
    notes += losses.of("blends", "transitions", "policies", "sink_policies", "colours", "notes", "markers", "seed")
    if (timeline.fps, timeline.block_latent_frames) != (FPS, BLOCK):
        notes.append("the frame rate and the block size")
    prompts = [segment.prompt for segment in timeline.segments]
    return json.dumps({"prompts": prompts}, ensure_ascii=False) + "\n", notes
