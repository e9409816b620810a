"""The run object: paused, stopped, gone on with, in the foreground and the background, and taken away as a model."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import weakref

import pytest
import torch

from studio.model.weights import load
from studio.train.distillation import Distillation, DistillConfig, distill
from studio.train.longtune import LongTuneConfig
from studio.train.lora import merged_state
from studio.train.monitor import summary
from studio.train.networks import Networks, open_transformer
from studio.train.running import Run
from studio.train.snapshots import newest
from tests.model.tiny import tiny_models
from tests.train import nets


def config(tmp_path, **changes) -> DistillConfig:
    fields = {"out": str(tmp_path / "run"), "generator": "tiny", "teacher": "tiny", "frames": 6, "critic_updates": 2,
              "generator_rate": 1e-3, "critic_rate": 1e-3, "average_from": 2, "device": "cpu", "steps": 4}  # fmt: skip
    return DistillConfig(**{**fields, **changes})


def fresh(tmp_path, **changes) -> Run:
    return Run(Distillation(config(tmp_path, **changes), nets.networks(), nets.PROMPTS))


def curve(run: Run) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key not in ("seconds", "gib")} for row in run.history]


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_runs_in_the_background_and_gives_its_history(tmp_path):
    there = distill(config(tmp_path), networks=nets.networks(), prompts=nets.PROMPTS, wait=False)
    assert there.wait() is there and there.state == "finished" and not there.interrupted
    straight = fresh(tmp_path / "other").go()
    assert curve(there) == curve(straight)
    import pandas

    table = pandas.DataFrame(there.history)
    assert table["step"].tolist() == [1, 2, 3, 4] and table["critic_loss"].notna().all()
    assert table["generator_loss"].notna().tolist() == [True, False, True, False] and (table["gib"] > 0).all()
    assert "Distillation finished, step 4 of 4" in repr(there)
    assert (tmp_path / "run" / "generator.safetensors").exists()


def test_a_pause_holds_between_two_steps_and_changes_nothing(tmp_path):
    straight = fresh(tmp_path / "other").go()
    run = fresh(tmp_path)
    step = run.trainer.step

    def pausing():
        row = step()
        if run.trainer.done == 2:
            run.pause()
        return row

    run.trainer.step = pausing
    run.start()
    until(lambda: run.state == "paused" and len(run.history) == 2)
    with pytest.raises(RuntimeError, match="is running; call"):
        run.go()
    time.sleep(0.3)
    assert run.trainer.done == 2
    assert run.resume().wait().state == "finished"
    assert curve(run) == curve(straight)


def test_stopped_while_paused_it_goes_on_where_it_was(tmp_path):
    straight = fresh(tmp_path / "other").go()
    run = fresh(tmp_path)
    step, first = run.trainer.step, threading.Event()

    def once():
        row = step()
        if not first.is_set():
            first.set()
            run.pause()
        return row

    run.trainer.step = once
    run.start()
    until(lambda: run.state == "paused" and len(run.history) == 1)
    run.stop()
    assert run.state == "stopped" and run.interrupted
    assert newest(tmp_path / "run" / "checkpoints").name == "step-00000001"
    run.resume().wait()
    assert curve(run) == curve(straight)


def test_a_step_that_is_torn_goes_back_to_the_checkpoint(tmp_path):
    straight = fresh(tmp_path / "other").go()
    run = fresh(tmp_path, save_every=2)
    update = run.trainer.critic.update

    def torn(loss, share):
        if run.trainer.done == 2:
            run.trainer.critic.update = update
            raise KeyboardInterrupt
        return update(loss, share)

    run.trainer.critic.update = torn
    with pytest.raises(KeyboardInterrupt):
        run.go()
    assert run.state == "failed"
    assert curve(run.go()) == curve(straight), "the generator's half step is undone"


def test_without_a_checkpoint_a_torn_run_is_not_gone_on_with(tmp_path):
    run = fresh(tmp_path)
    run.trainer.step = lambda: (_ for _ in ()).throw(RuntimeError("torn"))
    with pytest.raises(RuntimeError, match="torn"):
        run.start().wait()
    with pytest.raises(RuntimeError, match="before its first checkpoint; begin a new run"):
        run.go()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("tried to allocate 2 GiB\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: tried 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_out_of_memory_gives_advice_and_lets_go(tmp_path, error):
    straight = fresh(tmp_path / "other").go()
    run = fresh(tmp_path, save_every=2)
    step, held = run.trainer.step, []
    parameter = run.trainer.generator.parameters[0]

    def full():
        if run.trainer.done < 2:
            return step()
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        parameter.grad = torch.zeros_like(parameter)
        run.trainer.step = step
        raise error

    run.trainer.step = full
    with pytest.raises(MemoryError, match=r"ran out in step 3 \(.*\); use ") as caught:
        run.go()
    error.__traceback__ = None  # Only the parameter of this test still holds it.
    assert "\n" not in str(caught.value) and caught.value.__context__ is None
    assert run.state == "failed" and parameter.grad is None and held[0]() is None
    assert not run.trainer.generator.optimizer.state, "moments are let go too"
    assert curve(run.go()) == curve(straight), "they come back from the checkpoint"


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path):
    run = fresh(tmp_path)
    run.trainer.step = lambda: (_ for _ in ()).throw(RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run.go()


def test_it_stops_after_its_seconds_and_goes_on(tmp_path):
    straight = fresh(tmp_path / "other").go()
    first = fresh(tmp_path, seconds=1e-9).go()
    assert (first.state, first.trainer.done) == ("stopped", 0)
    first = fresh(tmp_path, seconds=3600.0)
    step = first.trainer.step

    def slow():
        row = step()
        first._until = time.monotonic()  # As if the time had run out within this step.
        return row

    first.trainer.step = slow
    assert (first.go().state, first.trainer.done) == ("stopped", 1)
    assert newest(tmp_path / "run" / "checkpoints").name == "step-00000001"
    assert curve(fresh(tmp_path, seconds=3600.0).go()) == curve(straight)


class Player:
    """What plays, as a run sees it."""

    def __init__(self, state: str) -> None:
        self.state = state

    def play(self) -> None:
        self.state = "playing"

    def pause(self) -> None:
        self.state = "paused"


def test_what_plays_rests_if_asked_to_and_goes_on_afterwards(tmp_path):
    resting, idle, playing = Player("playing"), Player("idle"), Player("playing")
    run = Run(Distillation(config(tmp_path), nets.networks(), nets.PROMPTS), pausing=[resting, idle])
    step, seen = run.trainer.step, []
    run.trainer.step = lambda: (seen.append((resting.state, idle.state, playing.state)), step())[1]
    run.go()
    assert set(seen) == {("paused", "idle", "playing")}
    assert (resting.state, idle.state) == ("playing", "idle")


def test_the_rate_rises_and_falls_with_the_steps(tmp_path):
    run = fresh(tmp_path, warmup=2, floor=0.1)
    rates, step = [], run.trainer.step
    run.trainer.step = lambda: (step(), rates.append(run.trainer.critic.optimizer.param_groups[0]["lr"]))[0]
    run.go()
    assert rates[0] == pytest.approx(0.5e-3) and rates[1] > rates[2] > rates[3] > 0.1e-3
    plain = fresh(tmp_path / "plain").go()
    assert plain.trainer.critic.optimizer.param_groups[0]["lr"] == 1e-3


def test_progress_is_told_with_time_left_memory_and_throughput(tmp_path):
    lines: list[str] = []
    distill(config(tmp_path, steps=10, preview_every=5), lines.append, networks=nets.networks(), prompts=nets.PROMPTS)
    last = next(line for line in lines if line.startswith("step 10 "))
    assert "critic_loss" in last and "0:00 left" in last and "clips/s" in last and "GiB" in last
    assert sum(line.startswith("preview of 11 frames") for line in lines) == 2
    assert lines[-1] == "finished at step 10 of 10"


def test_the_time_left_is_no_more_than_what_was_given(tmp_path):
    run = fresh(tmp_path, steps=10**9)
    assert run.time_left is None
    run = fresh(tmp_path, steps=10**9, seconds=1e-9)
    run.trainer.step()
    run.history.append({"step": 1, "seconds": 10.0, "gib": 0.0})
    assert summary(run).startswith("2777777:46:30 left")
    assert run.go().time_left == 0.0 and run.state == "stopped" and summary(run).startswith("0:00 left")


def test_who_looks_at_a_training_in_the_background_looks_between_two_steps(tmp_path):
    straight = fresh(tmp_path / "other", average_from=0).go()
    run = fresh(tmp_path, average_from=0)
    step, sample = run.trainer.step, run.trainer.sample
    stepping, asks, seen = threading.Event(), threading.Event(), []

    def slow():
        stepping.set()
        asks.wait(30)
        time.sleep(0.3)
        row = step()
        stepping.clear()
        return row

    def watched(*args):
        seen.append(stepping.is_set())
        return sample(*args)

    run.trainer.step, run.trainer.sample = slow, watched
    run.start()
    assert stepping.wait(30)
    asks.set()
    with run.averaged():
        run.preview("a fox")
    run.save_generator()
    assert run.wait().state == "finished" and seen == [False]
    assert curve(run) == curve(straight)


def test_progress_is_written_where_nobody_takes_it(tmp_path, capsys, monkeypatch):
    def said(name):
        distill(config(tmp_path / name, steps=1), networks=nets.networks(), prompts=nets.PROMPTS, show=False)
        return capsys.readouterr().out

    written = said("terminal")
    assert written.startswith("will need about ") and "GiB are there\n" in written
    assert "step 1 generator_loss" in written and written.endswith("finished at step 1 of 1\n")
    monkeypatch.setattr("studio.train.running.in_notebook", lambda: True)
    assert said("notebook") == "", "a notebook shows it"


def test_a_preview_is_pixels_and_changes_nothing(tmp_path):
    straight = fresh(tmp_path / "other").go()
    run = fresh(tmp_path)
    clip = run.preview("a fox")
    assert clip.shape == (11, 8, 12, 3) and clip.dtype == torch.uint8
    assert torch.equal(clip, run.preview("a fox"))
    run.go()
    assert curve(run) == curve(straight) and not torch.equal(clip, run.preview("a fox"))


def whole(**changes) -> Networks:
    models = tiny_models()
    return Networks.of(models, teacher=tiny_models().dit, critic=tiny_models().dit, **changes)


@pytest.mark.parametrize("lora", [None, 2])
def test_the_export_is_a_model_that_opens_and_plays_the_trained_generator(tmp_path, lora):
    import studio

    run = distill(config(tmp_path, lora=lora), networks=whole(), prompts=nets.PROMPTS)
    folder = run.export(dtype=torch.float32)
    stored = load(folder)
    with run.trainer.average.shown(run.networks.generator):
        expected = {k: v.clone() for k, v in merged_state(run.networks.generator).items()}
        clip = run.trainer.sample(run.networks.encode(["a fox"]), "x")
    for name, value in stored.dit.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not torch.equal(stored.dit.state_dict()["blocks.0.ffn.0.weight"], tiny_models().dit.blocks[0].ffn[0].weight)
    again = Run(Distillation(config(tmp_path / "b"), Networks.of(stored, teacher=stored.dit, critic=stored.dit)))
    torch.testing.assert_close(again.trainer.sample(stored.text.encode(["a fox"]), "x"), clip, atol=1e-5, rtol=1e-4)
    with studio.open(folder, prompt="a red fox", device="cpu") as session:
        assert next(iter(session.frames())).shape == (5, 16, 16, 3)


def test_the_probe_of_the_model_it_began_with_comes_along(tmp_path):
    from studio.model.weights import save

    save(tiny_models(), tmp_path / "start")
    run = distill(config(tmp_path, generator=str(tmp_path / "start"), steps=1), networks=whole(), prompts=nets.PROMPTS)
    assert not (run.export() / "probe.safetensors").exists()
    (tmp_path / "start" / "probe.safetensors").write_bytes(b"a probe")
    assert (run.export() / "probe.safetensors").read_bytes() == b"a probe"
    (tmp_path / "start" / "probe.safetensors").write_bytes(b"a later one")
    assert (run.export() / "probe.safetensors").read_bytes() == b"a probe", "what is there already stays"


def test_what_is_no_whole_model_is_not_exported(tmp_path):
    with pytest.raises(RuntimeError, match="needs VAE and text encoder"):
        fresh(tmp_path).export()
    bare = fresh(tmp_path)
    bare.networks.vae = None
    with pytest.raises(RuntimeError, match="a preview needs a VAE"):
        bare.preview()


def test_checkpoints_of_another_kind_are_refused_before_they_are_loaded(tmp_path):
    from studio.model.weights import save

    run = distill(config(tmp_path, lora=2), networks=whole(), prompts=nets.PROMPTS)
    with pytest.raises(ValueError, match="which generates block by block; use a clip model"):
        open_transformer(str(run.export()))
    with pytest.raises(ValueError, match=r"LoRA"):
        open_transformer(str(tmp_path / "run" / "generator.safetensors"))
    models = tiny_models()
    other = dataclasses.replace(models.config, causal=False, dit=dataclasses.replace(models.config.dit, layers=3))
    save(models, tmp_path / "wrong")
    (tmp_path / "wrong" / "config.json").write_text(__import__("json").dumps(dataclasses.asdict(other)))
    with pytest.raises(ValueError, match="missing"):
        open_transformer(str(tmp_path / "wrong"))


@pytest.mark.parametrize("kind", [DistillConfig, LongTuneConfig])
def test_configurations_are_kept_as_json(tmp_path, kind):
    mine = kind(out="o", generator="g", teacher="t", trackers=("tensorboard",))
    assert kind.load(mine.save(tmp_path / "deep" / "config.json")) == mine
    assert "\n    critic_updates=5,\n" in str(mine)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="must be JSON"):
        kind.load(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text('{"stepz": 3}')
    with pytest.raises(ValueError, match="`stepz` is not a key"):
        kind.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sgd"}, "`optimizer` must be one of adamw, adamw8bit"),
        ({"guidance": "3"}, "`guidance` must be finite and at least 0, got '3'"),
        ({"clip_norm": None}, "`clip_norm` must be finite and positive, got None"),
        ({"beta2": "0.9"}, r"`beta2` must lie in \[0, 1\), got '0.9'"),
        ({"average": True}, r"`average` must lie in \[0, 1\), got True"),
        ({"floor": 1.5}, r"`floor` must lie in \[0, 1\], got 1.5"),
        ({"highest_timestep": "980"}, "`highest_timestep` must be finite"),
        ({"recompute": "false"}, "`recompute` must be True or False, got 'false'"),
        ({"seed": 1.5}, "`seed` must be a whole number"),
        ({"teacher": None}, "`teacher` must be a text, got None"),
        ({"prompts": 3}, "`prompts` must be a text, got 3"),
        ({"trackers": None}, "`trackers` must be names, got None"),
        ({"trackers": "tensorboard"}, "`trackers` must be names"),
        ({"preview_every": 0}, "`preview_every` must be a whole number"),
    ],
)
def test_bad_settings_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_folders_may_be_paths(tmp_path):
    run = fresh(tmp_path, out=tmp_path / "run", prompts=tmp_path / "p.txt", trackers=[]).go()
    assert newest(tmp_path / "run" / "checkpoints").name == "step-00000004"
    assert run.config == config(tmp_path, prompts=str(tmp_path / "p.txt"))
    assert DistillConfig.load(run.config.save(tmp_path / "c.json")) == run.config


def test_eight_bit_moments_need_a_gpu(tmp_path):
    with pytest.raises(ValueError, match="needs a GPU; use 'adamw'"):
        fresh(tmp_path, optimizer="adamw8bit")


def test_trackers_are_off_unless_asked_for_and_missing_ones_are_named(tmp_path, monkeypatch):
    from accelerate import tracking

    assert fresh(tmp_path).trainer.accelerator.trackers == []
    with pytest.raises(ValueError, match=r"`trackers` must be among .*, got 'notebook'"):
        fresh(tmp_path / "a", trackers=("notebook",))
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(ImportError, match="'tensorboard' is not installed: pip install tensorboard"):
        fresh(tmp_path / "b", trackers=("tensorboard",))


def test_a_tracker_hears_every_step(tmp_path):
    run = fresh(tmp_path)
    heard = []
    accelerator, step = run.trainer.accelerator, run.trainer.step
    accelerator.log = lambda metrics, step: heard.append((step, sorted(metrics)))
    accelerator.init_trackers = lambda name, config: heard.append((name, config["steps"]))
    accelerator.end_training = lambda: heard.append(("end", None))
    run.trainer.config = dataclasses.replace(run.config, trackers=("tensorboard",))
    run.trainer.step = lambda: (run.stop(), step())[1]
    run.go()
    run.trainer.step = step
    run.resume()
    whole = ["run", 1, "end", "run", 2, 3, 4, "end"]
    assert [what for what, _ in heard] == whole, "a record is open whenever something is logged"
    assert heard[0] == ("run", 4) and heard[4][1] == ["critic_loss", "critic_norm"]


@pytest.mark.parametrize("lora", [None, 2])
def test_whatever_a_run_leaves_opens_as_the_model_that_it_exports(tmp_path, lora):
    from studio.model.weights import save

    save(tiny_models(), tmp_path / "start", torch.float32)
    begun = config(tmp_path, generator=str(tmp_path / "start"), lora=lora)
    run = distill(begun, networks=whole(), prompts=nets.PROMPTS)
    folder, step = tmp_path / "run", newest(tmp_path / "run" / "checkpoints")
    assert step is not None
    expected = load(run.export(tmp_path / "exported", torch.float32)).dit.state_dict()
    for place in (folder, folder / "generator.safetensors", step, step / "weights.safetensors"):
        found = load(place)
        assert found.config.causal
        for name, value in found.dit.state_dict().items():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
    plain = load(step, ema=False).dit.state_dict()
    assert not torch.equal(plain["blocks.0.ffn.0.weight"], expected["blocks.0.ffn.0.weight"])
    (folder / "generator.safetensors").unlink()
    assert torch.equal(load(folder).dit.state_dict()["head.head.bias"], expected["head.head.bias"])
    run.export()
    assert load(folder).config == load(folder / "model").config


def test_a_run_whose_beginning_is_gone_says_so(tmp_path):
    distill(config(tmp_path), networks=whole(), prompts=nets.PROMPTS)
    with pytest.raises(FileNotFoundError, match="of a run that began with 'tiny': `name` must be a shipped model"):
        load(tmp_path / "run")
    from studio.model.weights import save

    save(tiny_models(), tmp_path / "start", torch.float32)
    assert load(tmp_path / "run", base=tmp_path / "start").config.name == "tiny"


def test_a_run_that_began_with_itself_is_told(tmp_path):
    distill(config(tmp_path), networks=whole(), prompts=nets.PROMPTS)
    run = tmp_path / "run"
    told = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**told, "generator": str(run)}))
    with pytest.raises(ValueError, match=r"got one that began with this run; name the model .* by `base`"):
        load(run)


class Closing:
    """A player that somebody closes while the training runs."""

    state = "playing"

    def pause(self) -> None:
        self.state = "paused"

    def play(self) -> None:
        raise RuntimeError("the session is closed; open a new one")


def test_a_player_that_was_closed_meanwhile_costs_nothing(tmp_path):
    said = []
    run = Run(Distillation(config(tmp_path), nets.networks(), nets.PROMPTS), said.append, pausing=Closing())
    assert run.go().state == "finished"
    assert any("the session is closed" in line for line in said)


def test_two_trainings_do_not_write_into_one_folder(tmp_path):
    first = fresh(tmp_path, steps=400)
    first.start()
    try:
        second = fresh(tmp_path, steps=400)
        with pytest.raises(RuntimeError, match=r"a training is running in .*run; call its `stop\(\)`"):
            second.go()
        assert second.state == "ready"
    finally:
        first.stop()
    ended = fresh(tmp_path, steps=first.trainer.done + 1).go()
    assert ended.state == "finished" and first.resume is not None


def test_what_cannot_be_exported_is_said_before_the_first_step(tmp_path):
    with pytest.raises(RuntimeError, match="text encoder"):
        fresh(tmp_path, export=True)


def test_the_probe_comes_along_from_the_model_that_a_run_wrote(tmp_path):
    began = tmp_path / "began"
    (began / "model").mkdir(parents=True)
    for name in ("config.json", "probe.safetensors"):
        (began / "model" / name).write_text("{}")
    (began / "config.json").write_text('{"generator": "miniature", "out": "began"}')
    run = Run(Distillation(config(tmp_path, generator=str(began)), whole(), nets.PROMPTS))
    assert (run.export() / "probe.safetensors").read_text() == "{}"
