"""What only a GPU does in a training, as far as a processor can tell: copies, mixed precision and compilers."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from studio.model.attention import _flexes
from studio.train.distillation import Distillation, DistillConfig
from studio.train.longtune import LongTuneConfig, LongTuning
from studio.train.runtime import Compiled, sent
from studio.train.snapshots import load_snapshot, save_snapshot
from tests.train import nets

FIELDS = {"generator": "tiny", "teacher": "tiny", "frames": 6, "batch": 2, "critic_updates": 2, "device": "cpu"}


@pytest.mark.parametrize(
    "tensor",
    [torch.arange(3.0)[:, None].expand(3, 4), torch.arange(6)[::2], torch.randn(2, 3).T, torch.tensor(5.0)],
)
def test_whatever_is_sent_is_pinned_with_a_place_for_every_element(monkeypatch, tensor):
    class Pinned:
        def __init__(self, dense: Tensor) -> None:
            self.dense = dense

        def to(self, device: torch.device, non_blocking: bool = False) -> Tensor:
            assert device == torch.device("cuda") and non_blocking
            return self.dense

    def pin(self: Tensor) -> Pinned:
        if not self.is_contiguous():
            raise RuntimeError("more than one element of the written-to tensor refers to a single memory location")
        return Pinned(self)

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    assert torch.equal(sent(tensor, torch.device("cuda")), tensor)
    assert sent(tensor, torch.device("cpu")) is tensor


@pytest.mark.parametrize(
    ("device", "head_dim", "asking", "serves"),
    [("cuda", 64, 1344, True), ("cuda", 16, 128, True), ("cuda", 12, 1344, False), ("cuda", 64, 36, False),
     ("cpu", 64, 1344, False)],
)  # fmt: skip
def test_blocks_are_left_out_where_heads_are_wide_and_clips_long_enough(device, head_dim, asking, serves):
    assert _flexes(device, head_dim, asking) is serves


def test_prompts_are_read_in_full_precision_whoever_asks(tmp_path):
    it = Distillation(DistillConfig(out=str(tmp_path), precision="bf16", **FIELDS), nets.reading(), nets.PROMPTS)
    outside = it.encoded(0)
    with it.autocast():
        inside = it.encoded(0)
    for one, other in zip(inside, outside, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


@pytest.mark.parametrize("options", [{}, {"lora": 2, "recompute": True, "accumulate": 2, "draw": "process"}])
def test_a_video_in_mixed_precision_goes_on_bit_for_bit(tmp_path, options):
    def trainer() -> LongTuning:
        fields = {**FIELDS, "lora": None, "recompute": False, "new_frames": 3, "max_length": 18, **options}
        return LongTuning(LongTuneConfig(out=str(tmp_path), precision="bf16", **fields), nets.reading(), nets.PROMPTS)

    whole, first, resumed = trainer(), trainer(), trainer()
    rows = [whole.step() for _ in range(4)]
    assert [first.step() for _ in range(2)] == rows[:2]
    load_snapshot(resumed, save_snapshot(first, tmp_path / "checkpoints", []))
    assert [resumed.step() for _ in range(2)] == rows[2:]


def test_every_training_of_a_process_is_compiled_however_many_there_were(tmp_path, monkeypatch):
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counting))
    monkeypatch.setattr("studio.train.trainer.compiled", lambda network, device, fast: Compiled(network, True))
    it = Distillation(DistillConfig(out=str(tmp_path), **FIELDS), nets.networks(), nets.PROMPTS)
    trainings = torch._dynamo.config.recompile_limit + 2
    for frames in range(1, trainings + 1):
        x, text = torch.randn(1, frames, 4, 4, 6), torch.randn(1, 5, 12)
        network = it.fast(it.networks.critic)
        network(x, torch.full((1,), 500.0), text)
        assert (network.mode, len(graphs)) == ("compiled", frames)
