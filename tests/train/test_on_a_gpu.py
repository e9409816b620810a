"""Every recipe on a GPU, a few steps each, in every way that a GPU alone takes; the same steps on a processor first.

Tiny networks, but with heads wide enough and clips long enough for FlexAttention. A run of two steps makes a preview,
a checkpoint and a model; a second one goes on from there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.config import CacheConfig
from studio.model.attention import TeacherForcedContext
from studio.model.vae import VideoVAE
from studio.model.weights import load
from studio.shapes import VideoShape
from studio.train import distill, initialise, long_tune, pretrain
from studio.train.clips import ClipList
from studio.train.networks import Networks, TaughtNetworks, TrainedNetworks
from studio.train.running import Run
from studio.train.runtime import Compiled
from studio.train.trainer import Trainer
from tests.train import nets

CONFIG = dataclasses.replace(
    nets.CONFIG, height=16, width=24, dit=dataclasses.replace(nets.CONFIG.dit, dim=64, ffn_dim=96, heads=2)
)
TRAININGS = {"pretrain": pretrain, "initialise": initialise, "distill": distill, "long_tune": long_tune}
FRAMES = 6
OWN: dict[str, dict[str, Any]] = {
    "pretrain": {"pool": 4, "solver_steps": 2},
    "initialise": {"teacher": "tiny", "solver_steps": 3, "guidance": 1.0},
    "distill": {"teacher": "tiny", "critic_updates": 2},
    "long_tune": {"teacher": "tiny", "critic_updates": 2, "new_frames": 3, "max_length": 15},
}
WAYS: dict[str, dict[str, Any]] = {
    "float32": {"draw": "clips", "average": None},
    "mixed": {"precision": "bf16", "draw": "process", "accumulate": 2},
    "recomputed": {"precision": "bf16", "recompute": True},
    "adapters": {"precision": "bf16", "lora": 4},
    "adapters, recomputed": {"precision": "bf16", "lora": 4, "recompute": True, "accumulate": 2},
    "compiled": {"precision": "bf16", "compile": True},
    "compiled adapters": {"precision": "bf16", "compile": True, "lora": 4},
    "compiled, fused": {"precision": "bf16", "compile": True, "fuse": True},
    "fused, recomputed": {"precision": "bf16", "recompute": True, "fuse": True},
    "fused in float32": {"fuse": True},
}


def networks(recipe: str) -> TrainedNetworks:
    """Random networks of a recipe, always the same."""
    network = functools.partial(nets.dit, config=CONFIG, spread=0.05)
    torch.manual_seed(9)
    text, vae = nets.reader(CONFIG), VideoVAE(CONFIG.vae)
    parts: dict[str, Any] = {"config": CONFIG, "generator": network(0), "encode": text.encode, "vae": vae, "text": text}
    if recipe == "pretrain":
        return TrainedNetworks(**parts)
    if recipe == "initialise":
        return TaughtNetworks(**parts, teacher=network(1))
    return Networks(**parts, teacher=network(1), critic=network(1))


def trained(recipe: str, folder: Path, device: str | None, steps: int, wait: bool = True, **options: Any) -> Run:
    """A run to its end, from the folder's newest checkpoint on."""
    fields = {"out": str(folder), "generator": "tiny", "frames": FRAMES, "batch": 2, "recompute": False, "lora": None,
              "average": 0.5, "average_from": 1, "device": device, **OWN[recipe], **options}  # fmt: skip
    data: dict[str, Any] = {"prompts": nets.PROMPTS}
    if recipe == "pretrain":
        frames = VideoShape.of(CONFIG).frames_of(FRAMES)
        pixels = torch.rand(4, frames, 3, CONFIG.height, CONFIG.width, generator=torch.Generator().manual_seed(3))
        data = {"clips": ClipList(pixels * 2 - 1, ["a fox", "a red fox", "a cat", "a red cat"])}
    training = TRAININGS[recipe]
    config = training.config(**{**fields, "steps": steps, "preview_every": 2, "export": True})
    return training(config, networks=networks(recipe), wait=wait, show=False, **data).wait()


def losses(run: Run) -> list[float]:
    return [value for row in run.history for name, value in row.items() if name.endswith(("_loss", "_norm"))]


