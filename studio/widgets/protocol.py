"""The messages between the kernel and the browser: their shapes, and the checks on what comes in.

Down (kernel to browser), dictionaries with a `type`: hello, block, missing, state, timeline, switch, stats, restart,
error, words, cache, watch, again, takes, quick, thumbs, export, reply, pong, beat. A block carries one binary buffer,
its JPEG files back to back, and their `sizes`, and so do thumbs; `studio.widgets.seeing` describes what a cache message
carries. What has a `serial` is confirmed by an ack: blocks, and readings of the cache for looking back.
Up (browser to kernel): ready, bye, ack, played, want, ping, words, thumbs, failure, lab (of the recache lab), and the
commands of `COMMANDS`. Every message up names its `client`, a page that shows the widget; an upload carries one binary
buffer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from studio.events import DecodedBlock, ErrorReport, Stats, Switch, UnknownWord
from studio.formats import MAX_BYTES
from studio.timeline import Timeline
from studio.timeline.past import turns
from studio.timeline.plain import marker_to_dict, options_to_dict

__all__ = [
    "COMMANDS",
    "VERSION",
    "Incoming",
    "block_message",
    "error_message",
    "grid_of",
    "parse",
    "stats_message",
    "switch_fields",
    "switch_message",
    "timeline_message",
    "words_message",
]

VERSION = 2

# A prompt that is too long gets its clear message from the timeline; this only bounds what is looked at at all.
_LONGEST_TEXT = 100_000
_LONGEST_LIST = 1000
_LARGEST_INTEGER = 2**53


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A checked message from the browser.

    Args:
        kind: Its type.
        client: The page that sent it.
        fields: What else it carries, checked by kind.
        data: The bytes that came with it.
    """

    kind: str
    client: str
    fields: dict[str, Any] = field(default_factory=dict)
    data: bytes = b""

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


def parse(content: object, buffers: object = None) -> Incoming:
    """Check a message from the browser.

    Args:
        content: What arrived; nothing about it is trusted.
        buffers: The bytes that came with it: a list of buffers, of which the first counts, or None.

    Returns:
        The message, with every field of its kind present and of the right type.

    Raises:
        ValueError: If it is not a message of the protocol.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"a message must be an object with a `type`, got {type(content).__name__}")
    kind = content.get("type")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ValueError(f"`type` must be one of {', '.join(_FIELDS)}, got {_short(kind)}")
    client = content.get("client")
    if not isinstance(client, str) or not 0 < len(client) <= 64:
        raise ValueError(f"`client` must be a name of at most 64 characters, got {_short(client)}")
    return Incoming(
        kind=kind,
        client=client,
        fields={name: check(name, content.get(name)) for name, check in _FIELDS[kind].items()},
        data=_bytes(buffers),
    )


def _bytes(buffers: object) -> bytes:
    first = buffers[0] if isinstance(buffers, (list, tuple)) and buffers else b""
    if not isinstance(first, (bytes, bytearray, memoryview)):
        raise ValueError(f"a buffer must be bytes, got {type(first).__name__}")
    return bytes(first)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _integer(name: str, value: object) -> int:
    # JavaScript has one kind of number, so that 3.0 is an integer too.
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not whole or value != int(value) or not 0 <= value <= _LARGEST_INTEGER:  # type: ignore[arg-type]
        raise ValueError(f"`{name}` must be an integer of at least 0, got {_short(value)}")
    return int(value)  # type: ignore[call-overload]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ValueError(f"`{name}` must be a text of at most {_LONGEST_TEXT} characters, got {_short(value)}")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be true or false, got {_short(value)}")
    return value


def _object(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"`{name}` must be an object, got {_short(value)}")
    return dict(value)


def _list(name: str, value: object) -> list[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > _LONGEST_LIST:
        raise ValueError(f"`{name}` must be a list of at most {_LONGEST_LIST}, got {_short(value)}")
    return list(value)


def _integers(name: str, value: object) -> list[int]:
    return [_integer(name, item) for item in _list(name, value)]


def _file(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_BYTES:
        raise ValueError(f"`{name}` must be a text of at most {MAX_BYTES} characters, got {_short(value)}")
    return value


def _maybe(check: Callable[[str, object], Any]) -> Callable[[str, object], Any]:
    return lambda name, value: None if value is None else check(name, value)


_Fields = dict[str, Callable[[str, object], Any]]

# The version of the timeline that an edit was made for, and what to do where it changes the past.
_EDIT: _Fields = {"version": _maybe(_integer), "past": _maybe(_text)}

COMMANDS: dict[str, _Fields] = {
    "play": {},
    "pause": {},
    "step": {},
    "restart": {"seed": _maybe(_integer)},
    "switch": {"prompt": _text, "policy": _maybe(_text), "at": _maybe(_integer), "transition": _maybe(_object)},
    "edit": {"do": _text, "operation": _maybe(_object), **_EDIT},
    "paste": {"text": _file, "at": _integer, "over": _flag, **_EDIT},
    "import": {"name": _text, "text": _file, **_EDIT},
    "export": {"format": _text},
    "take": {"do": _text, "take": _maybe(_integer), "name": _maybe(_text), "at": _maybe(_integer)},
    "quick": {"prompts": _list},
    "watch": {"on": _flag},
    "fork": {
        "at": _integer,
        "prompt": _maybe(_text),
        "policy": _maybe(_text),
        "seed": _maybe(_integer),
        "name": _text,
    },
    "upload": {"name": _text, "part": _integer, "parts": _integer, "prompt": _maybe(_text)},
    "save": {
        "path": _text,
        "format": _maybe(_text),
        "start": _integer,
        "stop": _maybe(_integer),
        "force": _flag,
    },
    "unsave": {},
    "measure": {"on": _flag},
    "reread": {"block": _maybe(_integer)},
    "volume": {"word": _maybe(_integer), "block": _integer},
    "look": {
        "frame": _maybe(_integer),
        "row": _maybe(_integer),
        "column": _maybe(_integer),
        "block": _maybe(_integer),
    },
}
"""What the browser may ask of the source; each is answered by a reply with its `id`."""

_FIELDS: dict[str, _Fields] = {
    "ready": {"hidden": _flag},
    "bye": {},
    "ack": {"serial": _integer},
    "played": {"frame": _integer, "take": _integer, "hidden": _flag, "dropped": _maybe(_integer)},
    "want": {"take": _integer, "block": _integer, "count": _integer},
    "ping": {"id": _integer},
    "words": {"id": _integer, "text": _text},
    "thumbs": {"take": _integer, "blocks": _integers},
    "failure": {"message": _text, "stack": _text},
    "lab": {"id": _integer, "changes": _object},
    **{name: {"id": _integer, **fields} for name, fields in COMMANDS.items()},
}


def grid_of(timeline: Timeline) -> dict[str, int]:
    """Frames in the first block of a video and in every later one."""
    return {"first": timeline.start_frame(1), "rest": timeline.start_frame(2) - timeline.start_frame(1)}


def block_message(
    block: DecodedBlock, start: int, jpegs: Sequence[bytes], reduced: int | None = None
) -> dict[str, Any]:
    """Describe some frames of a block; the JPEG files themselves travel as a buffer.

    Args:
        block: The block.
        start: Position in the block of the first frame sent.
        jpegs: The frames sent.
        reduced: Their JPEG quality, where a slow link had it lowered.

    Returns:
        The message.
    """
    return {
        "type": "block",
        "take": block.take,
        "index": block.index,
        "first": block.first_frame + start,
        "end": block.end_frame,
        "sizes": [len(jpeg) for jpeg in jpegs],
        "reduced": reduced,
        "prompt": block.prompt,
        "switch": None if block.switch is None else switch_fields(block.switch),
    }


def timeline_message(
    timeline: Timeline,
    colours: Sequence[int | str],
    shades: Mapping[str, int] | None = None,
    history: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe a timeline.

    Args:
        timeline: The timeline.
        colours: For each segment its place in the palette, or its own colour.
        shades: Places in the palette of the prompts that are mixed in.
        history: The version and what undo and redo would go over, as `describe_history` gives it.

    Returns:
        The message; what a segment has by default is left out of it.
    """
    segments = [
        {**options_to_dict(segment), "prompt": segment.prompt, "start": segment.start, "colour": colour}
        for segment, colour in zip(timeline.segments, colours, strict=True)
    ]
    return {
        "type": "timeline",
        "segments": segments,
        # The segment that each prompt's number stands for: mere cuts do not count.
        "turns": turns(timeline),
        "length": timeline.length,
        "markers": [marker_to_dict(marker) for marker in timeline.markers],
        "shades": dict(shades or {}),
        "history": dict(history or {}) or None,
    }


