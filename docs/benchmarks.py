#!/usr/bin/env python3
"""Makes docs/benchmarks.md of docs/benchmarks.json, which `studio bench --record docs/benchmarks.json` writes.

python docs/benchmarks.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from studio.live.records import UNITS, read_records  # noqa: E402 - the checkout's own

HEAD = """# Benchmarks

What each figure means stands in `studio bench --help`; pixel frames are counted, never latent frames, and warming up is
left out. Errors are relative to the plain model in float32 on the same inputs; the decoded frames' PSNR has the whole
range as its peak. Measure your own machine with `studio bench`; keep it here with `--record docs/benchmarks.json`, then
`python docs/benchmarks.py`.
"""


def page(records: Iterable[dict[str, Any]]) -> str:
    """The page: a table for each model and hardware, a column for each setting.

    Args:
        records: From `studio.live.records.read_records`.
    """
    tables: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        setting = dict(record.get("setting", {}))
        model = setting.pop("model", "")
        column = tables.setdefault((model, record["hardware"]), {}).setdefault(_column(setting), [])
        column.append(record)
    return "\n".join([HEAD, *(_table(*place, columns) for place, columns in sorted(tables.items()))])


def _column(setting: dict[str, Any]) -> str:
    quantization = setting.get("quantization", "none")
    how = [setting.get("dtype", "") if quantization == "none" else quantization, setting.get("attention", "")]
    how += ["compiled"] if setting.get("compiled") else []
    how += ["CUDA graphs"] if setting.get("recorded") == "yes" else []
    return ", ".join(part for part in how if part)


def _table(model: str, hardware: str, columns: dict[str, list[dict[str, Any]]]) -> str:
    names = [name for name in UNITS if any(r["name"] == name for records in columns.values() for r in records)]
    names += sorted({r["name"] for records in columns.values() for r in records} - set(names))
    lines = [f"## {model}", "", hardware, "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        found = [next((r for r in records if r["name"] == name), None) for records in columns.values()]
        unit = next(r["unit"] for r in found if r is not None)
        cells = ["" if r is None else f"{r['value']:g}" for r in found]
        lines.append(f"| {name} ({unit}) | {' | '.join(cells)} |")
    lines.append("")
    for column, records in columns.items():
        versions = ", ".join(f"{name} {version}" for name, version in records[0]["versions"].items())
        lines.append(f"* {column}: `{records[0]['command']}`, {records[0]['date']}; {versions}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    (DOCS / "benchmarks.md").write_text(page(read_records(DOCS / "benchmarks.json")), encoding="utf-8")