def compiled(trainer: Trainer) -> list[Compiled]:
    held = [*vars(trainer).values(), *getattr(trainer, "judging", {}).values()]
    return [one for one in held if isinstance(one, Compiled)]


def check(recipe: str, folder: Path, device: str | None, **options: Any) -> Run:
    """Two steps, and two more from the checkpoint."""
    first = trained(recipe, folder, device, 2, **options)
    second = trained(recipe, folder, device, 4, **options)
    rows = [{name: value for name, value in row.items() if name != "gib"} for row in second.history[:2]]
    assert rows == [{name: value for name, value in row.items() if name != "gib"} for row in first.history]
    assert len(second.history) == 4 and all(map(math.isfinite, losses(second)))
    old, new = first.networks.generator.state_dict(), second.networks.generator.state_dict()
    assert any(not torch.equal(value, old[name]) for name, value in new.items())
    if recipe != "pretrain":  # whose model makes whole clips
        assert load(folder / "model").config.causal
    return second


@pytest.mark.parametrize("recipe", TRAININGS)
def test_on_a_processor(tmp_path, recipe):
    run = check(recipe, tmp_path, "cpu", precision="bf16", lora=4, recompute=True)
    assert run.trainer.device.type == "cpu"


@pytest.fixture
def fresh(monkeypatch) -> None:
    """Whatever accelerate keeps of the trainings before, which stay on the processor."""
    from accelerate.state import AcceleratorState, PartialState

    for state in (AcceleratorState, PartialState):
        monkeypatch.setattr(state, "_shared_state", {})


@pytest.mark.gpu
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("recipe", TRAININGS)
def test_on_a_gpu(tmp_path, recipe, way):
    options = dict(WAYS[way])
    if recipe in ("pretrain", "initialise") and options.pop("fuse", False):
        pytest.skip("nothing to fuse: there are no rollouts")
    run = check(recipe, tmp_path, None, **options)
    trainer = run.trainer
    assert trainer.device.type == "cuda" and all(p.is_cuda for p in trainer.networks.generator.parameters())
    for one in compiled(trainer):
        assert (one.mode, one.error) == ("compiled" if options.get("compile") else "eager", "")
    assert (trainer.networks.generator.fused is not None) is bool(options.get("fuse"))


@pytest.mark.gpu
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("recipe", TRAININGS)
def test_the_first_step_is_that_of_a_processor(tmp_path, recipe):
    """Randomness by clips knows no devices; what is left is rounding, that of TF32 included."""
    there = trained(recipe, tmp_path / "gpu", None, 1)
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    here = trained(recipe, tmp_path / "cpu", "cpu", 1)
    for name, value in here.history[0].items():
        if name.endswith("_loss"):
            assert there.history[0][name] == pytest.approx(value, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [16, 24, 64])
def test_attention_that_leaves_blocks_out_is_that_of_a_mask(head_dim, kind):
    """The pocket model's heads have 24 channels, the miniature's 64."""
    sizes: dict[str, Any] = {"frames": 6, "block": 3, "grid": (4, 8), "head_dim": head_dim, "device": "cuda"}
    flexible, masked = (TeacherForcedContext(CacheConfig(sink=3, window=3), **sizes, flex=f) for f in (True, False))
    q, k, v = (torch.randn(2, 2 * 6 * 32, 2, head_dim, device="cuda", dtype=kind) for _ in range(3))
    found = []
    for context in (flexible, masked):
        parts = [x.clone().requires_grad_() for x in (q, k, v)]
        out = context.attend(0, *parts)
        found.append((out, *torch.autograd.grad(out.float().square().sum(), parts)))
    for one, other in zip(*found, strict=True):
        assert (one.float() - other.float()).norm() < 0.05 * other.float().norm()


@pytest.mark.gpu
@pytest.mark.usefixtures("fresh")
def test_in_the_background_on_a_gpu(tmp_path):
    run = trained("distill", tmp_path, None, 3, wait=False, **WAYS["compiled, fused"])
    assert run.state == "finished" and len(run.history) == 3 and all(map(math.isfinite, losses(run)))


@pytest.mark.gpu
@pytest.mark.usefixtures("fresh")
def test_moments_of_eight_bits_on_a_gpu(tmp_path):
    pytest.importorskip("bitsandbytes")
    check("distill", tmp_path, None, precision="bf16", optimizer="adamw8bit")
