"""Two processes over gloo agree with each other and with one process of twice the batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train import member

ROOT = Path(__file__).resolve().parents[2]


def launch(folder: Path, recipe: str) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": port,
              "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    command = [sys.executable, "-m", "tests.train.member", str(folder), "1", recipe]
    return [
        subprocess.Popen(command, cwd=ROOT, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["distill", "long_tune", "distill-sharded", "long_tune-sharded"])
def test_two_processes_agree_with_one(tmp_path, recipe):
    members = launch(tmp_path, recipe)
    for process in members:
        said, _ = process.communicate(timeout=180)
        assert process.returncode == 0, said
    pair = [json.loads((tmp_path / f"member-{rank}.json").read_text()) for rank in range(2)]
    both = [load_file(tmp_path / f"member-{rank}.safetensors") for rank in range(2)]
    assert [one["agreed"] for one in pair] == [5, 5]
    assert [one["resumes"] for one in pair] == [True, True], "a checkpoint of two processes is gone on with bit for bit"
    assert [one["ended"] for one in pair] == [5, 5], "one process asked to stop, both end after the same step"
    stored = tmp_path / "checkpoints" / "step-00000005"
    assert {"state.json", "rank-0.json", "rank-1.json", "weights.safetensors"} <= {p.name for p in stored.iterdir()}
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])

    alone = member.trainer(tmp_path / "alone", 2, recipe.partition("-")[0])
    for step in range(4):
        row = alone.step()
        for name, value in row.items():
            got = [one["rows"][step][name] for one in pair]
            joined = got[0] if name.endswith("norm") else sum(got) / 2
            assert joined == pytest.approx(value, rel=1e-3), f"step {step}: {name}"
    for name, value in alone.networks.generator.state_dict().items():
        # Adam's first steps have the rate's size in any direction, so a tiny gradient's sign may differ.
        assert (both[0][name] - value).abs().mean() < 1e-4, name
