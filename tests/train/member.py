"""One process of several: `python -m tests.train.member FOLDER BATCH RECIPE`, its rank by the environment.

RECIPE is "distill" or "long_tune" (which learns by adapters), plain, "-sharded" or "-whole": both of the last two with
an average, accumulation and checkpointing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from studio.train import draws
from studio.train.distillation import Distillation, DistillConfig
from studio.train.longtune import LongTuneConfig, LongTuning
from studio.train.matching import MatchingTrainer
from studio.train.running import Run
from studio.train.runtime import save_tensors, write_json
from studio.train.sharding import whole, whole_state
from tests.train import nets


def trainer(folder: Path | str, batch: int, recipe: str) -> MatchingTrainer:
    """The training, with `batch` clips in this process."""
    common = {
        "out": str(folder), "generator": "tiny", "teacher": "tiny", "batch": batch, "frames": 6, "critic_updates": 2,
        "generator_rate": 1e-3, "critic_rate": 1e-3, "average": None, "recompute": False, "device": "cpu",
    }  # fmt: skip
    recipe, _, how = recipe.partition("-")
    if how:
        common |= {"recompute": True, "average": 0.9, "average_from": 1, "accumulate": 2, "shard": how == "sharded"}
    if recipe == "distill":
        return Distillation(DistillConfig(**common), nets.networks(), nets.PROMPTS)
    config = LongTuneConfig(**common, new_frames=3, max_length=15, switch_frames=(9,), lora=2)
    return LongTuning(config, nets.networks(), nets.PROMPTS)


def main(folder: str, batch: str, recipe: str) -> None:
    """Take four steps, then run until the last process stops; write what this process saw."""
    torch.set_num_threads(1)
    it = trainer(folder, int(batch), recipe)
    rows = [it.step() for _ in range(4)]
    stem = Path(folder) / f"member-{it.rank}"
    save_tensors(stem.with_suffix(".safetensors"), whole_state(it.networks.generator))
    agreed = draws.agreed(it.rank + 5)
    current = Run(it)
    step = it.step

    def last_stops() -> dict[str, float]:
        if it.rank == it.accelerator.num_processes - 1:
            current.stop()
        return step()

    it.step = last_stops  # type: ignore[method-assign]
    current.go()
    ended = whole_state(it.networks.generator)
    again = trainer(folder, int(batch), recipe)
    Run(again)
    found = whole_state(again.networks.generator)
    resumes = again.done == it.done and all(torch.equal(ended[name], found[name]) for name in ended)
    following = step()
    resumes = resumes and again.step() == following
    average = {} if it.average is None else {name: whole(value) for name, value in it.average.weights.items()}
    save_tensors(stem.with_suffix(".average"), average)
    told = {"rows": rows, "agreed": agreed, "ended": it.done - 1, "resumes": resumes, "following": following}
    write_json(stem.with_suffix(".json"), told)


if __name__ == "__main__":
    main(*sys.argv[1:])
