"""Measured figures as data: what was measured, on what, with what, by which command and when."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from studio.writing import written

__all__ = ["SETTING", "UNITS", "keep_records", "read_records", "records_of"]

# Figures and their units; what is not here describes the setting.
UNITS = {
    "denoise_fps": "frames/s",
    "end_to_end_fps": "frames/s",
    "denoise_ms_per_block": "ms",
    "commit_ms_per_block": "ms",
    "vae_ms_per_block": "ms",
    "decode_ms_per_block": "ms",
    "transport_ms_per_block": "ms",
    "recache_ms": "ms",
    "recache_overhead_10s": "share",
    "watching_share": "share",
    "warm_up_s": "s",
    "first_frame_s": "s",
    "first_frame_after_warm_up_s": "s",
    "switch_latency_s": "s",
    "switch_latency_worst_s": "s",
    "peak_memory_gib": "GiB",
    "denoise_tflops": "TFLOP/s",
    "decode_tflops": "TFLOP/s",
    "matrix_product_tflops": "TFLOP/s",
    "denoise_roofline": "share",
    "decode_roofline": "share",
    "latents_error": "relative",
    "commit_error": "relative",
    "recache_error": "relative",
    "decode_psnr_db": "dB",
}
SETTING = ("model", "quantization", "dtype", "attention", "compiled", "recorded")


def records_of(figures: Mapping[str, Any], command: str, day: str | None = None) -> list[dict[str, Any]]:
    """One record a figure.

    Args:
        figures: What `studio.live.bench.bench` gave.
        command: What was run.
        day: As "2026-01-31"; None for today.

    Returns:
        Records of "name", "value", "unit", "setting", "hardware", "versions", "command" and "date".
    """
    told = {
        "setting": {name: figures[name] for name in SETTING if name in figures},
        "hardware": figures["hardware"],
        "versions": figures["versions"],
        "command": command,
        "date": day or date.today().isoformat(),
    }
    return [
        {"name": name, "value": figures[name], "unit": unit, **told}
        for name, unit in UNITS.items()
        if figures.get(name) is not None
    ]


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a file; none where there is no file.

    Args:
        path: The file.

    Raises:
        ValueError: If it holds something else.
    """
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold records as JSON, got something else ({error}); name another file") from None
    wanted = {"name", "value", "unit", "hardware", "versions", "command", "date"}
    if not isinstance(found, list) or any(not isinstance(one, dict) or not wanted <= one.keys() for one in found):
        raise ValueError(f"{path} must hold a list of records with {', '.join(sorted(wanted))}; name another file")
    return found


def keep_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records into a file; what was measured of the same name, setting and hardware before is replaced.

    Args:
        path: The file; made if it is missing.
        records: From `records_of`.

    Raises:
        ValueError: If the file holds something else; it is left alone then.
    """
    kept = {_key(record): dict(record) for record in [*read_records(path), *records]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as aside:
        aside.write_text(json.dumps(list(kept.values()), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps([record["name"], record["hardware"], record.get("setting", {})], sort_keys=True)
