"""The decoder in pieces: the same pixels in every way to convolve, and the fastest way is the one that is taken."""

from __future__ import annotations

import importlib.util
import json
import os
import weakref

import pytest
import torch
import torch.nn.functional as F

from studio.model import decoding
from studio.model.tuning import Choices
from studio.model.vae import VideoVAE
from studio.model.vaelayers import enlarged
from tests.model.test_vae import SIZES, build

WAYS = [
    ("volume", "enlarged"),
    ("stacked", "phases"),
    ("padded", "stacked", "phases"),
    ("product", "volume", "phases"),
]


class Fixed(Choices):
    """One way for all convolutions, another for all enlargements."""

    def __init__(self, *ways):
        super().__init__()
        self.ways, self.asked = ways, []

    def known(self, what, among):
        self.asked.append(what)
        return next(way for way in self.ways if way in among)


needs_interpreter = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1 from the start"),
]


def quick(vae, choices=None, **options):
    other = VideoVAE(vae.config).to(next(vae.parameters()).dtype).eval().requires_grad_(False)
    other.load_state_dict(vae.state_dict())
    return other.fuse(choices=choices or Choices(), **{"compiled": False, **options})


@torch.no_grad()
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(
    "ways",
    [("volume", "enlarged"), ("stacked", "phases"), ("padded", "stacked", "phases"), ("product", "volume", "phases")],
)
def test_pixels_are_the_decoders(name, ways):
    vae = build(name).double()
    other = quick(vae, Fixed(*ways))
    latents = torch.randn(2, 12, 4, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    plain, mine = vae.stream(), other.stream()
    for number, chunk in enumerate(latents.split((3, 1, 3, 3, 2), dim=1)):
        cut = number == 2
        torch.testing.assert_close(other.decode(chunk, mine, cut=cut), vae.decode(chunk, plain, cut=cut))
    for one, two in zip(mine.history, plain.history, strict=True):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(other.decode(latents), vae.decode(latents))


@torch.no_grad()
def test_a_stream_goes_from_one_to_the_other_at_any_chunk():
    vae = build()
    other, latents = quick(vae), torch.randn(1, 12, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    alone, stream = vae.stream(), vae.stream()
    for number, chunk in enumerate(latents.split(3, dim=1)):
        fork = stream.clone()
        expected = vae.decode(chunk, alone)
        torch.testing.assert_close((other if number % 2 else vae).decode(chunk, stream), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(vae.decode(chunk, fork), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_with_gradients_the_decoder_itself_decodes(monkeypatch):
    other = quick(build())
    monkeypatch.setattr(other.quick, "_layer", lambda *_: pytest.fail("ran"))
    stream, latents = other.stream(), torch.randn(1, 3, 4, 4, 4)
    other.decode(latents, stream)
    with torch.enable_grad():
        other.decode(latents, stream)


@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (1, 4, 1, 1), (3, 2, 8, 3)])
def test_four_small_kernels_are_the_large_one_over_enlarged_pictures(shape):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape).double(), torch.randn(5, shape[1], 3, 3).double(), torch.randn(5).double()
    expected = F.conv2d(enlarged(x), weight, bias, padding=1)
    kernels = decoding._phases(weight)
    found = decoding._woven(F.conv2d(x, kernels, padding=1), bias, shape[0])[:, :, 0]
    torch.testing.assert_close(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["two halvings of time", "attention at a scale", "short decoder"])
@pytest.mark.parametrize("ways", [("volume", "enlarged"), ("stacked", "phases"), ("product", "stacked", "phases")])
@pytest.mark.parametrize("tuning", [False, True])
@pytest.mark.parametrize("marked", [pytest.param(None, marks=needs_interpreter)])
def test_the_kernel_feeds_what_the_pieces_feed(name, ways, tuning, marked):
    vae = build(name)
    other = quick(vae, Choices(clock=lambda run: (run(), 1.0)[1]) if tuning else Fixed(*ways))
    other.quick.kernels, other.quick.tuning = True, tuning
    latents = torch.randn(2, 8, 4, 3, 4, generator=torch.Generator().manual_seed(0))
    plain, mine = vae.stream(), other.stream()
    for chunk in latents.split((3, 1, 4), dim=1):
        torch.testing.assert_close(other.decode(chunk, mine), vae.decode(chunk, plain), atol=1e-5, rtol=1e-4)
    for one, two in zip(mine.history, plain.history, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert other.quick.kernels
    assert not other.quick.fault


@torch.no_grad()
def test_where_the_kernel_fails_the_pieces_feed(monkeypatch):
    def fails(*given, **options):
        raise KeyError("no such instruction")

    monkeypatch.setattr(decoding.feeding, "can_feed", lambda x: True)
    monkeypatch.setattr(decoding.feeding, "feed", fails)
    vae = build()
    other, latents = quick(vae), torch.randn(1, 6, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    other.quick.kernels = True
    plain, mine = vae.stream(), other.stream()
    for chunk in latents.split(3, dim=1):
        torch.testing.assert_close(other.decode(chunk, mine), vae.decode(chunk, plain), atol=1e-5, rtol=1e-4)
    assert not other.quick.kernels
    assert "no such instruction" in other.quick.fault


@torch.no_grad()
@pytest.mark.parametrize("way", ["volume", "stacked"])
def test_what_was_fed_is_freed_before_it_is_convolved(monkeypatch, way):
    other = quick(build(), Fixed(way, "phases"))
    stream, latents = other.stream(), torch.randn(1, 6, 4, 4, 4)
    other.decode(latents[:, :3], stream)
    real, held, counts = other.quick._fed, [], []

    def fed(total, norm, before, keep, *others):
        held[:] = [weakref.ref(x) for x in total.parts[:2] if x is not None]
        return real(total, norm, before, keep, *others)

    def convolved(conv, *others):
        alive = [one() for one in held if one() is not None]
        counts.append(len(alive))
        return type(other.quick)._convolved(other.quick, conv, *others)

    monkeypatch.setattr(other.quick, "_fed", fed)
    monkeypatch.setattr(other.quick, "_convolved", convolved)
    other.decode(latents[:, 3:], stream)
    # All but the latents, which the caller holds, and sums of one part, which are the skip of what follows.
    assert len(counts) > 8
    assert sum(counts[1:]) <= len(counts) / 3


@torch.no_grad()
def test_the_pieces_can_be_captured_whole(monkeypatch):
    made = []
    real = torch.compile

    def capture(function, **options):
        assert options == {"fullgraph": True, "dynamic": False}

        def backend(graph, inputs):
            made.append(function.__name__)
            return graph.forward

        return real(function, **options, backend=backend)

    monkeypatch.setattr(torch, "compile", capture)
    torch._dynamo.reset()
    vae = build()
    other = quick(vae, Fixed("stacked", "phases"), compiled=True)
    latents = torch.randn(1, 12, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    plain, mine = vae.stream(), other.stream()
    counts = []
    for chunk in latents.split(3, dim=1):
        torch.testing.assert_close(other.decode(chunk, mine), vae.decode(chunk, plain), atol=1e-5, rtol=1e-4)
        counts.append(len(made))
    # However many chunks: what the stream remembers is no reason to compile again.
    assert counts[0] == 0 < counts[1] == counts[-1]
    torch._dynamo.reset()


@torch.no_grad()
def test_the_fastest_way_is_timed_once_and_kept(tmp_path):
    path, timed = tmp_path / "folder" / "fastest.json", []

    def clock(run):
        out = run()
        timed.append(out)
        return float(len(timed) % 2)  # the second of two is the faster

    vae = build()
    other = quick(vae, Choices(path, clock))
    other.quick.tuning = True
    latents, stream = torch.randn(1, 9, 4, 4, 4), other.stream()
    expected = vae.decode(latents, vae.stream())
    parts = [other.decode(chunk, stream) for chunk in latents.split(3, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-5, rtol=1e-4)
    count = len(timed)
    ways = json.loads(path.read_text())
    assert count == sum(len(of) for of in ways.values())
    narrow = {what for what in ways if "->3 " in what}
    assert all(list(of) == sorted(decoding.NARROW if what in narrow else of) for what, of in ways.items())
    assert narrow
    fresh = Choices(path, lambda run: pytest.fail("timed again"))
    assert all(fresh.known(what, ("volume", "stacked")) in (None, "stacked") for what in fresh.timings)
    again = quick(vae, fresh)
    again.quick.tuning = True
    again.decode(latents, again.stream())
    stream = again.stream()
    again.decode(latents[:, :3], stream)
    torch.testing.assert_close(again.decode(latents[:, 3:6], stream), expected[:, 9:21], atol=1e-5, rtol=1e-4)


def test_choices_of_ways_that_fail_and_of_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "fastest.json"
    path.write_text("{broken")

    def fails():
        raise RuntimeError("no kernel for it")

    choices = Choices(path, lambda run: (run(), 1.0)[1])
    assert choices.choose("one", {"a": fails, "b": lambda: None}) == "b"
    assert choices.choose("two", {"a": fails, "b": fails}) == "a"
    assert Choices(path).known("one", ("a", "b")) == "b"
    assert Choices(path).known("one", ("a",)) is None
    assert Choices(path).known("three", ("a",)) is None
    (tmp_path / "file").write_text("")
    nowhere = Choices(tmp_path / "file" / "fastest.json", lambda run: 1.0)
    assert nowhere.choose("one", {"a": lambda: None}) == "a"
    path.write_text('{"one": 3}')
    assert Choices(path).known("one", ("a",)) is None
    path.write_text('{"one": {"a": "slow", "b": null}}')
    assert Choices(path).known("one", ("a", "b")) is None
    for other in ("[]", "3", "null"):
        path.write_text(other)
        assert Choices(path, lambda run: 1.0).choose("one", {"a": lambda: None}) == "a"
        assert Choices(path).known("one", ("a",)) == "a"


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 3000, 20_000, 10**9])
@pytest.mark.parametrize("ways", WAYS)
def test_groups_of_frames_give_the_pixels_of_all_together(ways, most):
    vae = build()
    whole, grouped = quick(vae, Fixed(*ways)), quick(vae, Fixed(*ways))
    grouped.quick.most = most
    latents, streams = torch.randn(1, 9, 4, 3, 4), (whole.stream(), grouped.stream())
    for part in latents.split((1, 3, 4, 1), dim=1):
        mine, other = (each.decode(part, stream) for each, stream in zip((whole, grouped), streams, strict=True))
        torch.testing.assert_close(other, mine, atol=2e-5, rtol=1e-4)
    for one, two in zip(*(stream.history for stream in streams), strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(two, one, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_groups_hold_no_more_than_they_may(monkeypatch):
    vae, seen = quick(build(), Fixed(*WAYS[0])), []
    enlarge = decoding.QuickDecoder._enlarge

    def noted(self, conv, frames, batch, way):
        made = enlarge(self, conv, frames, batch, way)
        seen.append((made.numel() * made.element_size(), made.shape[2]))
        return made

    monkeypatch.setattr(decoding.QuickDecoder, "_enlarge", noted)
    stream = vae.stream()
    vae.decode(torch.randn(1, 1, 4, 3, 4), stream)
    vae.decode(torch.randn(1, 4, 4, 3, 4), stream)
    large = max(size for size, _ in seen)
    seen.clear()
    vae.quick.most = large // 2
    vae.decode(torch.randn(1, 4, 4, 3, 4), stream)
    assert len(seen) > 2
    assert all(size <= large // 2 or frames <= 2 for size, frames in seen)
