"""Daydream Scope's timelines: the timeline file (version 2) and the timeline of a workflow file.

Scope counts seconds of wall clock. They are read as seconds of video, each switch at the first block that starts at or
after its time, and the end likewise; every time that moves by this is reported. The film ends with the prompt that ends
last. Weights run from 0 to 100.
"""

from __future__ import annotations

import json
import re
from typing import Any

from studio.formats import native
from studio.formats.losses import Losses
from studio.timeline.checks import MAX_BLOCKS, check_seconds, shorten
from studio.timeline.plain import check_list
from studio.timeline.segment import Segment, Transition, TransitionKind, Weighted
from studio.timeline.units import block_at_or_after, clock
from studio.timeline.value import SEGMENT_BLOCKS, Timeline

VERSION = "2.0"
KINDS: dict[str, TransitionKind] = {"linear": "linear", "slerp": "spherical"}
FPS, BLOCK = 16, 3
_KEYS = {  # of a timeline file, and of a workflow file
    "startTime": "start_time",
    "endTime": "end_time",
    "transitionSteps": "transition_steps",
    "temporalInterpolationMethod": "temporal_interpolation_method",
}
_PLAIN = re.compile(r"\w{1,40}", re.ASCII)
_READ = {*_KEYS, *_KEYS.values(), "prompts", "text", "id", "isLive"}


def is_scope(item: Any) -> bool:
    """Whether a JSON value looks like one of Scope's files."""
    if not isinstance(item, dict):
        return False
    return item.get("format") == "scope-workflow" or (isinstance(item.get("prompts"), list) and "format" not in item)


def from_scope(text: str) -> tuple[Timeline, list[str]]:
    """Read a timeline or workflow of Scope.

    Args:
        text: the file.

    Returns:
        The timeline, and what was moved, passed over or taken for granted.

    Raises:
        ValueError: another kind of file, or entries that overlap or make no sense.
    """
    head = native.parse(text)
    if not is_scope(head):
        raise ValueError(f"a timeline of Scope must have a list `prompts`, got {shorten(head)}; is this another kind?")
    notes: list[str] = []
    if head.get("format") == "scope-workflow":
        timeline = head.get("timeline")
        items = timeline.get("entries") if isinstance(timeline, dict) else None
        notes += [f"the workflow's {name} were passed over" for name in ("pipelines", "prompts") if head.get(name)]
    else:
        items = head["prompts"]
    seed = _settings(head, notes)
    entries = [_entry(item, i, notes) for i, item in enumerate(check_list(items, "prompts"))]
    return _timeline([entry for entry in entries if entry is not None], seed, notes), notes


def _settings(head: dict[str, Any], notes: list[str]) -> int:
    settings = head.get("settings")
    if settings is None:
        return 0
    if not isinstance(settings, dict):
        raise ValueError(f"`settings` must be an object, got {shorten(settings)}")
    over = sorted(name for name, value in settings.items() if name != "seed" and value is not None)
    if over:
        notes.append(f"the settings {', '.join(map(_key, over))} were passed over; the model's own hold")
    seed = settings.get("seed")
    return 0 if seed is None else seed


def _key(name: str) -> str:
    """A key of a file as a note can show it."""
    return name if _PLAIN.fullmatch(name) else shorten(name)


def _entry(item: Any, i: int, notes: list[str]) -> dict[str, Any] | None:
    where = f"prompts[{i}]"
    if not isinstance(item, dict):
        raise ValueError(f"`{where}` must be an object, got {shorten(item)}")
    for key in sorted(set(item) - _READ):
        notes.append(f"`{where}.{_key(key)}` was passed over")
    get = {ours: item.get(ours, item.get(theirs)) for ours, theirs in _KEYS.items()}
    if get["startTime"] is None:
        raise ValueError(f"`{where}` must say when it starts; add `startTime`")
    start = _seconds(get["startTime"], f"{where}.startTime")
    end = None if get["endTime"] is None else _seconds(get["endTime"], f"{where}.endTime")
    if end is not None and end < start:
        raise ValueError(f"`{where}.endTime` must be after its start {start:g}, got {end:g}; swap them")
    if end == start:
        notes.append(f"`{where}` lasts no time and was passed over")
        return None
    return {
        "start": start,
        "end": end,
        "parts": _parts(item, where, notes),
        "transition": _transition(get["transitionSteps"], get["temporalInterpolationMethod"], where),
    }


def _seconds(value: Any, where: str) -> float:
    time, limit = check_seconds(value, where), clock(FPS, BLOCK).block_seconds(MAX_BLOCKS)
    if time > limit:
        raise ValueError(f"`{where}` must be at most {limit:.0f}, got {shorten(time)}; shorten it")
    return time


def _parts(item: dict[str, Any], where: str, notes: list[str]) -> list[Weighted]:
    if item.get("prompts") is None:
        return [Weighted(item.get("text"))]  # type: ignore[arg-type]
    parts = []
    for i, entry in enumerate(check_list(item["prompts"], f"{where}.prompts")):
        if not isinstance(entry, dict):
            raise ValueError(f"`{where}.prompts[{i}]` must be an object, got {shorten(entry)}")
        if not str(entry.get("text", "")).strip():
            notes.append(f"`{where}.prompts[{i}]` is empty and was passed over")
            continue
        parts.append(Weighted(entry.get("text"), entry.get("weight", 100)))  # type: ignore[arg-type]
    if not parts:
        raise ValueError(f"`{where}` must have at least one prompt, got none; add one")
    return parts


