"""Segments, markers and clips as plain dictionaries: what files, operations and the clipboard are made of."""

from __future__ import annotations

from typing import Any

from studio.timeline.checks import nearest, shorten
from studio.timeline.segment import Marker, Segment, Transition, Weighted

LOOKS = ("policy", "sink_policy", "colour", "note")
OPTIONS = (*LOOKS, "weight", "blend", "transition")


def check_keys(item: Any, known: tuple[str, ...], where: str) -> dict[str, Any]:
    """Check that a value is a dictionary without unknown keys.

    Args:
        item: the candidate.
        known: the keys there are.
        where: what to call it in the error.

    Returns:
        The dictionary.

    Raises:
        ValueError: it is none, or has another key; the message names the nearest.
    """
    if not isinstance(item, dict):
        raise ValueError(f"`{where}` must be an object, got {shorten(item)}; it has {', '.join(known)}")
    for key in item:
        if key not in known:
            near = nearest(str(key), known)
            hint = f'did you mean "{near}"?' if near else f"known are {', '.join(known)}"
            raise ValueError(f"{where} has an unknown key {shorten(key)}; {hint}")
    return item


def check_list(value: Any, where: str) -> list[Any]:
    """Check that a value is a list or tuple."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"`{where}` must be a list, got {shorten(value)}")
    return list(value)


def options_to_dict(segment: Segment) -> dict[str, Any]:
    """What a segment says besides its prompt and its start; what is as it is by default is left out."""
    out: dict[str, Any] = {name: value for name in LOOKS if (value := getattr(segment, name))}
    if segment.weight != 1 or segment.blend:
        out["weight"] = segment.weight
    if segment.blend:
        out["blend"] = blend_to_list(segment.blend)
    if segment.transition is not None:
        out["transition"] = transition_to_dict(segment.transition)
    return out


def options_from_dict(item: dict[str, Any]) -> dict[str, Any]:
    """Read what `options_to_dict` writes; other keys are passed over.

    Raises:
        ValueError: a blend or transition that makes no sense.
    """
    out = {name: item[name] for name in (*LOOKS, "weight") if item.get(name) is not None}
    if item.get("blend") is not None:
        out["blend"] = blend_from_list(item["blend"])
    if item.get("transition") is not None:
        out["transition"] = transition_from_dict(item["transition"])
    return out


def segment_to_dict(segment: Segment) -> dict[str, Any]:
    """A segment as a dictionary, in blocks."""
    return {"start_block": segment.start, "prompt": segment.prompt, **options_to_dict(segment)}


def segment_from_dict(item: Any, where: str = "segment") -> Segment:
    """Read what `segment_to_dict` writes.

    Raises:
        ValueError: anything else; the message names it.
    """
    check_keys(item, ("start_block", "prompt", *OPTIONS), where)
    if "prompt" not in item:
        raise ValueError(f"`{where}` must have a prompt; add `prompt`")
    return Segment(item["prompt"], item.get("start_block", 0), **options_from_dict(item))


def blend_to_list(blend: tuple[Weighted, ...]) -> list[dict[str, Any]]:
    """The further prompts of a blend as dictionaries."""
    return [{"prompt": part.prompt, "weight": part.weight} for part in blend]


def blend_from_list(items: Any) -> tuple[Weighted, ...]:
    """Read what `blend_to_list` writes.

    Raises:
        ValueError: anything else; the message names it.
    """
    parts = []
    for i, item in enumerate(check_list(items, "blend")):
        check_keys(item, ("prompt", "weight"), f"blend[{i}]")
        parts.append(Weighted(item.get("prompt"), item.get("weight", 1.0)))  # type: ignore[arg-type]
    return tuple(parts)


def transition_to_dict(transition: Transition) -> dict[str, Any]:
    """A transition as a dictionary."""
    return {"blocks": transition.blocks, "kind": transition.kind}


def transition_from_dict(item: Any) -> Transition:
    """Read what `transition_to_dict` writes.

    Raises:
        ValueError: anything else; the message names it.
    """
    check_keys(item, ("blocks", "kind"), "transition")
    if "blocks" not in item:
        raise ValueError("`transition` must say how many blocks it takes; add `blocks`")
    return Transition(item["blocks"], item.get("kind", "linear"))


def marker_to_dict(marker: Marker) -> dict[str, Any]:
    """A marker as a dictionary."""
    out: dict[str, Any] = {"block": marker.block}
    if marker.name:
        out["name"] = marker.name
    if marker.colour:
        out["colour"] = marker.colour
    return out


def marker_from_dict(item: Any, where: str = "marker") -> Marker:
    """Read what `marker_to_dict` writes.

    Raises:
        ValueError: anything else; the message names it.
    """
    check_keys(item, ("block", "name", "colour"), where)
    if "block" not in item:
        raise ValueError(f"`{where}` must say where it stands; add `block`")
    return Marker(item["block"], item.get("name", ""), item.get("colour"))
