"""`studio replay`: make a take again from its event log and say whether it is the same, bit for bit."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

TEXT = "make a take again from its event log and compare it bit for bit"
MORE = """LOG is a log as `session.log.save` writes it, or a film or latents that carry one. The exit status is
0 when every block is the same and 1 when not. The same device and the same build give the same bits; where something
else is different, it is said. Adapters that were live beside the weights have to be named; the log has their strength
as each block began, and nothing of changes in the middle of a block."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("log", type=Path, metavar="LOG", help="the log: .json, .mp4 or .safetensors")
    parser.add_argument("--model", help="name or folder of a model (default: the one that the log names)")
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[=STRENGTH]",
        help="an adapter that was live beside the weights (default strength: as the log says); may be repeated",
    )
    parser.add_argument("--device", help="where to compute, as cpu or cuda:0 (default: a GPU where there is one)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the latents, .safetensors")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: Any, tell: Callable[[str], None], say: Callable[[str], None]) -> int:
    """Run the command.

    Args:
        options: what `add_arguments` asked for.
        tell: writes results.
        say: writes remarks.

    Returns:
        Exit status.
    """
    from studio.live.latents import check_out, save_latents
    from studio.live.replay import check_model, read_log, replay

    log = read_log(options.log)
    if options.out is not None:
        check_out(options.out, force=options.force)
    from tqdm import tqdm

    from studio.live.open import check_device
    from studio.model.weights import load

    loras = [_weighed(text) for text in options.lora]
    models = load(
        options.model or log.origin.model,
        device=check_device(options.device),
        dtype=_dtype(log.origin.dtype),
        # What was live besides those that are named, a model may have brought itself.
        merged=len(log.origin.adapters) <= len(loras),
    )
    check_model(log, models)
    strengths = _put_beside(models, log, loras)
    with tqdm(total=len(log), unit="block", disable=options.quiet, file=sys.stderr) as bar:
        found = replay(log, models, made=lambda block: advance(bar), strengths=strengths)
    for difference in found.differences:
        say(difference)
    if options.out is not None:
        save_latents(options.out, found.latents, log)
    report = {
        "same": found.same,
        "blocks": len(log),
        "differing": list(found.differing),
        "unknown": list(found.unknown),
        "differences": list(found.differences),
    }
    tell(json.dumps(report, indent=2, ensure_ascii=False) if options.json else _sentence(report))
    return 0 if found.same else 1


def advance(bar: Any) -> None:
    """Let the progress bar take a step."""
    bar.update(1)


def _dtype(name: str) -> Any:
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"the log names a type of weights that torch does not have, {name!r}; is it damaged?")
    return found


def _weighed(text: str) -> tuple[Any, float | None]:
    """An adapter and its strength, `None` for what the log says."""
    from studio.model.lora import load_lora

    file, equals, number = text.rpartition("=")
    if not equals or Path(text).expanduser().exists():
        return load_lora(text), None
    try:
        strength = float(number)
    except ValueError:
        raise ValueError(f"`--lora` must be FILE or FILE=STRENGTH with a number, got {text!r}") from None
    return load_lora(file), strength


def _put_beside(models: Any, log: Any, loras: Sequence[tuple[Any, float | None]]) -> dict[str, float]:
    """Put adapters beside the weights, under the log's names where it knows their factors.

    Returns:
        Name to strength of those that do not follow the log.
    """
    from studio.live.replay import used
    from studio.model.lora import check_targets

    strengths, there = {}, (*log.origin.adapters, *used(log))
    names = {adapter.factors: adapter.name for adapter in there if adapter.factors}
    for lora, strength in loras:
        fitting = check_targets(lora, models.dit)
        fitting = replace(fitting, name=names.get(fitting.fingerprint, fitting.name))
        models.adapters.add(fitting, 1.0 if strength is None else strength)
        if strength is not None or fitting.name not in {adapter.name for adapter in there}:
            strengths[fitting.name] = 1.0 if strength is None else strength
    return strengths


def _sentence(report: dict[str, Any]) -> str:
    count = f"{report['blocks']} block{'' if report['blocks'] == 1 else 's'}"
    if report["same"]:
        return f"the same, bit for bit: {count}"
    if report["differing"]:
        first = report["differing"][0]
        return f"not the same: {len(report['differing'])} of {count} differ, the first is block {first}"
    return f"not known: the log does not tell the latents of {len(report['unknown'])} of {count}"
