"""Several processes from one call, as in a notebook; in a process of its own, because processes are forked."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from studio.model.weights import save
from studio.train.distillation import DistillConfig
from studio.train.launching import launch
from studio.train.recipe import TrainConfig
from tests.model.tiny import tiny_models

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from studio.train.distillation import DistillConfig
from studio.train.launching import launch

if __name__ == "__main__":
    rows = launch(DistillConfig.load(sys.argv[1]), 2)
    print("rows", len(rows))
"""


@pytest.mark.slow
def test_two_processes_train_from_one_call(tmp_path):
    whole = tiny_models()
    save(whole, tmp_path / "model")
    save(dataclasses.replace(whole, config=dataclasses.replace(whole.config, causal=False)), tmp_path / "teacher")
    config = DistillConfig(out=str(tmp_path / "run"), generator=str(tmp_path / "model"), steps=2, frames=6,
                           teacher=str(tmp_path / "teacher"), critic_updates=2)  # fmt: skip
    path = config.save(tmp_path / "config.json")
    (tmp_path / "start.py").write_text(SCRIPT, encoding="utf-8")
    # Without a GPU the processes must still know each other.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    said = subprocess.run([sys.executable, str(tmp_path / "start.py"), str(path)], env=environment, text=True,
                          capture_output=True, timeout=240, check=False)  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert "rows 2" in said.stdout and said.stdout.count("finished at step 2 of 2") == 1
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000002" / "state.json").read_text())
    assert state["processes"] == 2 and (tmp_path / "run" / "generator.safetensors").exists()


@pytest.mark.slow
def test_two_processes_train_from_a_terminal(tmp_path):
    words = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("-m", "studio.train", "pretrain", "--preset", "pocket", "--out", str(tmp_path / "run"), "--device", "cpu"),
        *("--steps", "2", "--batch", "1", "--pool", "2", "--export"),
    ]
    # The launcher must not take up a configuration that lies in somebody's home.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")}
    said = subprocess.run(words, env=environment, text=True, capture_output=True, timeout=240, check=False)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("finished at step 2 of 2") == 1, "of two processes the first one speaks"
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000002" / "state.json").read_text())
    assert state["processes"] == 2 and len(state["history"]) == 2
    assert (tmp_path / "run" / "model" / "dit.safetensors").exists()


def test_processes_that_would_train_each_alone_are_stopped(monkeypatch):
    from studio.train.learner import make_accelerator

    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("accelerate.Accelerator", lambda **_: SimpleNamespace(num_processes=1))
    with pytest.raises(RuntimeError, match="2 processes were started and each would train alone"):
        make_accelerator(DistillConfig(out="o", generator="g", teacher="t"))


def test_a_process_that_has_settled_for_another_device_says_so(monkeypatch):
    from studio.train.learner import make_accelerator

    told = DistillConfig(out="o", generator="g", teacher="t", device="cpu")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    assert make_accelerator(told).device.type == "cpu"
    # The same again is fine, and so is whatever there is where that is the processor.
    assert (
        make_accelerator(told).device.type
        == make_accelerator(dataclasses.replace(told, device=None)).device.type
        == "cpu"
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(RuntimeError, match=r"an earlier training here took the processor; .* or give device='cpu'"):
        make_accelerator(dataclasses.replace(told, device=None))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert make_accelerator(dataclasses.replace(told, device=None)).device.type == "cpu"

    def settled(**_):
        raise ValueError("AcceleratorState has already been initialized")

    monkeypatch.setattr("accelerate.Accelerator", settled)
    with pytest.raises(RuntimeError, match="an earlier training here took a GPU; restart the kernel"):
        make_accelerator(told)
    with pytest.raises(ValueError, match="already been initialized"):
        make_accelerator(dataclasses.replace(told, device=None))


def test_what_cannot_be_launched_is_named(monkeypatch):
    with pytest.raises(ValueError, match=r"must be one of PretrainConfig, .* got TrainConfig"):
        launch(TrainConfig(out="o", generator="g"), 2)
    with pytest.raises(ValueError, match="`processes` must be at least 1"):
        launch(DistillConfig(out="o", generator="g", teacher="t"), 0)
    monkeypatch.setattr("accelerate.utils.is_cuda_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match="`processes` must be at most the 2 GPUs that are here, got 3"):
        launch(DistillConfig(out="o", generator="g", teacher="t"), 3)
