"""What every training loop needs: a budget in seconds, a learning rate over it, files that are never half.

Runs are budgeted in wall-clock time, because that is what a borrowed accelerator is measured in; all schedules follow
the fraction of the budget that is spent.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from studio.model.compiling import anew
from studio.writing import written

__all__ = [
    "KERNELS",
    "Budget",
    "Compiled",
    "Report",
    "autocast",
    "check_kernels",
    "compiled",
    "cosine",
    "halves",
    "pick_device",
    "recipe",
    "report",
    "save_tensors",
    "sent",
    "set_rate",
    "silent",
    "write_json",
]

Report = Callable[[str], None]


def silent(line: str) -> None:
    """Takes a line of progress and says nothing."""


def report(line: str) -> None:
    """Writes one line at once, so that a cut run keeps what it said; of several processes the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the GPU where there is one, else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


class Budget:
    """A span of wall-clock time, iterated step by step until it is used up.

    Args:
        seconds: Length, positive.
        steps: Optional limit in steps; whichever ends first ends the budget.
        agree: Makes several processes see one progress; `None` for one process.

    Raises:
        ValueError: If `seconds` is not positive.

    Attributes:
        step: Steps begun so far.
        agreed: Progress when it was last shared: the one to base rates on, since all processes know the same.
    """

    def __init__(self, seconds: float, steps: int | None = None, agree: Callable[[float], float] | None = None) -> None:
        if not seconds > 0:
            raise ValueError(f"`seconds` must be positive, got {seconds}; use 1 or more")
        self.seconds, self.steps, self.step, self.agree = seconds, steps, 0, agree
        self.agreed = 0.0
        self._start = time.monotonic()

    def __iter__(self) -> Iterator[int]:
        while self.shared_progress() < 1.0:
            self.step += 1
            yield self.step

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def shared_progress(self) -> float:
        """`progress` as all processes agree on it; every process must ask as often as the others."""
        self.agreed = self.agree(self.progress) if self.agree else self.progress
        return self.agreed

    @property
    def progress(self) -> float:
        """Fraction of the budget that is used up, 0 to 1."""
        share = self.elapsed / self.seconds
        if self.steps is not None:
            share = max(share, self.step / max(1, self.steps))
        return min(1.0, share)


def cosine(progress: float, step: int, peak: float, *, warmup: int = 100, floor: float = 0.01) -> float:
    """Learning rate with a linear warm-up in steps and a cosine fall over the budget.

    Args:
        progress: Fraction of the run, 0 to 1.
        step: Steps so far, from 1.
        peak: Highest rate.
        warmup: Steps of the warm-up.
        floor: Last rate as a fraction of the highest.

    Returns:
        The rate.
    """
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * min(1.0, step / warmup) * (floor + (1 - floor) * fall)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on its way to the device; a GPU is not waited for, so that the next step is prepared meanwhile."""
    if device.type != "cuda":
        return tensor.to(device)
    # Pinned memory has a place for every element, which a tensor spread out by `expand` has not.
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 autocast on a GPU, nothing on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


class Compiled:
    """A pure function that is compiled on a GPU and falls back to itself where compiling fails.

    Args:
        function: The function.
        compiling: Whether to try.
        options: The compiler's own options, such as `{"triton.persistent_reductions": False}`.

    Attributes:
        mode: "compiled" or "eager".
        error: Why it fell back, or an empty string.
    """

    def __init__(self, function: Callable[..., Any], compiling: bool, options: dict[str, Any] | None = None) -> None:

        def run(*arguments: Any, **options: Any) -> Any:
            return function(*arguments, **options)

        self.function = function
        # Code of its own: trainings of one process follow each other, and each compiles that of the same class several
        # times. Each shape has its own kernels: those for any shape are slower, and a training knows few.
        self.fast = torch.compile(anew(run), dynamic=False, options=options) if compiling else function
        self.mode, self.error = ("compiled" if compiling else "eager"), ""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.mode == "eager":
            return self.function(*arguments, **options)
        try:
            return self.fast(*arguments, **options)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler can fail in many ways, and the run must go on
            self.mode, self.error = "eager", str(error)[:500]
            return self.function(*arguments, **options)


# How a network's kernels are made. On an H200 (PyTorch 2.11) one persistent reduction of the backward pass over first
# blocks took 11 ms, 100 times what its bytes need: "looped" has none of that kind.
KERNELS: dict[str, dict[str, Any] | None] = {
    "eager": None,
    "fused": None,
    "looped": {"triton.persistent_reductions": False},
}


def check_kernels(config: Any) -> None:
    """Check the `kernels` and `opening_kernels` of a configuration.

    Raises:
        ValueError: If one is no key of `KERNELS`.
    """
    for name in ("kernels", "opening_kernels"):
        if getattr(config, name) not in KERNELS:
            raise ValueError(f"`{name}` must be one of {', '.join(KERNELS)}, got {getattr(config, name)!r}")


def compiled(function: Callable[..., Any], device: torch.device, fast: bool = True, kernels: str = "fused") -> Compiled:
    """Compile a pure function for a GPU when `fast`; on a CPU it stays as it is.

    Args:
        function: The function.
        device: Where it will run.
        fast: Whether to compile.
        kernels: A key of `KERNELS`; "eager" does not compile either.

    Returns:
        The function, compiled on its first call.
    """
    return Compiled(function, fast and kernels != "eager" and device.type == "cuda", KERNELS[kernels])


def halves(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are stored: floating-point ones in float16, on the CPU."""
    return {
        key: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for key, value in tensors.items()
    }


def recipe(config: Any) -> dict[str, Any]:
    """A training's configuration for its metrics: everything but where its folders lie on this machine.

    Args:
        config: A configuration dataclass.

    Returns:
        Its fields; of a folder, the name alone.
    """
    folders = ("out", "vae", "teacher", "resume")
    return {
        key: Path(value).name if key in folders and value else value
        for key, value in dataclasses.asdict(config).items()
    }


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, aside first and then renamed, so that a reader never meets half a file.

    Args:
        path: Target file; its folder is made.
        tensors: What to write.
        metadata: Strings for the file's header.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as aside:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, aside, metadata)


def write_json(path: Path | str, data: Any) -> None:
    """Write JSON, dataclasses as objects, aside first and then renamed."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        return str(value)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as aside:
        aside.write_text(json.dumps(data, indent=1, default=plain) + "\n", encoding="utf-8")
