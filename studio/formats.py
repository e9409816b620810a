"""Files of timelines: the studio's JSON, and plain text with one prompt a line.

The JSON is versioned:

    {"format": "studio-timeline", "version": 1, "fps": 16, "block_latent_frames": 3, "seed": 7, "length_blocks": 16,
     "segments": [{"start_block": 0, "prompt": "a red fox runs in the snow"},
                  {"start_block": 8, "prompt": "the red fox jumps in the snow", "policy": "recache"}]}

Times are blocks (`start_block`, `end_block`, `length_blocks`) or seconds (`start_s`, `end_s`, `length_s`). Seconds are
read as a live request would be: they take effect at the first block that starts at or after them. Ends are optional;
where given they must meet the next start. `policy`, `sink_policy`, `colour` and `note` are optional.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from studio.shapes import VideoClock
from studio.timeline import (
    MAX_BLOCKS,
    SEGMENT_BLOCKS,
    Segment,
    Timeline,
    block_at_or_after,
    check_rate,
    check_seconds,
    check_whole,
    clock,
    nearest,
    shorten,
)

FORMAT = "studio-timeline"
VERSION = 1
MAX_BYTES = 16 * 2**20

_TOP = ("format", "version", "fps", "block_latent_frames", "seed", "length_blocks", "length_s", "segments")
_SEGMENT = ("start_block", "start_s", "end_block", "end_s", "prompt", "policy", "sink_policy", "colour", "note")


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
    head["segments"] = [_segment_to_dict(segment) for segment in timeline.segments]
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
    head = source if isinstance(source, dict) else _parse(source)
    if not isinstance(head, dict):
        raise ValueError(f'a timeline must be a JSON object, got {shorten(head)}; begin with {{"format": "{FORMAT}"')
    _check_keys(head, _TOP, "the timeline")
    if head.get("format") != FORMAT:
        raise ValueError(f'`format` must be "{FORMAT}", got {shorten(head.get("format"))}; is this another kind?')
    if head.get("version") != VERSION or isinstance(head.get("version"), bool):
        raise ValueError(f"`version` must be {VERSION}, got {shorten(head.get('version'))}; update the studio")
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
        _check_keys(item, _SEGMENT, f"segments[{i}]")
    _check_times(items)
    length = reader.block(head, "length_blocks", "length_s", "the timeline")
    length = _check_ends(items, reader, length)
    segments = [_segment_from_dict(item, i, reader) for i, item in enumerate(items)]
    return Timeline(tuple(segments), length, head.get("seed", 0), fps=fps, block_latent_frames=block)


def to_text(timeline: Timeline) -> str:
    """Write the prompts of a timeline, one a line.

    Args:
        timeline: what to write; its times, policies, notes, length and seed do not fit into plain text.

    Returns:
        Text; `lost_in_text` lists what it cannot hold.

    Raises:
        ValueError: a prompt that holds a line break.
    """
    for i, segment in enumerate(timeline.segments):
        if len(segment.prompt.splitlines()) > 1:
            raise ValueError(
                f"plain text holds one prompt a line, but the prompt of segment {i} has line breaks: "
                f"{shorten(segment.prompt)}; use JSON, or replace them by spaces"
            )
    return "".join(segment.prompt.strip() + "\n" for segment in timeline.segments)


def lost_in_text(timeline: Timeline) -> tuple[str, ...]:
    """Say what plain text cannot hold of a timeline.

    Args:
        timeline: what would be written.

    Returns:
        Short descriptions; empty when nothing is lost.
    """
    plain = Timeline.of(*(segment.prompt for segment in timeline.segments))
    lost = []
    if [segment.start for segment in timeline.segments] != [segment.start for segment in plain.segments]:
        lost.append("the starts of the segments")
    plurals = {"policy": "policies", "sink_policy": "sink policies", "colour": "colours", "note": "notes"}
    for name, plural in plurals.items():
        if any(getattr(segment, name) for segment in timeline.segments):
            lost.append(f"the {plural}")
    if timeline.length is not None:
        lost.append(f"the length of {timeline.length} blocks")
    if timeline.seed:
        lost.append(f"the seed {timeline.seed}")
    if (timeline.fps, timeline.block_latent_frames) != (plain.fps, plain.block_latent_frames):
        lost.append("the frame rate and the block size")
    return tuple(lost)


def from_text(text: str, blocks: int = SEGMENT_BLOCKS) -> Timeline:
    """Read plain text, one prompt a line; empty lines are passed over.

    Args:
        text: the prompts.
        blocks: blocks from one prompt to the next.

    Returns:
        A timeline without an end.

    Raises:
        ValueError: no prompt, or one that makes no sense.
    """
    if not isinstance(text, str):
        raise ValueError(f"`text` must be a string, got {shorten(text)}; read the file as UTF-8 text first")
    prompts = [line.strip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"`text` must hold at least one prompt, got {shorten(text)}; write one prompt a line")
    return Timeline.of(*prompts, blocks=blocks)


def load(path: str | Path, kind: str | None = None) -> Timeline:
    """Read a timeline from a file.

    Args:
        path: the file.
        kind: "json" or "txt"; None goes by the file's ending.

    Returns:
        The timeline.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, not UTF-8, too large, or content that makes no sense; the message names the file.
    """
    path = Path(path)
    kind = _kind(path, kind)
    if not path.exists():
        raise FileNotFoundError(f"there is no timeline {shorten(str(path))}; check the path")
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} must be a file of at most {MAX_BYTES} bytes; is it a timeline?")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return from_json(text) if kind == "json" else from_text(text)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{path.name} must be UTF-8 text, got byte {byte:#x}; save it as UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def save(timeline: Timeline, path: str | Path, kind: str | None = None) -> None:
    """Write a timeline to a file, whole or not at all.

    Args:
        timeline: what to write.
        path: the file; replaced when it exists.
        kind: "json" or "txt"; None goes by the file's ending.

    Raises:
        ValueError: another ending, or a prompt that the format cannot hold.
    """
    path = Path(path)
    text = to_json(timeline) if _kind(path, kind) == "json" else to_text(timeline)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


KINDS = ("json", "txt")


def _kind(path: Path, kind: str | None) -> str:
    kind = kind or path.suffix.lstrip(".").lower()
    if kind not in KINDS:
        raise ValueError(f"a timeline is a .json or .txt file, got {shorten(path.name)}; name its kind or rename it")
    return kind


def _segment_to_dict(segment: Segment) -> dict[str, Any]:
    out: dict[str, Any] = {"start_block": segment.start, "prompt": segment.prompt}
    for name in ("policy", "sink_policy", "colour", "note"):
        if value := getattr(segment, name):
            out[name] = value
    return out


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
    options = {name: item[name] for name in ("policy", "sink_policy", "colour", "note") if item.get(name) is not None}
    try:
        return Segment(item["prompt"], start, **options)
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


def _check_keys(item: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in item:
        if key not in known:
            near = nearest(str(key), known)
            hint = f'did you mean "{near}"?' if near else f"known are {', '.join(known)}"
            raise ValueError(f"{where} has an unknown key {shorten(key)}; {hint}")


def _parse(source: str | bytes) -> Any:
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
