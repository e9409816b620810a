"""Self-forcing DMD on tiny networks: what is trained, by what, when, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from studio.config import from_dict, to_dict
from studio.sampler import BlockPlan, NoiseSource, make_cache, rollout
from studio.train import draws
from studio.train.distillation import Distillation, DistillConfig, distill, distill_preset
from studio.train.matching import Draw
from studio.train.snapshots import load_snapshot, save_snapshot
from tests.train import nets


def config(tmp_path, **changes) -> DistillConfig:
    fields = {
        "out": str(tmp_path / "run"),
        "generator": "tiny",
        "teacher": "tiny",
        "steps": 4,
        "frames": 9,
        "critic_updates": 2,
        "generator_rate": 1e-3,
        "critic_rate": 1e-3,
        "average_from": 2,
        "recompute": False,
        "device": "cpu",
        "save_every": 100,
    }
    return DistillConfig(**{**fields, **changes})


def trainer(tmp_path, **changes) -> Distillation:
    return Distillation(config(tmp_path, **changes), nets.networks(), nets.PROMPTS)


def weights(network) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def moved(before, network) -> bool:
    return any(not torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_the_generator_learns_every_few_critic_updates_and_the_teacher_never(tmp_path):
    it = trainer(tmp_path)
    for step in range(4):
        before = [weights(n) for n in (it.networks.generator, it.networks.critic, it.networks.teacher)]
        metrics = it.step()
        changes = [moved(w, n) for w, n in zip(before, (it.networks.generator, it.networks.critic, it.networks.teacher),
                                               strict=True)]  # fmt: skip
        assert changes == [step % 2 == 0, True, False]
        assert ("generator_loss" in metrics) == (step % 2 == 0)
        assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())


def test_rollouts_in_few_pieces_teach_the_same(tmp_path):
    plain, fused = trainer(tmp_path), nets.networks()
    fused.generator.fuse(compiled=False)
    fused = Distillation(config(tmp_path), fused, nets.PROMPTS)
    for _ in range(4):
        expected, found = plain.step(), fused.step()
        assert found == pytest.approx(expected, rel=1e-4)
    path = save_snapshot(fused, tmp_path / "checkpoints", [])
    again = trainer(tmp_path)
    load_snapshot(again, path)
    for name, value in weights(plain.networks.generator).items():
        torch.testing.assert_close(again.networks.generator.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    assert again.step() == pytest.approx(fused.step(), rel=1e-4)


def test_a_clip_is_the_rollout_that_plays(tmp_path):
    it = trainer(tmp_path)
    draw = Draw(role="critic", step=3, micro=0)
    with torch.no_grad():
        clip = it.clip(draw, gradient=False)
    noise = NoiseSource(draws.key(0, "noise", "critic", 3, 0, 0), it.shape.latents(1, 3))
    plan = [BlockPlan(text=clip.text, exit_step=it.exit_step("critic", 3, 0))] * 3
    played = rollout(it.networks.generator, make_cache(nets.CONFIG), plan, noise, nets.CONFIG.sampler)
    assert torch.equal(clip.latents, torch.cat([block.latents for block in played], dim=1))


def test_gradient_is_in_the_exit_step_only(tmp_path):
    it = trainer(tmp_path)
    calls = []
    it.networks.generator.register_forward_hook(lambda _m, _a, out: calls.append(out.requires_grad))
    it.clip(Draw(role="generator", step=0, micro=0), gradient=True)
    exit_step = it.exit_step("generator", 0, 0)
    assert calls == ([False] * exit_step + [True, False]) * 3


def test_every_exit_step_is_met_and_draws_repeat(tmp_path):
    it = trainer(tmp_path)
    exits = [it.exit_step("generator", step, 0) for step in range(40)]
    assert set(exits) == {0, 1, 2, 3} and exits == [it.exit_step("generator", step, 0) for step in range(40)]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_checkpointing_and_precision_leave_no_gradient_out(tmp_path, precision):
    plain, again = (trainer(tmp_path, precision=precision, recompute=r) for r in (False, True))
    for it in (plain, again):
        it._generator_loss(0).backward()
    for (name, mine), other in zip(plain.networks.generator.named_parameters(),
                                   again.networks.generator.parameters(), strict=True):  # fmt: skip
        assert mine.grad is not None and mine.grad.abs().sum() > 0, name
        tolerance = 1e-6 if precision == "no" else 1e-4
        torch.testing.assert_close(other.grad, mine.grad, atol=tolerance, rtol=1e-3, msg=name)


def test_half_precision_halves_what_is_frozen_and_nothing_that_learns(tmp_path):
    it = trainer(tmp_path, precision="bf16", lora=2)
    for network in (it.networks.generator, it.networks.critic):
        kinds = {(p.requires_grad, p.dtype) for p in network.parameters()}
        assert kinds == {(False, torch.bfloat16), (True, torch.float32)}
    assert {p.dtype for p in it.networks.teacher.parameters()} == {torch.bfloat16}
    before = weights(it.networks.generator)
    assert all(torch.isfinite(torch.tensor(value)) for value in it.step().values())
    assert moved(before, it.networks.generator)
    whole = trainer(tmp_path, precision="bf16")
    assert {p.dtype for p in whole.networks.generator.parameters()} == {torch.float32}


def test_accumulated_micro_batches_are_one_update_of_their_mean(tmp_path):
    it = trainer(tmp_path, accumulate=2, clip_norm=1e9)
    losses = [it._critic_loss(micro) for micro in range(2)]
    wanted = torch.autograd.grad(sum(losses) / 2, it.critic.parameters, allow_unused=True)
    seen = []
    original = it.critic._finish_gradients
    it.critic._finish_gradients = lambda total: (
        seen.extend(p.grad.clone() for p in it.critic.parameters), original(total))[1]  # fmt: skip
    loss, _ = it.critic.update(it._critic_loss)
    assert loss == pytest.approx(sum(losses).item() / 2, rel=1e-5)
    assert len(seen) == len(wanted)
    for got, expected in zip(seen, wanted, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-4)


def test_trainings_beside_each_other_accumulate_each_its_own(tmp_path):
    def beside(mine, others):
        it = trainer(tmp_path, accumulate=mine)
        other = trainer(tmp_path, accumulate=others)
        rows = [it.step()]
        other.step()
        return [*rows, it.step(), it.step()]

    for mine, others in ((2, 1), (1, 2)):
        alone = trainer(tmp_path, accumulate=mine)
        assert beside(mine, others) == [alone.step() for _ in range(3)]


def test_noise_of_a_process_is_counted_too(tmp_path):
    one, two = (trainer(tmp_path, draw="process", batch=2) for _ in range(2))
    rows = [one.step() for _ in range(3)]
    two.done = 2
    assert two.noise("a")(1, 0).equal(one.noise("a")(1, 0)) and not two.noise("a")(1, 1).equal(one.noise("a")(1, 0))
    assert one.noise("a")(0, 0).shape == (2, *one.shape.latents(1, 3)[1:]) and one.drawn(6, "b").shape[:2] == (2, 6)
    assert [trainer(tmp_path, draw="process", batch=2).step() for _ in range(1)] == rows[:1]
    assert rows[0] != trainer(tmp_path, batch=2).step()


def test_gradients_are_clipped(tmp_path):
    it = trainer(tmp_path, clip_norm=1e-3)
    it.generator.optimizer.step = lambda: None
    it.generator.optimizer.zero_grad = lambda: None
    _, norm = it.generator.update(it._generator_loss)
    clipped = torch.stack([p.grad.norm() for p in it.generator.parameters]).norm()
    assert norm > 1e-3 and clipped == pytest.approx(1e-3, rel=1e-3)


def test_the_average_begins_when_told_and_follows_slowly(tmp_path):
    it = trainer(tmp_path, average=0.9, average_from=2)
    it.step()
    assert it.average is None
    it.step()
    began = {name: value.clone() for name, value in it.average.weights.items()}
    assert all(torch.equal(began[n], p) for n, p in it.networks.generator.named_parameters())
    it.step()
    for name, parameter in it.networks.generator.named_parameters():
        torch.testing.assert_close(it.average.weights[name], 0.9 * began[name] + 0.1 * parameter.detach())


def test_adapters_alone_learn(tmp_path):
    it = trainer(tmp_path, lora=2)
    before = weights(it.networks.generator)
    it.step()
    changed = {n for n, v in it.networks.generator.state_dict().items() if not torch.equal(before[n], v)}
    assert changed and all(".lora_" in name for name in changed)
    assert len(it.generator.parameters) == 2 * 10 * nets.CONFIG.dit.layers


def test_the_critic_comes_to_know_the_generators_clips(tmp_path):
    # The generator stands still, so that the critic's loss at fixed draws can only fall by learning.
    it = trainer(tmp_path, critic_updates=10**6, critic_rate=3e-3, score_shift=5.0)
    it.done = 1
    first = [it._critic_loss(micro).item() for micro in range(100, 108)]
    for _ in range(40):
        it.step()
    it.done = 1
    last = [it._critic_loss(micro).item() for micro in range(100, 108)]
    assert sum(last) < 0.9 * sum(first)


def test_a_run_keeps_its_history_and_writes_its_generator(tmp_path):
    from safetensors.torch import load_file

    lines: list[str] = []
    done = distill(config(tmp_path), lines.append, networks=nets.networks(), prompts=nets.PROMPTS)
    assert [row["step"] for row in done.history] == [1, 2, 3, 4] and not done.interrupted
    stored = load_file(tmp_path / "run" / "generator.safetensors")
    for name, value in done.trainer.average.weights.items():
        assert torch.equal(stored[name], value)
    assert any("critic_loss" in line for line in lines)


def test_a_step_that_diverges_says_so_and_changes_nothing(tmp_path):
    it = trainer(tmp_path)
    before = weights(it.networks.critic)
    with pytest.raises(RuntimeError, match="gradient norm became"):
        it.critic.update(lambda micro: it._critic_loss(micro) * float("nan"))
    assert not moved(before, it.networks.critic)


def test_configurations_print_save_and_load():
    it = distill_preset("wan2.1-t2v-1.3b", out="o")
    assert (it.generator_rate, it.critic_rate, it.beta1, it.beta2) == (2e-6, 4e-7, 0.0, 0.999)
    assert (it.critic_updates, it.guidance, it.average, it.average_from, it.steps) == (5, 3.0, 0.99, 200, 700)
    assert (it.score_shift, it.noise_shift, it.lowest_timestep, it.highest_timestep) == (8.0, 5.0, 20.0, 980.0)
    assert from_dict(DistillConfig, to_dict(it)) == it and "guidance=3.0" in repr(it)
    with pytest.raises(dataclasses.FrozenInstanceError):
        it.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "`steps` must be a whole number of at least 1"),
        ({"critic_updates": 1.5}, "`critic_updates` must be a whole number"),
        ({"batch": True}, "`batch` must be a whole number"),
        ({"generator_rate": 0.0}, "`generator_rate` must be finite and positive"),
        ({"critic_rate": float("nan")}, "`critic_rate` must be finite"),
        ({"guidance": -1.0}, "`guidance` must be finite and at least 0"),
        ({"beta1": 1.0}, r"`beta1` must lie in \[0, 1\)"),
        ({"average": 1.0}, r"`average` must lie in"),
        ({"lowest_timestep": 990.0}, "`lowest_timestep` < `highest_timestep`"),
        ({"score_shift": 0.0}, "`score_shift` must be finite and positive"),
        ({"draw": "rank"}, "`draw` must be one of clips, process"),
        ({"precision": "fp8"}, "`precision` must be one of"),
        ({"device": "cuda:1"}, "`device` must be 'cpu' or None"),
        ({"lora": 0}, "`lora` must be a whole number"),
        ({"fuse": True, "lora": 2}, "`fuse` goes neither with"),
        ({"switch_prompts": "b.txt"}, "`switch_prompts` needs `prompts`"),
    ],
)
def test_bad_configurations_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_prompts_are_any_texts_or_files(tmp_path):
    given = Distillation(config(tmp_path), nets.networks(), ("a fox", ("a cat", "a blue cat")))
    assert given.prompts.pairs == [("a fox", None), ("a cat", "a blue cat")]
    (tmp_path / "a.txt").write_text("a fox\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("a red fox\n", encoding="utf-8")
    files = {"prompts": str(tmp_path / "a.txt"), "switch_prompts": str(tmp_path / "b.txt")}
    assert Distillation(config(tmp_path, **files), nets.networks()).prompts(0) == ("a fox", "a red fox")
    with pytest.raises(ValueError, match="at least one prompt"):
        Distillation(config(tmp_path), nets.networks(), [])


def test_misfits_with_the_networks_are_named(tmp_path):
    with pytest.raises(ValueError, match="multiple of the block size 3, got 10; use 9 or 12"):
        trainer(tmp_path, frames=10)
    with pytest.raises(ValueError, match="`name` must be one of"):
        distill_preset("minature", out="o")
    with pytest.raises(ValueError, match="`guidanse` is not a key"):
        distill_preset("wan2.1-t2v-1.3b", out="o", guidanse=1.0)
    with pytest.raises(FileNotFoundError, match="prompts"):
        Distillation(config(tmp_path, prompts=str(tmp_path / "none.txt")), nets.networks())
    other = dataclasses.replace(nets.CONFIG.dit, text_len=6)
    from studio.model.dit import WanDiT
    from studio.train.networks import Networks

    whole = nets.networks()
    with pytest.raises(ValueError, match="`teacher` must have the generator's `text_len` 5, got 6"):
        Networks(config=whole.config, generator=whole.generator, teacher=WanDiT(other), critic=whole.critic,
                 encode=whole.encode)  # fmt: skip
