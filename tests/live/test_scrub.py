"""Scrubbing: every frame that was made stays, in memory as it is, compressed, or on disk."""

from __future__ import annotations

import gc
import itertools
import threading

import numpy as np
import pytest
import torch

from studio.events import DecodedBlock
from studio.live import Session, replay
from studio.live.archive import Archive, compress, expand
from studio.live.vault import KeptTensor, Reel, Vault
from studio.timeline import Timeline

pytestmark = pytest.mark.usefixtures("one_thread")

FOX = "a red fox runs"


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """As good as a JPEG of high quality keeps noise."""
    return one.shape == other.shape and np.abs(one.astype(int) - other).mean() < 4


def test_any_frame_comes_back_from_memory_archive_or_disk(models):
    with Session(models, timeline=Timeline.of(FOX, length=12)) as session:
        core = session._core
        core.take.ring.budget = core.take.ring.least = 0
        core.take.ring.least = 2
        core.vault.budget = 2000
        made = list(session.frames())
        core.archive.wait(0)
        assert core.vault.folder is not None and any(core.vault.folder.iterdir())
        assert core.vault.memory <= 2000 + 12 * 16 * 24 * 3
        film = np.concatenate(made)
        assert near(session.clip(0, len(film)), film)
        assert np.array_equal(session.frame(len(film) - 1), film[-1])
        assert near(session.frame(3), film[3])
        assert not session.frame(3).flags.writeable
        assert [session.block(i).first_frame for i in range(12)] == [0, *range(9, 9 + 11 * 12, 12)]
        assert [block.index for block in (session.block(0), session.block(11))] == [0, 11]
        assert session.block(12) is None
        latents = session.latents
        assert replay(session.log, models).same
        session.fork(6, seed=4)
        assert near(session.frame(30), film[30])
        assert session.block(2).take == session.take
        assert all(torch.equal(a, b) for a, b in zip(session.latents, latents[:6], strict=True))
        folder = core.vault.folder
    assert not folder.exists()


def test_loops_run_for_ever_in_both_directions(models):
    with Session(models, timeline=Timeline.of(FOX, length=2)) as session:
        film = np.concatenate(list(session.frames()))
        for step, expected in ((1, [4, 5, 6, 4, 5]), (-1, [6, 5, 4, 6, 5]), (2, [4, 6, 5, 4, 6])):
            frames = list(itertools.islice(session.loop(4, 7, step=step), 5))
            assert all(np.array_equal(frame, film[i]) for frame, i in zip(frames, expected, strict=True))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda s: s.frame(-1), "from 0 to 8"),
        (lambda s: s.frame(9), "9 frames were made"),
        (lambda s: s.frame(1.5), "got 1.5"),
        (lambda s: s.clip(3, 3), "`stop`"),
        (lambda s: s.clip(3, 10), "`stop`"),
        (lambda s: s.clip(9, 10), "`start`"),
        (lambda s: s.loop(3, 2), "`stop`"),
        (lambda s: s.loop(3, 5, step=0), "must not be 0"),
        (lambda s: s.frames(start=-1), "`start`"),
    ],
)
def test_frames_that_are_not_there(models, act, words):
    with Session(models, timeline=Timeline.of(FOX, length=1)) as session:
        with pytest.raises(ValueError, match="no frame was made yet"):
            session.frame(0)
        list(session.frames())
        with pytest.raises(ValueError, match=words):
            act(session)


def test_a_vault_keeps_to_its_budget_and_leaves_nothing(tmp_path):
    vault = Vault(budget=1000)
    held = [vault.keep(bytes([i]) * 400) for i in range(6)]
    assert [kept.in_memory for kept in held] == [False] * 4 + [True] * 2
    assert [kept.get() for kept in held] == [bytes([i]) * 400 for i in range(6)]
    folder = vault.folder
    assert folder is not None and len(list(folder.iterdir())) == 4
    del held[0]
    gc.collect()
    assert len(list(folder.iterdir())) == 3
    vault.close()
    assert not folder.exists()
    vault.keep(b"later")  # harmless


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_come_back_bit_for_bit(dtype):
    vault = Vault(budget=0)
    tensors = [torch.randn(1, 3, 2, 4, 5).to(dtype) for _ in range(3)]
    reel = Reel([KeptTensor(vault, tensor) for tensor in tensors])
    assert len(reel) == 3
    for ours, theirs in zip(reel, tensors, strict=True):
        assert ours.dtype == dtype and torch.equal(ours, theirs)
    assert torch.equal(reel[1:][0], tensors[1])
    reel[0].add_(1)  # a copy, so that what is kept stays as it is
    assert torch.equal(reel[0], tensors[0])
    vault.close()


def test_compression_keeps_a_picture():
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    frames = np.broadcast_to(ramp[None, None, :, None], (3, 16, 32, 3)).copy()
    frames[1] = 200
    back = expand(compress(frames))
    assert back.shape == frames.shape and np.abs(back.astype(int) - frames).max() <= 4
    assert not back.flags.writeable


def test_an_archive_gives_blocks_back_while_it_works(monkeypatch):
    import studio.live.archive as module

    go = threading.Event()
    slow = module.compress
    monkeypatch.setattr(module, "compress", lambda frames: (go.wait(60), slow(frames))[1])
    vault = Vault()
    archive = Archive(vault)
    frames = np.full((2, 16, 16, 3), 100, np.uint8)
    packed = archive.pack([DecodedBlock(index=0, first_frame=0, frames=frames, prompt=FOX, segment=0)])[0]
    assert packed.get().frames is frames
    go.set()
    archive.wait(0)
    assert packed.get().frames is not frames
    assert near(packed.get().frames, frames)
    archive.close()
    vault.close()
