"""Cases by which the front end's view of a timeline is held against Python's: edits and effective weights.

`python -m tests.widgets.cases` writes them to the file that the front end's tests read.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from studio.timeline import Marker, Segment, Timeline, Transition, Weighted, weights_over
from studio.timeline.operations import Batch, MoveMark, Operation, Reorder, Resize, SetLength
from studio.widgets.protocol import timeline_message

FILE = Path(__file__).parents[2] / "studio" / "widgets" / "js" / "test" / "cases.json"
COUNT = 80


def line_of(rng: random.Random) -> Timeline:
    """A random timeline, with blends, transitions and markers."""
    count = rng.randint(1, 7)
    starts = [0, *sorted(rng.sample(range(1, 30), count - 1))]
    segments = [
        Segment(
            f"p{rng.randint(0, 5)}",
            start,
            weight=rng.choice((1.0, 1.0, 0.5, 2.0)),
            blend=tuple(Weighted(f"q{j}", rng.choice((0.0, 1.0, 3.0))) for j in range(rng.choice((0, 0, 1, 2)))),
            transition=rng.choice((None, None, Transition(rng.randint(1, 9), rng.choice(("linear", "spherical"))))),
        )
        for start in starts
    ]
    markers = tuple(Marker(block, f"m{block}") for block in sorted(rng.sample(range(40), rng.randint(0, 3))))
    length = rng.choice((None, starts[-1] + rng.randint(1, 9)))
    return Timeline(tuple(segments), length, markers=markers)


def edit_of(rng: random.Random, line: Timeline) -> Operation:
    """A random edit of the kinds that are dragged; not all of them are possible."""
    count, to = len(line.segments), rng.randint(0, 36)
    chosen = tuple(sorted(rng.sample(range(count), rng.randint(1, count))))
    blocks = [marker.block for marker in line.markers] or [3]
    return rng.choice(
        (
            Resize(rng.randrange(count), rng.choice(("start", "end")), to, rng.random() < 0.5),
            Resize(rng.randrange(count), rng.choice(("start", "end")), to, rng.random() < 0.5),
            Reorder(chosen, rng.randint(0, count)),
            MoveMark(rng.choice(blocks), to),
            SetLength(to + 1),
            Batch((Resize(count - 1, "start", to), Resize(0, "end", max(1, to - 2)))),
        )
    )


def message_of(line: Timeline) -> dict[str, Any]:
    """A timeline as the page gets it."""
    return timeline_message(line, [i % 7 for i in range(len(line.segments))])


def cases() -> list[dict[str, Any]]:
    """Timelines, edits, what comes of them, and the weights at their first blocks."""
    rng = random.Random(6)
    found = []
    for _ in range(COUNT):
        line = line_of(rng)
        edit = edit_of(rng, line)
        after: dict[str, Any] | None
        try:
            edited = edit.apply(line)
            after = {
                "starts": [[segment.prompt, segment.start] for segment in edited.segments],
                "length": edited.length,
                "markers": [marker.block for marker in edited.markers],
            }
        except ValueError:
            after = None
        weights = [
            {name: round(share, 7) for name, share in sorted(shares.items())} for shares in weights_over(line, 0, 30)
        ]
        found.append({"before": message_of(line), "operation": edit.to_dict(), "after": after, "weights": weights})
    return found


def written() -> str:
    """The cases as the file holds them."""
    rows = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases())
    return f"[\n{rows}\n]\n"


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