def _transition(steps: Any, method: Any, where: str) -> Transition | None:
    if method is not None and (not isinstance(method, str) or method not in KINDS):
        known = ", ".join(KINDS)
        raise ValueError(f"`{where}.temporalInterpolationMethod` must be one of {known}, got {shorten(method)}")
    if steps is None or (not isinstance(steps, bool) and steps == 0):
        return None
    return Transition(steps, KINDS[method or "linear"])


def _timeline(entries: list[dict[str, Any]], seed: int, notes: list[str]) -> Timeline:
    if not entries:
        raise ValueError("the timeline must hold at least one prompt that lasts, got none")
    units, segments = clock(FPS, BLOCK), []
    for i, entry in enumerate(entries):
        block = block_at_or_after(entry["start"], units)
        if i and entry["start"] < entries[i - 1]["start"]:
            raise ValueError(
                f"the prompts must be in order, but {entry['start']:g} s comes after a later one; sort them"
            )
        if i and (before := entries[i - 1]["end"]) is not None:
            _meet(before, entry["start"], notes)
        if not segments and block:
            notes.append(f"nothing is said before {entry['start']:g} s; the first prompt starts at 0")
            block = 0
        elif abs(units.block_seconds(block) - entry["start"]) > 1e-6:
            notes.append(
                f"the switch at {entry['start']:g} s waits for block {block}, {units.block_seconds(block):g} s"
            )
        if segments and block <= segments[-1].start:
            notes.append(f"{shorten(segments[-1].prompt)} is shorter than a block and was passed over")
            block = segments.pop().start
        first, *more = entry["parts"]
        weight = first.weight if more else 1.0
        segments.append(Segment(first.prompt, block, weight=weight, blend=tuple(more), transition=entry["transition"]))
    length = _length(entries, segments[-1].start, notes)
    return Timeline(tuple(segments), length, seed, fps=FPS, block_latent_frames=BLOCK)


def _length(entries: list[dict[str, Any]], last: int, notes: list[str]) -> int | None:
    """The block at which the film ends, past the start of the last segment; None where the last prompt has no end."""
    end, units = entries[-1]["end"], clock(FPS, BLOCK)
    if end is None:
        return None
    latest = max(entry["end"] for entry in entries if entry["end"] is not None)
    if latest > end + 1e-6:
        notes.append(f"the last prompt, which ends at {end:g} s, goes on to {latest:g} s, where one before it ends")
    length = max(block_at_or_after(latest, units), last + 1)
    if abs(units.block_seconds(length) - latest) > 1e-6:
        notes.append(f"the end at {latest:g} s waits for block {length}, {units.block_seconds(length):g} s")
    return length


def _meet(end: float, start: float, notes: list[str]) -> None:
    if end > start + 1e-6:
        notes.append(f"the prompt that ends at {end:g} s is cut by the one that starts at {start:g} s")
    elif end < start - 1e-6:
        notes.append(f"the gap from {end:g} s to {start:g} s is filled by the prompt before it")


def to_scope(timeline: Timeline) -> tuple[str, list[str]]:
    """Write a timeline as a timeline file of Scope.

    Args:
        timeline: what to write.

    Returns:
        JSON text, and what it cannot hold.
    """
    ends = [timeline.end_of(i) for i in range(len(timeline.segments))]
    notes = []
    if ends[-1] is None:
        ends[-1] = timeline.segments[-1].start + SEGMENT_BLOCKS
        notes.append(f"a video without an end; it was written to end at {timeline.start_seconds(ends[-1]):g} s")
    prompts = [_prompt(timeline, i, end or 0) for i, end in enumerate(ends)]
    notes += Losses(timeline).of("policies", "sink_policies", "colours", "notes", "markers")
    if (timeline.fps, timeline.block_latent_frames) != (FPS, BLOCK):
        notes.append("the frame rate and the block size")
    head = {"prompts": prompts, "settings": {"seed": timeline.seed}, "version": VERSION}
    return json.dumps(head, ensure_ascii=False, indent=2) + "\n", notes


def _prompt(timeline: Timeline, i: int, end: int) -> dict[str, Any]:
    segment = timeline.segments[i]
    top = max(segment.weight, *(part.weight for part in segment.blend), 0)
    parts = (Weighted(segment.prompt, segment.weight), *segment.blend)
    out: dict[str, Any] = {
        "startTime": timeline.start_seconds(segment.start),
        "endTime": timeline.start_seconds(end),
        "prompts": [{"text": part.prompt, "weight": 100 * part.weight / top} for part in parts],
    }
    if segment.transition is not None:
        names = {ours: theirs for theirs, ours in KINDS.items()}
        out["transitionSteps"] = segment.transition.blocks
        out["temporalInterpolationMethod"] = names[segment.transition.kind]
    return out
