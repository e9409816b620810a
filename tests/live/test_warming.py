"""Warm-up: every part is run, told and left as if it had not been."""

from __future__ import annotations

import pytest
import torch

import studio
from studio.config import CacheConfig
from studio.live.warming import warm_up
from studio.model.blank import blank_models
from studio.model.fused import Fused
from studio.model.tuning import Choices
from tests.live.doubles import tiny_config


@pytest.mark.parametrize("cache", [{}, {"positions": "absolute"}, {"sink": 0, "window": None, "attend": 6}])
def test_every_part_is_run_and_told(cache):
    models, told = blank_models(tiny_config(**cache)), []
    seconds = warm_up(models, lambda what, share: told.append((what, share)))
    assert list(seconds) == ["text", "block", "recache", "decoder"]
    assert all(second > 0 for second in seconds.values())
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] == 0 and told[-1] == ("warm", 1.0)


def test_what_was_met_is_all_that_is_made(monkeypatch):
    made = []
    monkeypatch.setattr(
        "studio.model.fused._compiled", lambda piece: lambda *given: made.append(piece) or piece(*given)
    )
    models = blank_models(tiny_config())
    models.dit.fuse()
    models.vae.fuse(compiled=False, choices=Choices())
    warm_up(models)
    assert models.dit.fused.settled
    assert {tokens for _, tokens, _, _ in models.dit.fused._shapes} == {3 * 6, 9 * 6}
    assert not models.vae.quick.tuning
    assert {what.split(" of ")[0].split(", ")[-1] for what in models.vae.quick._choices.timings}
    count = len(made)
    with studio.open(models, prompt="a red fox") as session:
        # Networks that are opened again warm up again: shapes that are known cost nothing.
        frames = session.frames()
        next(frames)
        session.switch("a blue rabbit")
        for _ in range(3):
            next(frames)
    assert len(made) > count
    assert {tokens for _, tokens, _, _ in models.dit.fused._shapes} == {3 * 6, 9 * 6}


def test_opening_warms_up_what_is_compiled_and_says_so(monkeypatch):
    models, told = blank_models(tiny_config()), []
    with studio.open(models, progress=lambda what, share: told.append(what)):
        assert told == []
    monkeypatch.setattr("studio.model.fused._compiled", lambda piece: piece)
    models.dit.fuse()
    with studio.open(models, progress=lambda what, share: told.append(what)) as session:
        assert told == ["reading a prompt", "making a block", "recaching", "decoding", "warm"]
        assert next(iter(session.frames())).std() > 0


def test_a_warm_model_makes_the_same_video():
    films = []
    for warm in (False, True):
        models = blank_models(tiny_config())
        if warm:
            warm_up(models)
        with studio.open(models, prompt="a red fox", seed=3) as session:
            frames = session.frames()
            films.append(torch.from_numpy(next(frames).copy()))
    assert torch.equal(*films)


def test_the_cache_without_a_window_has_room():
    config = CacheConfig(sink=0, window=None)
    models = blank_models(tiny_config(sink=config.sink, window=config.window))
    assert warm_up(models)["recache"] > 0
    assert isinstance(models.dit.fuse(compiled=False).fused, Fused)