def switch_message(switch: Switch) -> dict[str, Any]:
    """Describe a switch of prompt."""
    return {"type": "switch", "switch": switch_fields(switch)}


def switch_fields(switch: Switch) -> dict[str, Any]:
    """The fields of a switch."""
    return {
        "prompt": switch.prompt,
        "policy": switch.policy,
        "requested_frame": switch.requested_frame,
        "requested_block": switch.requested_block,
        "effective_block": switch.effective_block,
        "effective_frame": switch.effective_frame,
        "latency_s": _finite(switch.latency_s),
    }


def stats_message(stats: Stats, seed: int, device: str, take: int = 0) -> dict[str, Any]:
    """Describe how fast the source is; figures that are not known are null."""
    figures = (
        *("generated_fps", "denoise_ms", "commit_ms", "recache_ms", "vae_ms", "switch_latency_s", "lead_s"),
        *("played_fps", "next_frame_s"),
    )
    return {
        "type": "stats",
        "take": take,
        **{name: _finite(getattr(stats, name)) for name in figures},
        "generated_blocks": stats.generated_blocks,
        "generated_frames": stats.generated_frames,
        "dropped_frames": stats.dropped_frames,
        "device_state": stats.device_state,
        "seed": seed,
        "device": device,
    }


def error_message(report: ErrorReport) -> dict[str, Any]:
    """Describe what went wrong in the generator."""
    return {"type": "error", "message": report.message, "traceback": report.traceback}


def words_message(number: int, words: Sequence[UnknownWord]) -> dict[str, Any]:
    """Answer which words of a text are unknown."""
    found = [{"word": word.word, "start": word.start, "end": word.end, "nearest": word.nearest} for word in words]
    return {"type": "words", "id": number, "unknown": found}


def _finite(value: float | None) -> float | None:
    # JSON has no infinity: the browser's parser would reject the whole message.
    return None if value is None or not math.isfinite(value) else float(value)
