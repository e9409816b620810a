"""What an editor on a screen is told of a timeline, as plain values ready for JSON."""

from __future__ import annotations

from typing import Any

from studio.timeline.history import History
from studio.timeline.mixing import weights_over
from studio.timeline.plain import marker_to_dict, segment_to_dict
from studio.timeline.value import SEGMENT_BLOCKS, Timeline

MAX_PREVIEW = 2000


def describe(timeline: Timeline, begun: int = 0) -> dict[str, Any]:
    """A timeline with everything that is needed to draw it, in blocks.

    Args:
        timeline: the prompts.
        begun: blocks that have begun; what lies before is the past.

    Returns:
        "segments" (each as in a file, with "end_block", "when": "past", "now" or "future", and "parts": prompts and
        shares), "markers", "length_blocks", "seed", "fps", "block_latent_frames" and "begun".
    """
    return {
        "segments": [_segment(timeline, i, begun) for i in range(len(timeline.segments))],
        "markers": [marker_to_dict(marker) for marker in timeline.markers],
        "length_blocks": timeline.length,
        "seed": timeline.seed,
        "fps": timeline.fps,
        "block_latent_frames": timeline.block_latent_frames,
        "begun": begun,
    }


def describe_history(history: History, *, forked: bool = False, ahead: bool = False) -> dict[str, Any]:
    """What an undo menu shows: "version", and the names of the operations that "undo" and "redo" would go over.

    Args:
        history: the edits.
        forked: whether undo goes back to the take that this one was forked from when there is no edit before.
        ahead: whether redo goes to the fork that undo has left.
    """
    done, undone = history.done, history.undone
    return {
        "version": history.version,
        "undo": done[-1].op if done else "fork" if forked else None,
        "redo": "fork" if ahead else undone[-1].op if undone else None,
        "steps": [len(done), len(undone)],
    }


def preview(timeline: Timeline, start: int = 0, stop: int | None = None) -> dict[str, Any]:
    """The shares of every prompt at each block of a stretch.

    Args:
        timeline: the prompts.
        start: first block.
        stop: block just past the last; None for the end, or the usual length past the last start. At most 2000 blocks
            are looked at.

    Returns:
        "start", "prompts", and "shares": for each block, a share of each of the prompts.
    """
    if stop is None:
        stop = timeline.length or timeline.segments[-1].start + SEGMENT_BLOCKS
    weights = weights_over(timeline, start, min(stop, start + MAX_PREVIEW))
    prompts = list(dict.fromkeys(prompt for shares in weights for prompt in shares))
    rows = [[round(shares.get(prompt, 0.0), 6) for prompt in prompts] for shares in weights]
    return {"start": start, "prompts": prompts, "shares": rows}


def _segment(timeline: Timeline, i: int, begun: int) -> dict[str, Any]:
    segment, end = timeline.segments[i], timeline.end_of(i)
    when = "past" if end is not None and end <= begun else "now" if segment.start < begun else "future"
    parts = [{"prompt": prompt, "share": share} for prompt, share in segment.parts]
    return {**segment_to_dict(segment), "end_block": end, "when": when, "parts": parts}
