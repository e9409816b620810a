"""The memory check against what autograd and the optimisers really hold, and its advice."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from studio.train.distillation import Distillation, DistillConfig
from studio.train.longtune import LongTuneConfig
from studio.train.memory import _smaller, advice, check_memory, estimate_memory, free_memory
from studio.train.running import run
from studio.train.training import TRAININGS, training
from tests.train import nets


def config(**changes) -> DistillConfig:
    fields = {"out": "o", "generator": "tiny", "teacher": "tiny", "frames": 9, "average_from": 0, "device": "cpu"}
    return DistillConfig(**{**fields, **changes})


def nbytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("lora", [None, 2])
def test_weights_gradients_and_moments_are_counted_exactly(lora):
    it = Distillation(config(lora=lora), nets.networks(), nets.PROMPTS)
    need = estimate_memory(it.config, nets.networks())
    it.step()
    learners = (it.generator, it.critic)
    held = [p for n in (it.networks.generator, it.networks.critic, it.networks.teacher, it.networks.vae)
            for p in n.parameters()]  # fmt: skip
    assert need.weights == nbytes(held) + nbytes(it.average.weights.values())
    assert need.gradients == sum(nbytes(learner.parameters) for learner in learners)
    moments = [m for le in learners for s in le.optimizer.state_dict()["state"].values() for m in s.values() if m.dim()]
    assert need.moments == nbytes(moments)
    assert estimate_memory(it.config, it.networks) == need, "adapters in place are not counted twice"


def saved_bytes(it: Distillation, role: str) -> int:
    networks = it.networks
    own = {p.untyped_storage().data_ptr() for n in (networks.generator, networks.critic) for p in n.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        (it._generator_loss if role == "generator" else it._critic_loss)(0)
    return sum(seen.values())


def test_activations_are_estimated_as_autograd_keeps_them():
    it = Distillation(config(recompute=False, batch=2), nets.networks(), nets.PROMPTS)
    measured = max(saved_bytes(it, role) for role in ("generator", "critic"))
    assert 0.8 < estimate_memory(it.config, it.networks).activations / measured < 1.25


def test_checkpointing_half_precision_and_adapters_need_less():
    whole = estimate_memory(config(recompute=False), nets.networks())
    for changes in ({"recompute": True}, {"precision": "bf16"}, {"lora": 2}):
        assert estimate_memory(config(**{"recompute": False, **changes}), nets.networks()).total < whole.total


def test_a_longer_video_needs_no_more():
    common = {"out": "o", "generator": "g", "teacher": "t", "switch_frames": ()}
    short, long = (
        estimate_memory(LongTuneConfig(**common, max_length=length), nets.networks()) for length in (40, 2400)
    )
    assert short == long and short.vae > 0


def test_what_fits_is_let_through():
    need = check_memory(config(), nets.networks(), 2**40)
    assert need.total > 0 and "GiB (weights" in str(need)
    assert free_memory(torch.device("cpu")) > 0


@pytest.mark.parametrize(("batch", "share"), [(1, 0.9), (8, 0.5)])
def test_what_does_not_fit_is_told_with_settings_that_do(batch, share):
    demanding = config(recompute=False, batch=batch)
    need = estimate_memory(demanding, nets.networks())
    with pytest.raises(MemoryError, match=r"needs about .* GiB are there; use recompute=True") as caught:
        check_memory(demanding, nets.networks(), int(share * (need.total - need.weights)))
    advice = str(caught.value).rsplit("; use ", 1)[1]
    changes = {name: eval(value) for name, value in re.findall(r"(\w+)=([^,]+)", advice)}
    check_memory(config(**{"recompute": False, "batch": batch, **changes}), nets.networks(),
                 int(share * (need.total - need.weights)))  # fmt: skip


def test_where_nothing_fits_that_is_said():
    with pytest.raises(MemoryError, match="no setting of this training fits"):
        check_memory(config(), nets.networks(), 0)


def test_a_run_checks_before_its_first_step(monkeypatch, tmp_path):
    monkeypatch.setattr("studio.train.running.free_memory", lambda device: 0)
    it = Distillation(config(out=str(tmp_path)), nets.networks(), nets.PROMPTS)
    with pytest.raises(MemoryError, match="needs about"):
        run(it)
    assert it.done == 0


@pytest.mark.parametrize("name", TRAININGS)
def test_every_setting_that_the_advice_names_is_one(name):
    kind = training(name)
    for preset in kind.presets:
        told = {"out": "o", "generator": "g", **({} if name == "pretrain" else {"teacher": "t"})}
        whole = kind.preset(preset, **{**told, "batch": 4, "precision": "no", "lora": None})
        seen = list(_smaller(whole))
        assert seen
        for changes in seen:
            dataclasses.replace(whole, **changes)
        if whole.compile and not whole.recompute:
            assert advice(whole) == "use recompute=True, compile=False"


@pytest.mark.parametrize("name", ["distill", "long_tune"])
def test_a_preset_that_compiles_is_refused_with_settings_that_fit(name):
    own = {"new_frames": 3, "max_length": 15} if name == "long_tune" else {}
    small = training(name).preset("miniature", out="o", teacher="t", frames=6, batch=8, **own)
    need = estimate_memory(small, nets.networks())
    with pytest.raises(MemoryError, match=r"use recompute=True, compile=False"):
        check_memory(small, nets.networks(), need.total - need.weights - 1)
