"""One process of two, each with a folder of its own: `python -m tests.train.apart FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from studio.train.running import Run
from tests.train import member


def main(folder: str) -> None:
    """Make a run, which must be refused; say why."""
    torch.set_num_threads(1)
    own = Path(folder) / f"host-{os.environ['RANK']}"
    try:
        Run(member.trainer(own, 1, "distill"))
    except ValueError as error:
        sys.stdout.write(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
