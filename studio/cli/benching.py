"""`studio bench`: how fast a model is on this machine, and records of it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["MORE", "TEXT", "add_arguments", "run"]

TEXT = "measure how fast a model is on this machine"
MORE = """denoise_fps       pixel frames per second of denoising and committing, without decoding
vae_ms_per_block  median milliseconds to decode a block to uint8 frames
end_to_end_fps    pixel frames per second of wall-clock time for a loop that takes each block at once
watching_share    what watching the cache adds to a block, as a share of a block without it
first_frame_s     seconds from studio.open to the first frame: loading and warming up, not importing torch
switch_latency_s  seconds from handing over a prompt to the first frame under it being handed to a
                  consumer that plays in real time with the default lead; median over a block's moments
peak_memory_gib   most memory the process held, of the GPU where one computes

The parts of a block, the recache, the worst switch, the first frame after warming up and the roofline (what is reached
of what one large matrix product reaches here) follow, then what they were measured on. Pixel frames are counted, never
latent frames. Warming up is left out of the first three."""


def add_arguments(parser: argparse.ArgumentParser, add_model: Callable[[argparse.ArgumentParser], None]) -> None:
    """Declare the options.

    Args:
        parser: Of this command.
        add_model: Declares those that name a model.
    """
    blocks = "blocks measured after warming up (default: %(default)s)"
    parser.add_argument("--blocks", type=int, default=24, help=blocks)
    parser.add_argument("--dtype", help="type of the weights (default: bfloat16 on a GPU, float32 on a CPU)")
    parser.add_argument("--quantization", help="int8, fp8 or fp8-kv (default: none)")
    parser.add_argument("--attention", help="back end of attention (default: the best that serves here)")
    parser.add_argument("--compiled", action="store_true", help="compile the transformer and the decoder first")
    parser.add_argument("--no-graphs", action="store_true", help="run every pass as it is, without CUDA graphs")
    parser.add_argument("--random", action="store_true", help="random weights at a preset's sizes, without its files")
    parser.add_argument("--exact", action="store_true", help="compare with the plain model in float32 as well")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there, as docs/benchmarks.json")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_model(parser)


def run(
    options: Any, tell: Callable[[str], None], say: Callable[[str], None], table: Callable[[dict[str, Any]], str]
) -> int:
    """Measure, print, and keep what is to be kept.

    Args:
        options: What `add_arguments` declares.
        tell: Prints what was asked for.
        say: Prints what is being done.
        table: Turns figures into lines.

    Returns:
        0.

    Raises:
        ValueError: If an option makes no sense.
    """
    from tqdm import tqdm

    from studio.live.bench import bench
    from studio.live.records import keep_records, read_records, records_of

    if options.record is not None:
        read_records(options.record)  # a file that cannot take them is better known before than after
    with tqdm(total=100, desc="warming up", unit="%", leave=False, disable=None) as bar:

        def progress(what: str, share: float) -> None:
            bar.set_description(what)
            bar.update(round(100 * share) - bar.n)

        figures = bench(
            options.model, blocks=options.blocks, device=options.device, dtype=options.dtype,
            quantization=options.quantization, attention=options.attention, compiled=options.compiled,
            recorded=False if options.no_graphs else None, random=options.random, exact=options.exact,
            say=lambda text: say(f"{text} ..."), progress=progress,
        )  # fmt: skip
    if options.record is not None:
        keep_records(options.record, records_of(figures, shlex.join(["studio", *sys.argv[1:]])))
    tell(json.dumps(figures, indent=2, ensure_ascii=False) if options.json else table(figures))
    return 0
