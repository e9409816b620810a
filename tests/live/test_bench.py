"""What the benchmark compares and counts: errors of fast paths, operations of a block, the page of records."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from studio.config import preset
from studio.live.accuracy import accuracy, relative_error
from studio.live.records import UNITS, keep_records, read_records, records_of
from studio.live.roofline import block_flops, decode_flops, matrix_product_flops, recache_flops
from studio.model.backends import Backend, use_backend
from studio.model.blank import blank_models
from studio.model.replay import Replays
from studio.model.tuning import Choices
from studio.sampler import BlockPlan, NoiseSource, make_cache, rollout
from studio.shapes import VideoShape
from tests.live.doubles import tiny_config
from tests.model.test_replay import Tape

DOCS = Path(__file__).resolve().parents[2] / "docs"


def pages():
    spec = importlib.util.spec_from_file_location("benchmarks_page", DOCS / "benchmarks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("cache", [{}, {"positions": "absolute"}, {"sink": 0, "window": None, "attend": 6}])
def test_the_same_path_has_no_error(cache):
    found = accuracy(blank_models(tiny_config(**cache)), blank_models(tiny_config(**cache)))
    assert found == {
        "latents_error": 0.0, "commit_error": 0.0, "recache_error": 0.0, "decode_psnr_db": float("inf")
    }  # fmt: skip


def test_a_fast_path_has_small_errors_and_a_wrong_one_large_ones():
    exact, quick, wrong = (blank_models(tiny_config()) for _ in range(3))
    quick.dit.fuse(compiled=False)
    tape = Tape()
    quick.dit.replays = Replays(quick.dit._run, quick.dit, tape)
    quick.vae.fuse(compiled=False, choices=Choices())
    found = accuracy(quick, exact)
    assert tape.repeats > 0
    assert all(found[name] < 1e-4 for name in ("latents_error", "commit_error", "recache_error"))
    assert found["decode_psnr_db"] > 80
    with torch.no_grad():
        for block in wrong.dit.blocks:
            block.self_attn.v.weight.mul_(1.5)
        wrong.vae.decoder.conv1.weight.mul_(1.5)
    found = accuracy(wrong, exact)
    assert all(found[name] > 1e-2 for name in ("commit_error", "recache_error"))
    assert found["decode_psnr_db"] < 80


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_few_bits_are_seen(quantization):
    found = accuracy(blank_models(tiny_config(), quantization=quantization), blank_models(tiny_config()))
    assert all(0 < found[name] < 0.3 for name in ("latents_error", "commit_error", "recache_error"))


def test_relative_error():
    exact = torch.tensor([3.0, 4.0])
    assert relative_error(exact.bfloat16(), exact) == 0
    assert relative_error(torch.tensor([3.0, 4.5]), exact) == pytest.approx(0.1)


def products(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2)


@torch.no_grad()
def test_operations_of_a_block_are_those_that_are_counted_while_it_is_made():
    config = tiny_config()
    models, shape = blank_models(config), VideoShape.of(config)
    # Written out, because the counter does not know every kernel of attention.
    use_backend(models.dit, Backend(name="products", kernel=products))
    cache = make_cache(config)
    noise = NoiseSource(0, shape.latents(1, shape.block))
    text = models.text.encode(["a red fox"])
    plan = [BlockPlan(text=text)] * 6
    blocks = rollout(models.dit, cache, plan, noise, config.sampler)
    for _ in range(4):
        next(blocks)
    with FlopCounterMode(display=False) as counter:
        next(blocks)
    counted = counter.get_total_flops()
    with FlopCounterMode(display=False) as time:
        models.dit.embed_time(torch.zeros(1, shape.block))
    passes = len(config.sampler.steps) + 1
    assert block_flops(config) == counted - passes * time.get_total_flops()
    assert recache_flops(config) > block_flops(config) / 3


def test_operations_of_the_large_model_are_those_of_the_paper_sizes():
    config = preset("longlive-1.3b")
    assert block_flops(config) == pytest.approx(141e12, rel=0.01)
    assert recache_flops(config) == pytest.approx(111e12, rel=0.02)
    assert decode_flops(config) == pytest.approx(40.7e12, rel=0.02)


def test_a_matrix_product_is_timed():
    assert matrix_product_flops(torch.device("cpu"), torch.float32) > 1e8


FIGURES = {
    "denoise_fps": 12.5, "peak_memory_gib": 1.5, "watching_share": None, "model": "miniature", "quantization": "none",
    "dtype": "float32", "attention": "pytorch", "compiled": False, "recorded": "no", "hardware": "CPU, 2 threads",
    "versions": {"studio": "1", "torch": "2"},
}  # fmt: skip


def test_records_say_what_where_and_when(tmp_path):
    found = records_of(FIGURES, "studio bench", "2026-01-31")
    assert [record["name"] for record in found] == ["denoise_fps", "peak_memory_gib"]
    assert found[0]["unit"] == "frames/s" and found[0]["date"] == "2026-01-31"
    assert found[0]["setting"]["dtype"] == "float32"
    file = tmp_path / "deep" / "benchmarks.json"
    keep_records(file, found)
    keep_records(file, records_of({**FIGURES, "denoise_fps": 13.0}, "studio bench --blocks 99", "2026-02-01"))
    keep_records(file, records_of({**FIGURES, "compiled": True}, "studio bench --compiled", "2026-02-01"))
    kept = read_records(file)
    assert [(record["name"], record["value"]) for record in kept] == [
        ("denoise_fps", 13.0), ("peak_memory_gib", 1.5), ("denoise_fps", 12.5), ("peak_memory_gib", 1.5)
    ]  # fmt: skip


def test_the_page_shows_every_record():
    found = records_of(FIGURES, "studio bench", "2026-01-31")
    found += records_of(
        {**FIGURES, "quantization": "fp8", "compiled": True, "recorded": "yes"}, "studio bench --q", "x"
    )
    found += [{**found[0], "name": "tokens", "value": 3, "unit": "1", "setting": {"model": "other"}}]
    page = pages().page(found)
    assert "## miniature" in page and "## other" in page
    assert "| denoise_fps (frames/s) | 12.5 | 12.5 |" in page
    assert "| | float32, pytorch | fp8, pytorch, compiled, CUDA graphs |" in page
    assert "| tokens (1) | 3 |" in page
    assert "`studio bench --q`" in page


def test_the_page_is_made_of_the_records():
    kept = read_records(DOCS / "benchmarks.json")
    if kept:
        assert {record["name"] for record in kept} & set(UNITS)
        assert (DOCS / "benchmarks.md").read_text(encoding="utf-8") == pages().page(kept)
