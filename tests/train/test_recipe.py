"""The whole recipe by its commands, at the smallest size: each training begins with what the one before it wrote."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch

from studio.model.weights import load, save
from studio.train.__main__ import main
from studio.train.kinship import check_kin
from studio.train.networks import open_transformer
from tests.model.tiny import tiny_models

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"^(?:accelerate launch .*?|python )-m studio\.train (.+)$", re.M)


def commands() -> list[str]:
    """What docs/training.md tells to type behind `-m studio.train`."""
    return COMMAND.findall((ROOT / "docs" / "training.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_documentation_is_understood(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    if "config.json" in words:
        main([words[0], "--preset", "miniature", "--out", "o", "--teacher", "t", "--print"]).save("config.json")
    mine = main([*words, "--print"])
    assert mine.out and (mine.compile or mine.recompute)


def test_the_recipe_of_the_documentation_is_a_chain():
    told = [command for command in commands() if "--preset miniature" in command and "--print" not in command]
    assert [command.split()[0] for command in told] == ["pretrain", "initialise", "distill", "long_tune"]
    out = [re.search(r"--out (\S+)", command)[1] for command in told]
    assert all(f"{before}/model" in command for before, command in zip(out, told[1:], strict=False))


def test_the_recipe_runs_from_end_to_end(tmp_path):
    models = tiny_models()
    cache = dataclasses.replace(models.config.cache, sink=3, window=3)
    save(dataclasses.replace(models, config=dataclasses.replace(models.config, cache=cache)), tmp_path / "start")
    common = shlex.split(
        "--preset miniature --device cpu --precision no --no-compile --steps 2 --batch 1 --frames 6 --average-from 0 "
        "--save-every 1"
    )
    teacher, runs = str(tmp_path / "teacher" / "model"), {}
    for recipe, *more in (
        ("pretrain", "--generator", "start", "--pool", "2", "--chunk", "1", "--out", "teacher"),
        ("initialise", "--generator", "teacher/model", "--teacher", teacher, "--solver-steps", "2", "--out", "first"),
        ("distill", "--generator", "first/model", "--teacher", teacher, "--out", "second", "--critic-updates", "2"),
        ("long_tune", "--generator", "second/model", "--teacher", teacher, "--out", "third", "--new-frames", "3",
         "--max-length", "15", "--critic-updates", "2"),
    ):  # fmt: skip
        placed = [str(tmp_path / word) if before in ("--generator", "--out") else word
                  for before, word in zip(["", *more], more, strict=False)]  # fmt: skip
        # A leg that has no time left says so and leaves a checkpoint to go on from.
        assert main([recipe, *common, *placed, "--seconds", "1e-9"]).state == "stopped"
        runs[recipe] = main([recipe, *common, *placed, "--seconds", "600"])
        assert runs[recipe].state == "finished" and len(runs[recipe].history) == 2
    assert [load(tmp_path / name / "model").config.causal for name in ("teacher", "first", "second", "third")] == [
        False, True, True, True]  # fmt: skip
    # Text encoder and VAE are the ones it began with.
    begun, ended = load(tmp_path / "start"), load(tmp_path / "third" / "model")
    for part in ("text", "vae"):
        pairs = zip(*(getattr(one, part).parameters() for one in (begun, ended)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def kin(tmp_path):
    """A student, and its teacher in the other half precision."""
    models = tiny_models()
    save(models, tmp_path / "student")
    save(dataclasses.replace(models, config=dataclasses.replace(models.config, causal=False)), tmp_path / "teacher",
         torch.bfloat16)  # fmt: skip
    return tmp_path


def spoilt(kin: Path, change) -> str:
    models = load(kin / "teacher")
    change(models)
    save(models, kin / "other")
    return str(kin / "other")


def louder(network: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5).add_(0.1)


def test_a_teacher_of_the_same_text_and_latents_is_welcome(kin):
    check_kin(str(kin / "student"), str(kin / "teacher"))
    check_kin("miniature", "miniature")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda models: louder(models.text), r"must have the text encoder of `generator` .* \(.+ differs\); teach one"),
        (lambda models: louder(models.vae), "must have the VAE of `generator`"),
        (lambda models: setattr(models.text.tokenizer, "words", ("a", "fox", "blue", "runs")), "its tokenizer differs"),
    ],
)
def test_a_teacher_of_other_text_or_latents_is_refused(kin, change, message):
    with pytest.raises(ValueError, match=message):
        check_kin(str(kin / "student"), spoilt(kin, change))


def test_other_statistics_of_the_latents_are_refused(kin):
    models = load(kin / "teacher")
    vae = dataclasses.replace(models.config.vae, std=(3.0,) * 4)
    save(dataclasses.replace(models, config=dataclasses.replace(models.config, vae=vae)), kin / "other")
    with pytest.raises(ValueError, match="the statistics of its latents differs"):
        check_kin(str(kin / "student"), str(kin / "other"))


def test_a_training_looks_before_it_loads(kin, monkeypatch):
    other = spoilt(kin, lambda models: louder(models.text))
    monkeypatch.setattr("studio.train.networks.open_transformer", lambda *_: pytest.fail("loaded"))
    for recipe in ("initialise", "distill", "long_tune"):
        with pytest.raises(ValueError, match="must have the text encoder"):
            main([recipe, "--generator", str(kin / "student"), "--teacher", other, "--out", str(kin / "run"),
                  "--device", "cpu"])  # fmt: skip
    assert open_transformer(str(kin / "teacher")).config.layers == 2


def test_the_pocket_model_is_known_by_name(tmp_path):
    from studio.train.initialisation import initialise_preset
    from studio.train.networks import open_generator, open_teacher, pocket_models

    mine, named = pocket_models(), open_generator("pocket")
    assert all(torch.equal(a, b) for a, b in zip(mine.dit.parameters(), named.dit.parameters(), strict=True))
    whole = dataclasses.replace(mine, config=dataclasses.replace(mine.config, causal=False))
    save(whole, tmp_path / "teacher")
    config = initialise_preset("pocket", out="o", teacher=str(tmp_path / "teacher"))
    assert open_teacher(config).config == mine.dit.config
    with torch.no_grad():
        next(whole.text.parameters()).add_(1.0)
    save(whole, tmp_path / "teacher")
    with pytest.raises(ValueError, match="text encoder of `generator` 'pocket', got another"):
        open_teacher(config)


def test_a_generator_of_whole_clips_is_refused_before_it_is_loaded(kin, monkeypatch):
    from studio.train.distillation import distill_preset
    from studio.train.networks import open_networks

    monkeypatch.setattr("studio.train.networks.load", lambda *args: pytest.fail("it was loaded"))
    config = distill_preset("pocket", out="o", teacher=str(kin / "teacher"), generator=str(kin / "teacher"))
    with pytest.raises(ValueError, match=r"`generator` must be a causal model, got .*studio.train.initialise"):
        open_networks(config)
