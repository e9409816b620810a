"""Checkpoints: whole or not there, and a resumed run is the uninterrupted one bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from studio.model.weights import load
from studio.train.distillation import Distillation, DistillConfig
from studio.train.longtune import LongTuning
from studio.train.running import Run, run
from studio.train.snapshots import load_snapshot, newest, save_snapshot
from tests.train import nets, victim

# Bits depend on the number of threads, and the victim has one.
pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]


def curve(history) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key not in ("seconds", "gib")} for row in history]


def weights(it) -> dict[str, torch.Tensor]:
    found = {f"g.{k}": v for k, v in it.networks.generator.state_dict().items()}
    found |= {f"c.{k}": v for k, v in it.networks.critic.state_dict().items()}
    return found | ({f"a.{k}": v for k, v in it.average.weights.items()} if it.average else {})


def same(one, other) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_thread) -> Run:
    """The uninterrupted run."""
    return run(victim.trainer(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("at", [1, 3, 4, 7])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, whole, at):
    first = victim.trainer(tmp_path)
    rows = [first.step() for _ in range(at)]
    history = [{"step": i + 1, "seconds": 0.0, **row} for i, row in enumerate(rows)]
    save_snapshot(first, tmp_path / "checkpoints", history)
    resumed = run(victim.trainer(tmp_path))
    assert curve(resumed.history) == curve(whole.history)
    assert same(resumed.trainer, whole.trainer)
    assert all(torch.equal(a, whole.trainer.stream.tensors()[n]) for n, a in resumed.trainer.stream.tensors().items())


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["during-a-step", "during-a-save"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, whole, moment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.victim", str(tmp_path), moment]
    died = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr
    left = newest(tmp_path / "checkpoints")
    assert left.name == ("step-00000006" if moment == "during-a-step" else "step-00000004")
    resumed = run(victim.trainer(tmp_path))
    assert curve(resumed.history) == curve(whole.history)
    assert same(resumed.trainer, whole.trainer)
    assert not list((tmp_path / "checkpoints").glob(".part-*")), "what was half written is swept away"


def test_distillation_resumes_too(tmp_path):
    config = DistillConfig(out=str(tmp_path / "a"), generator="tiny", teacher="tiny", steps=4, frames=6, lora=2,
                           critic_updates=2, average_from=1, device="cpu", save_every=2)  # fmt: skip
    straight = run(Distillation(config, nets.networks(), nets.PROMPTS))
    other = dataclasses.replace(config, out=str(tmp_path / "b"), steps=2)
    run(Distillation(other, nets.networks(), nets.PROMPTS))
    resumed = run(Distillation(dataclasses.replace(other, steps=4), nets.networks(), nets.PROMPTS))
    assert curve(resumed.history) == curve(straight.history) and same(resumed.trainer, straight.trainer)


def test_only_the_newest_are_kept(whole):
    found = sorted(path.name for path in (Path(whole.config.out) / "checkpoints").iterdir())
    assert found == ["step-00000006", "step-00000008"]


@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_a_stopped_run_ends_after_its_step_with_a_checkpoint(tmp_path, whole, how):
    current = Run(victim.trainer(tmp_path))
    step = current.trainer.step

    def stopping():
        row = step()
        if current.trainer.done == 3:
            current.stop() if how == "stop" else signal.raise_signal(signal.SIGINT)
        return row

    current.trainer.step = stopping
    handler = signal.getsignal(signal.SIGINT)
    current.go()
    assert current.interrupted and len(current.history) == 3
    assert signal.getsignal(signal.SIGINT) is handler
    assert newest(tmp_path / "checkpoints").name == "step-00000003"
    assert curve(current.go().history) == curve(whole.history) and not current.interrupted


def test_an_interrupt_and_its_echo_are_one_and_a_later_one_ends_the_step(tmp_path, monkeypatch):
    def interrupted_twice(folder):
        current = Run(victim.trainer(folder))
        step = current.trainer.step

        def stepping():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            return step()

        current.trainer.step = stepping
        return current

    monkeypatch.setattr("studio.train.running._ECHO", 600.0)
    one = interrupted_twice(tmp_path / "echo").go()
    assert one.interrupted and newest(tmp_path / "echo" / "checkpoints").name == "step-00000001"
    monkeypatch.setattr("studio.train.running._ECHO", -1.0)
    two = interrupted_twice(tmp_path / "later")
    with pytest.raises(KeyboardInterrupt):
        two.go()
    assert two.state == "failed" and newest(tmp_path / "later" / "checkpoints") is None


@pytest.mark.parametrize("during", ["save_generator", "export"])
def test_what_is_written_at_the_end_is_written_whole_though_it_is_interrupted(tmp_path, monkeypatch, during):
    changes = {"steps": 100, "seconds": 1e-6, "export": True}
    tuning = LongTuning(dataclasses.replace(victim.config(tmp_path), **changes), nets.reading(), nets.PROMPTS)
    current = Run(tuning, writes=True)
    write = getattr(current, during)
    monkeypatch.setattr(current, during, lambda: signal.raise_signal(signal.SIGINT) or write())
    current.go()
    assert current.state == "stopped" and not current.history, "its time was over before the first step"
    assert (tmp_path / "generator.safetensors").exists() and load(tmp_path / "model").config.name == "tiny"


def test_a_second_interrupt_while_it_is_written_interrupts(tmp_path, monkeypatch):
    current = Run(victim.trainer(tmp_path), writes=True)
    step = current.trainer.step
    current.trainer.step = lambda: signal.raise_signal(signal.SIGINT) or step()
    monkeypatch.setattr(current, "save_generator", lambda: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr("studio.train.running._ECHO", -1.0)
    with pytest.raises(KeyboardInterrupt):
        current.go()
    assert current.state == "failed" and newest(tmp_path / "checkpoints").name == "step-00000001"


def test_a_finished_run_that_is_begun_again_writes_what_is_missing(tmp_path):
    def again():
        fields = dataclasses.replace(victim.config(tmp_path), steps=2, export=True)
        return run(LongTuning(fields, nets.reading(), nets.PROMPTS))

    first = again()
    state = load(tmp_path / "model").dit.state_dict()
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "generator.safetensors").unlink()
    second = again()
    assert second.state == "finished" and curve(second.history) == curve(first.history)
    assert (tmp_path / "generator.safetensors").exists()
    found = load(tmp_path / "model").dit.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


class Wrapped(torch.optim.AdamW):
    """Keeps a count as a plain number, and gives its state wrapped up, as optimisers with moments of eight bits do."""

    def state_dict(self):
        found = super().state_dict()
        found["state"] = {i: {"step": int(s["step"]), "wrapped": s} for i, s in found["state"].items()}
        return found

    def load_state_dict(self, state_dict):
        for state in state_dict["state"].values():
            assert type(state["calls"]) is int, "a plain number comes back as one"
        super().load_state_dict(state_dict)

    def step(self, closure=None):
        super().step(closure)
        for state in self.state.values():
            state["calls"] = state.get("calls", 0) + 1


def test_an_optimiser_may_keep_plain_numbers_and_wrap_its_state_up(tmp_path, monkeypatch):
    monkeypatch.setattr("studio.train.learner.make_optimizer", lambda parameters, rate, _: Wrapped(parameters, lr=rate))
    straight = run(victim.trainer(tmp_path / "straight"))
    first = victim.trainer(tmp_path / "other")
    rows = [first.step() for _ in range(4)]
    history = [{"step": i + 1, "seconds": 0.0, **row} for i, row in enumerate(rows)]
    save_snapshot(first, tmp_path / "other" / "checkpoints", history)
    resumed = run(victim.trainer(tmp_path / "other"))
    assert curve(resumed.history) == curve(straight.history) and same(resumed.trainer, straight.trainer)
    counts = {state["calls"] for state in resumed.trainer.critic.optimizer.state.values()}
    assert counts == {victim.STEPS}


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    current = Run(victim.trainer(tmp_path))
    thread = threading.Thread(target=current.go)
    thread.start()
    current.stop()
    thread.join(60)
    assert not thread.is_alive() and newest(tmp_path / "checkpoints") is not None


def stored(tmp_path) -> Path:
    it = victim.trainer(tmp_path)
    it.step()
    return save_snapshot(it, tmp_path / "checkpoints", [])


@pytest.mark.parametrize("name", ["weights.safetensors", "rank-0.safetensors", "rank-0.json", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_checkpoints_are_refused(tmp_path, name, damage):
    path = stored(tmp_path)
    file = path / name
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="must be a whole checkpoint"):
        load_snapshot(victim.trainer(tmp_path), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["config"].update(guidance=1.0), "was written with `guidance` 1.0, got 3.0"),
        (lambda s: s["config"].update(lora=4), "was written with `lora` 4"),
        (lambda s: s.update(processes=2), "2 processes with 2 clips an update, got 1 with 1; use batch=2"),
        (lambda s: s["config"].update(batch=8, accumulate=2), "1 processes with 16 clips an update, got 1 with 1; use"),
    ],
)
def test_checkpoints_of_other_trainings_are_refused(tmp_path, change, message):
    path = stored(tmp_path)
    state = json.loads((path / "state.json").read_text())
    change(state)
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=message):
        load_snapshot(victim.trainer(tmp_path), path)


def test_what_the_advice_on_memory_names_goes_on(tmp_path):
    fields = dataclasses.replace(victim.config(tmp_path), batch=2, recompute=False)
    it = LongTuning(fields, nets.networks(), nets.PROMPTS)
    it.step()
    path = save_snapshot(it, tmp_path / "checkpoints", [{"step": 1}])
    smaller = LongTuning(
        dataclasses.replace(fields, batch=1, accumulate=2, recompute=True), nets.networks(), nets.PROMPTS
    )
    assert load_snapshot(smaller, path) == [{"step": 1}]
    assert smaller.done == 1 and same(it, smaller)
    smaller.step()
    # Two videos have been begun, so the third is the next.
    assert smaller.stream.video == 2 and it.stream.video == 0 and smaller.stream.cache.keys[0].shape[0] == 1
    with pytest.raises(ValueError, match="with 2 clips an update, got 1 with 4; use batch=1"):
        load_snapshot(LongTuning(dataclasses.replace(fields, accumulate=2), nets.networks(), nets.PROMPTS), path)


def test_misfitting_weights_are_named_and_not_half_loaded(tmp_path):
    from safetensors.torch import load_file, save_file

    path = stored(tmp_path)
    tensors = load_file(path / "weights.safetensors")
    tensors.pop("critic.head.modulation")
    save_file(tensors, path / "weights.safetensors")
    it = victim.trainer(tmp_path)
    before = {k: v.clone() for k, v in weights(it).items()}
    with pytest.raises(ValueError, match=r"1 misfits such as critic\.head\.modulation"):
        load_snapshot(it, path)
    assert all(torch.equal(before[k], v) for k, v in weights(it).items())


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert newest(tmp_path / "nowhere") is None
