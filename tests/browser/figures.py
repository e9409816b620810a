"""What the measurements of this folder found, gathered into one table."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

TOLD: list[tuple[str, dict[str, Any]]] = []


def tell(name: str, **figures: Any) -> None:
    """Print what was measured, as a line of JSON, and keep it for the table."""
    shown = {key: round(value, 2) if isinstance(value, float) else value for key, value in figures.items()}
    sys.stdout.write(json.dumps({"bench": name, **shown}) + "\n")
    sys.stdout.flush()
    TOLD.append((name, shown))


def find(name: str, **wanted: Any) -> dict[str, Any]:
    """The last measurement of a name with these values; empty where there is none."""
    found = (figures for told, figures in TOLD if told == name)
    return next((f for f in reversed([*found]) if all(f.get(key) == value for key, value in wanted.items())), {})


def row(promise: str, figures: dict[str, Any], key: str, most: float | None, least: float | None, unit: str) -> str:
    """A line of the table: the promise, what was measured, whether it holds, and what else the machine did."""
    value = figures.get(key)
    if value is None:
        return f"| {promise} | not measured | | |"
    holds = (most is None or value <= most) and (least is None or value >= least)
    load = figures.get("load_1min", "")
    return f"| {promise} | {value:g} {unit} | {'yes' if holds else 'no'} | {load} |"


def table() -> str:
    """The promises of the way to the screen beside what was measured in this run."""
    film, small = find("transport", size="832x480", fps=60), find("transport", size="128x128", fps=60)
    memory, cost = find("memory of the page"), find("cost of playing")
    flights = [f["most_in_flight"] for told, f in TOLD if told in ("transport", "slow link")]
    grown = {"mib": memory["renderer_mib_last_third"] - memory["renderer_mib_first_third"]} if memory else {}
    rows = [
        row("832x480 offered at 60 frames/s: at least 48 drawn", film, "drawn_fps", None, 48, "frames/s"),
        row("at most 40 % of a core in the kernel meanwhile", film, "kernel_core_percent", 40, None, "%"),
        row("8 Mbit/s: at least 16 of 16 frames/s", find("slow link", megabits=8), "drawn_fps", None, 15.9, "frames/s"),
        row("128x128 at 60 frames/s", small, "drawn_fps", None, 59.4, "frames/s"),
        row("never more than two blocks in flight", {"most": max(flights)} if flights else {}, "most", 2, None, ""),
        row(f"memory of the page flat over {memory.get('seconds', 0):g} s", grown, "mib", 10, None, "MiB more"),
        row("playing costs the generator at most 3 %", cost, "cost_percent", 3, None, "%"),
        row("50 ms an interaction, 95th percentile", find("fluency"), "p95_ms", 50, None, "ms"),
    ]
    head = ["| promise | measured | holds | load |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, f"{os.cpu_count()} cores; load: programs that wanted a core", ""])
