"""The studio's own JSON, versioned; `schema.json` beside this file describes it for other tools.

    {"format": "studio-timeline", "version": 2, "fps": 16, "block_latent_frames": 3, "seed": 7, "length_blocks": 16,
     "segments": [{"start_block": 0, "prompt": "a red fox runs in the snow"},
                  {"start_block": 8, "prompt": "the red fox jumps in the snow", "policy": "recache",
                   "weight": 3, "blend": [{"prompt": "the red fox sleeps in the snow", "weight": 1}],
                   "transition": {"blocks": 4, "kind": "spherical"}}],
     "markers": [{"block": 8, "name": "jump"}]}

Times are blocks (`start_block`, `end_block`, `length_blocks`) or seconds (`start_s`, `end_s`, `length_s`). Seconds are
read as a live request would be: they take effect at the first block that starts at or after them. Ends are optional;
where given they must meet the next start. `policy`, `sink_policy`, `colour`, `note`, `weight`, `blend`, `transition`
and `markers` are optional. Version 1 had no weights, blends, transitions and markers; it is still read.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any, NoReturn

from studio.shapes import VideoClock
from studio.timeline.checks import MAX_BLOCKS, check_rate, check_seconds, check_whole, shorten
from studio.timeline.plain import (
    OPTIONS,
    check_keys,
    check_list,
    marker_from_dict,
    marker_to_dict,
    options_from_dict,
    segment_to_dict,
)
from studio.timeline.segment import Marker, Segment
from studio.timeline.units import block_at_or_after, clock
from studio.timeline.value import Timeline

FORMAT = "studio-timeline"
VERSION = 2
READABLE = (1, 2)

_TOP = ("format", "version", "fps", "block_latent_frames", "seed", "length_blocks", "length_s", "segments", "markers")
_SEGMENT = ("start_block", "start_s", "end_block", "end_s", "prompt", *OPTIONS)
_SEGMENT_1 = tuple(key for key in _SEGMENT if key not in ("weight", "blend", "transition"))


def to_json(timeline: Timeline) -> str:
    """Write a timeline as JSON.

    Args:
        timeline: what to write.

    Returns:
        JSON text that `from_json` reads back to an equal timeline.
    """
    head: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "fps": timeline.fps,
        "block_latent_frames": timeline.block_latent_frames,
        "seed": timeline.seed,
    }
    if timeline.length is not None:
        head["length_blocks"] = timeline.length
    head["segments"] = [segment_to_dict(segment) for segment in timeline.segments]
    if timeline.markers:
        head["markers"] = [marker_to_dict(marker) for marker in timeline.markers]
    return json.dumps(head, ensure_ascii=False, indent=2) + "\n"


def from_json(source: str | bytes | dict[str, Any]) -> Timeline:
    """Read a timeline from JSON.

    Args:
        source: JSON text, or the object it stands for.

    Returns:
        The timeline.

    Raises:
        ValueError: no JSON, another format or version, an unknown key, or times that overlap, leave a gap, are
            negative, unsorted or not finite; the message names the value and the remedy.
    """
    head = source if isinstance(source, dict) else parse(source)
    if not isinstance(head, dict):
        raise ValueError(f'a timeline must be a JSON object, got {shorten(head)}; begin with {{"format": "{FORMAT}"')
    check_keys(head, _TOP, "the timeline")
    if head.get("format") != FORMAT:
        raise ValueError(f'`format` must be "{FORMAT}", got {shorten(head.get("format"))}; is this another kind?')
    version = head.get("version")
    if version not in READABLE or isinstance(version, bool):
        raise ValueError(f"`version` must be 1 or {VERSION}, got {shorten(version)}; update the studio")
    fps, block = head.get("fps", 16), head.get("block_latent_frames", 3)
    check_rate(fps)
    reader = _Clock(clock(fps, check_whole(block, "block_latent_frames", 1, 1000)))
    items = head.get("segments")
    if not isinstance(items, list) or not items:
        raise ValueError(f"`segments` must be a list of at least one segment, got {shorten(items)}")
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            raise ValueError(
                f'`segments[{i}]` must be an object, got {shorten(item)}; use {{"start_block": 0, "prompt": "..."}}'
            )
        check_keys(item, _SEGMENT if version > 1 else _SEGMENT_1, f"segments[{i}]")
    _check_times(items)
    length = reader.block(head, "length_blocks", "length_s", "the timeline")
    length = _check_ends(items, reader, length)
    segments = [_segment_from_dict(item, i, reader) for i, item in enumerate(items)]
    markers = _markers(head.get("markers", []))
    seed = head.get("seed", 0)
    return Timeline(tuple(segments), length, seed, fps=fps, block_latent_frames=block, markers=markers)


def _markers(items: Any) -> tuple[Marker, ...]:
    return tuple(marker_from_dict(item, f"markers[{i}]") for i, item in enumerate(check_list(items, "markers")))


class _Clock:
    """Turns the times of a file into blocks."""

    def __init__(self, units: VideoClock) -> None:
        self.units = units

    def block(self, item: dict[str, Any], blocks: str, seconds: str, where: str) -> int | None:
        """Read a time given in one of two units; None when it is not given."""
        if item.get(blocks) is not None and item.get(seconds) is not None:
            raise ValueError(f"{where} gives both `{blocks}` and `{seconds}`; keep one of them")
        if item.get(seconds) is not None:
            time = check_seconds(item[seconds], f"{where}.{seconds}")
            limit = self.units.block_seconds(MAX_BLOCKS)
            if time > limit:
                raise ValueError(f"`{where}.{seconds}` must be at most {limit:.0f}, got {shorten(time)}; shorten it")
            return block_at_or_after(time, self.units)
        if item.get(blocks) is not None:
            return check_whole(item[blocks], f"{where}.{blocks}", 0, MAX_BLOCKS)
        return None


def _segment_from_dict(item: dict[str, Any], i: int, reader: _Clock) -> Segment:
    start = reader.block(item, "start_block", "start_s", f"segments[{i}]")
    if start is None:
        raise ValueError(f"`segments[{i}]` must say when it starts; add `start_block` or `start_s`")
    if "prompt" not in item:
        raise ValueError(f"`segments[{i}]` must have a prompt; add `prompt`")
    try:
        return Segment(item["prompt"], start, **options_from_dict(item))
    except ValueError as error:
        raise ValueError(f"segments[{i}]: {error}") from None


def _check_times(items: list[dict[str, Any]]) -> None:
    """Compare times in the unit they were written in, before seconds are rounded to blocks."""
    for unit, limit in (("_s", check_seconds), ("_block", lambda value, name: check_whole(value, name, 0, MAX_BLOCKS))):
        before = None
        for i, item in enumerate(items):
            start, end = item.get("start" + unit), item.get("end" + unit)
            if end is not None:
                end = limit(end, f"segments[{i}].end{unit}")
            if start is not None:
                start = limit(start, f"segments[{i}].start{unit}")
                if end is not None and end <= start:
                    raise ValueError(
                        f"`segments[{i}].end{unit}` must be after its start {start:g}, got {end:g}; swap them"
                    )
            if before is not None and start is not None:
                _check_meeting(i, unit, before, start)
            before = (start, end)


def _check_meeting(i: int, unit: str, before: tuple[Any, Any], start: float) -> None:
    began, ended = before
    show = (lambda time: f"{time:g} s") if unit == "_s" else (lambda time: f"block {time}")
    remedy = f"set end{unit} of {i - 1} to {start:g}, or leave it out"
    if began is not None and start < began:
        raise ValueError(
            f"segments must be in order, but {i} starts at {show(start)} and {i - 1} at {show(began)}; sort them"
        )
    if began is not None and start == began:
        raise ValueError(f"segments {i - 1} and {i} overlap: both start at {show(start)}; move one or remove it")
    if ended is not None and ended > start:
        raise ValueError(
            f"segments {i - 1} and {i} overlap: {i - 1} ends at {show(ended)} and {i} starts at {show(start)}; {remedy}"
        )
    if ended is not None and ended < start:
        raise ValueError(f"segments {i - 1} and {i} leave a gap from {show(ended)} to {show(start)}; {remedy}")


def _check_ends(items: list[dict[str, Any]], reader: _Clock, length: int | None) -> int | None:
    """Compare ends with the next start, in blocks; the last end is the length."""
    starts = [reader.block(item, "start_block", "start_s", f"segments[{i}]") for i, item in enumerate(items)]
    for i, (before, after) in enumerate(itertools.pairwise(starts), 1):
        if after is not None and before == after:
            raise ValueError(
                f"segments {i - 1} and {i} overlap: both take effect at block {after}, since a switch waits for the "
                f"next block; start {i} at {reader.units.block_seconds(after + 1):.4g} s or later"
            )
    ends = [reader.block(item, "end_block", "end_s", f"segments[{i}]") for i, item in enumerate(items)]
    for i, (end, start) in enumerate(zip(ends, starts[1:], strict=False), 1):
        if end is not None and start is not None and end != start:
            raise ValueError(f"segment {i - 1} ends at block {end} but {i} starts at block {start}; make them equal")
    if ends[-1] is not None and length is not None and ends[-1] != length:
        raise ValueError(f"the last segment ends at block {ends[-1]} but the length is {length}; keep one of them")
    return length if ends[-1] is None else ends[-1]


def parse(source: str | bytes) -> Any:
    """Read JSON text.

    Args:
        source: the text.

    Returns:
        What it stands for.

    Raises:
        ValueError: no JSON, or a key that stands twice in one object; the message says where.
    """
    try:
        return json.loads(source, object_pairs_hook=_no_doubles)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"not JSON at {where}: {error.msg}; check it there") from None
    except RecursionError:
        raise ValueError("not a timeline: the JSON is nested too deeply; check the file") from None
    except UnicodeDecodeError:
        raise ValueError("a timeline must be UTF-8 text; save it as UTF-8") from None
    except TypeError:
        _refuse(source)


def _no_doubles(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"the key {shorten(key)} stands twice in one object; keep one of them")
        out[key] = value
    return out


def _refuse(source: object) -> NoReturn:
    raise ValueError(f"a timeline must be JSON text or an object, got {shorten(source)} ({type(source).__name__})")
