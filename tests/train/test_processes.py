"""Two processes over gloo agree with each other and with one process of twice the batch."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studio.train.running import Run
from studio.train.snapshots import save_snapshot
from tests.train import member

ROOT = Path(__file__).resolve().parents[2]
LOSSES, NORMS = 1e-5, 1e-4


def launch(folder: Path, recipe: str, program: str = "member") -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": port,
              "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    words = [str(folder), "1", recipe] if program == "member" else [str(folder)]
    command = [sys.executable, "-m", f"tests.train.{program}", *words]
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

    alone = member.trainer(tmp_path / "alone", 2, recipe.replace("sharded", "whole"))
    for step in range(4):
        agree([one["rows"][step] for one in pair], alone.step(), f"step {step}")
    for name, value in alone.networks.generator.state_dict().items():
        # Adam's first steps have the rate's size in any direction, so a tiny gradient's sign may differ.
        assert (both[0][name] - value).abs().mean() < 1e-4, name

    # One process goes on from the checkpoint of two; what each of them streamed is begun anew.
    shutil.copytree(tmp_path / "checkpoints", tmp_path / "moved" / "checkpoints")
    moved = member.trainer(tmp_path / "moved", 2, recipe.replace("sharded", "whole"))
    Run(moved)
    assert moved.done == 5
    average = load_file(tmp_path / "member-0.average")
    row = moved.step()
    if recipe.startswith("distill"):
        agree([one["following"] for one in pair], row, "after the move")
        if average:
            for name, value in moved.average.weights.items():
                torch.testing.assert_close(average[name], value, atol=1e-5, rtol=1e-3, msg=name)
    else:
        assert moved.stream.video > 0


def agree(rows: list[dict[str, float]], alone: dict[str, float], when: str) -> None:
    """Every loss and gradient norm of two processes is that of one, and both tell the same."""
    assert rows[0] == rows[1] and rows[0].keys() == alone.keys()
    for name, value in alone.items():
        assert rows[0][name] == pytest.approx(value, rel=LOSSES if name.endswith("loss") else NORMS), f"{when}: {name}"


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_processes_without_a_common_folder_are_refused(tmp_path, kept):
    if kept:  # a checkpoint that was copied to the first host alone
        alone = member.trainer(tmp_path / "host-0", 2, "distill")
        alone.step()
        save_snapshot(alone, tmp_path / "host-0" / "checkpoints", [])
    said = []
    for process in launch(tmp_path, "", "apart"):
        said.append(process.communicate(timeout=120)[0])
        assert process.returncode == 0, said
    assert all("`out` must be one folder for all processes" in text for text in said), said
    assert ("different checkpoints" in said[0]) == kept
