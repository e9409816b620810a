"""Start from a picture or a clip: read, encoded, and gone on from, the same again from the log alone."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from studio.live import Session, TakeLog, replay
from studio.live.export import Film
from studio.live.starting import encode_blocks, read_pictures, unpack, whole_blocks
from studio.shapes import VideoShape
from studio.timeline import Timeline
from tests.live.doubles import wait_for

pytestmark = pytest.mark.usefixtures("one_thread")

av = pytest.importorskip("av")
FOX, SEA = "a red fox runs", "a blue rabbit jumps"


@pytest.fixture(scope="module")
def units(models):
    return VideoShape.of(models.config)


def clip(count: int, height: int = 16, width: int = 24) -> np.ndarray:
    """Frames that tell their number by their lightness."""
    light = np.linspace(20, 235, count).round().astype(np.uint8)
    return np.broadcast_to(light[:, None, None, None], (count, height, width, 3)).copy()


def film(path, frames: np.ndarray, fps: float = 16):
    with Film(path, width=frames.shape[2], height=frames.shape[1], fps=fps) as out:
        out.write(frames)
    return path


def make(session: Session, blocks: int) -> None:
    """Make blocks until there are so many, one step each: playing would make one more on a slow machine."""
    while (made := len(session.log)) < blocks:
        session.step()
        wait_for(lambda: len(session.log) > made and session.state != "playing")


@pytest.mark.parametrize(("count", "given"), [(1, 1), (5, 1), (9, 1), (20, 1), (21, 2), (60, 5)])
def test_a_clip_becomes_whole_blocks_and_goes_on(models, units, count, given):
    source = clip(count)
    with Session(models, timeline=Timeline.of(FOX)) as session:
        make(session, 2)
        info = session.start_from(source, prompt=SEA, seed=5, name="mine")
        assert (info.name, info.number, info.parent, info.blocks, info.seed, info.current) == (
            "mine", 1, None, given, 5, True,
        )  # fmt: skip
        shown = session.clip(0, units.first_frame(given))
        whole = np.concatenate([source, np.repeat(source[-1:], max(0, 9 - count), 0)])[: len(shown)]
        pixels = torch.from_numpy(whole).permute(0, 3, 1, 2)[None] / 127.5 - 1
        with torch.no_grad():
            latents = models.vae.encode(pixels)
            decoded = models.vae.decode(torch.cat(session.latents, 1))
        assert torch.allclose(torch.cat(session.latents, 1), latents, atol=1e-4)
        assert np.abs((decoded[0].permute(0, 2, 3, 1).numpy() + 1) * 127.5 - shown).max() < 1
        make(session, given + 3)
        assert [record.prompt for record in session.log] == [SEA] * (given + 3)
        assert [record.given is not None for record in session.log] == [True] * given + [False] * 3
        assert session.log[given].resumed
        # The log alone makes it again, through a file as well, and the other take is still there.
        log = TakeLog.from_json(session.log.to_json())
        assert log == session.log
        found = replay(log, models)
        assert found.same
        assert all(map(torch.equal, found.latents, session.latents))
        assert len(session.takes.log(0)) == 2


def test_what_comes_after_depends_on_the_clip(models):
    def after(source):
        with Session(models, timeline=Timeline.of(FOX)) as session:
            session.start_from(source)
            make(session, 3)
            return session.latents[2]

    assert torch.equal(after(clip(9)), after(clip(9)))
    assert not torch.equal(after(clip(9)), after(clip(9)[::-1].copy()))


def test_the_frames_go_on_without_a_seam(models, units):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        session.start_from(clip(21))
        make(session, 4)
        with torch.no_grad():
            decoded = models.vae.decode(torch.cat(session.latents, 1))
        assert np.abs((decoded[0].permute(0, 2, 3, 1).numpy() + 1) * 127.5 - session.clip(0, 45)).max() < 1


def test_forks_and_takes_that_began_with_a_clip(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        session.start_from(clip(21), name="clip")
        make(session, 4)
        session.fork(1, prompt=SEA)
        make(session, 4)
        assert [record.given is not None for record in session.log] == [True, False, False, False]
        assert replay(session.log, models).same
        with pytest.raises(ValueError, match="began with a picture or a clip"):
            _ = session.script
        with pytest.raises(ValueError, match="there is a take"):
            session.start_from(clip(9), name="clip")


def test_a_video_with_an_end(models):
    with Session(models, timeline=Timeline.of(FOX, length=3)) as session:
        session.start_from(clip(21))
        assert len(list(session.frames(0))) == 3
        assert session.state == "finished"
        with pytest.raises(ValueError, match="fills 5 blocks and the timeline ends after 3"):
            session.start_from(clip(60))
        session.start_from(clip(60), seconds=2)
        assert session.takes.current.blocks == 2


def test_files_of_all_kinds_are_read(tmp_path, units):
    frames = clip(32, 32, 48)
    for name in ("a.mp4", "a.webm"):
        found = read_pictures(film(tmp_path / name, frames), units=units)
        assert found.shape == (32, 16, 24, 3)
        assert np.abs(found[:, 8, 12, 0].astype(int) - frames[:, 0, 0, 0]).max() < 8
    data = (tmp_path / "a.mp4").read_bytes()
    assert len(read_pictures(data, units=units)) == 32
    picture = av.VideoFrame.from_ndarray(clip(1, 100, 60)[0], format="rgb24")
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 60, 100, "rgb24", Fraction(1, 16)
    (tmp_path / "a.png").write_bytes(b"".join(bytes(part) for part in [*codec.encode(picture), *codec.encode(None)]))
    found = read_pictures(str(tmp_path / "a.png"), units=units)
    assert found.shape == (1, 16, 24, 3)
    assert np.all(found == 20)


@pytest.mark.parametrize(("fps", "count"), [(32, 64), (8, 16), (24, 48)])
def test_another_rate_shows_what_the_clip_shows_at_that_moment(tmp_path, units, fps, count):
    found = read_pictures(film(tmp_path / "a.mp4", clip(count), fps), units=units)
    assert abs(len(found) - 32) <= 1
    wanted = np.linspace(20, 235, count)[(np.arange(len(found)) * fps / 16).astype(int).clip(0, count - 1)]
    assert np.abs(found[:, 8, 12, 0] - wanted).max() < 10


def saved(path, frames: np.ndarray, rate: int = 16, **options) -> Any:
    """A film of MPEG-4, which is quick, at a rate and with pixels of a shape."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.bit_rate = 4_000_000
        for name, value in options.items():
            setattr(stream, name, value)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def corners(height: int, width: int) -> np.ndarray:
    """A picture whose quarters differ, `[H, W, 3]`: no turn leaves it as it is."""
    light = np.array([[30, 90], [150, 220]], np.uint8)
    return np.repeat(np.repeat(light, height // 2, 0), width // 2, 1)[..., None].repeat(3, 2)


def quarters(pixels: np.ndarray) -> list[int]:
    rows, columns = pixels.shape[0] // 4, pixels.shape[1] // 4
    return [int(pixels[y, x, 0]) for y in (rows, -rows) for x in (columns, -columns)]


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_a_still_stands_as_its_orientation_says(tmp_path, units, orientation, ending):
    path = tmp_path / f"a.{ending}"
    picture = Image.fromarray(corners(48, 32))
    tags = picture.getexif()
    tags[0x0112] = orientation
    picture.save(path, exif=tags)
    wanted = quarters(np.asarray(ImageOps.exif_transpose(Image.open(path))))
    for source in (path, path.read_bytes()):
        (found,) = read_pictures(source, units=units)
        assert found.shape == (16, 24, 3)
        assert np.abs(np.subtract(quarters(found), wanted)).max() < 6


# The matrices of a film: how x and y of the screen come from those of the pixels.
@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), lambda pixels: pixels),
        ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),
        ((-1, 0, 0, -1), lambda pixels: np.rot90(pixels, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda pixels: pixels.swapaxes(0, 1)),
        ((0, 0, 0, 0), lambda pixels: pixels),
    ],
)
def test_a_clip_stands_as_its_matrix_says(tmp_path, units, matrix, turn):
    picture = corners(48, 32)
    data = saved(tmp_path / "a.mp4", np.stack([picture] * 9)).read_bytes()
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = data.index(plain, data.index(b"tkhd"))
    a, b, c, d = (value << 16 for value in matrix)
    turned = data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + len(plain) :]
    found = read_pictures(turned, units=units)
    assert found.shape == (9, 16, 24, 3)
    assert np.abs(np.subtract(quarters(found[0]), quarters(turn(picture)))).max() < 10


def test_pixels_that_are_not_square(tmp_path, units):
    # Shown it is 96 wide and 32 high: its middle half covers the frame.
    narrow = np.full((32, 48, 3), 20, np.uint8)
    narrow[:, 12:36] = 200
    path = saved(tmp_path / "a.mp4", narrow[None].repeat(3, 0), sample_aspect_ratio=Fraction(2))
    assert read_pictures(path, units=units)[:, :, 1:-1].min() > 180
    # Beyond all measure: taken for square.
    path = saved(tmp_path / "b.mp4", narrow[None].repeat(3, 0), sample_aspect_ratio=Fraction(200))
    assert read_pictures(path, units=units)[:, :, :4].max() < 40


@pytest.mark.parametrize("seconds", [60, 2.5, 1])
def test_the_last_picture_of_a_slow_clip_has_its_time(tmp_path, units, seconds):
    shown = [Image.fromarray(np.full((16, 24, 3), light, np.uint8)) for light in (0, 120, 250)]
    shown[0].save(tmp_path / "a.gif", save_all=True, append_images=shown[1:], duration=1000, loop=0)
    found = read_pictures(tmp_path / "a.gif", units=units, seconds=seconds)
    assert found[:, 8, 12, 0].tolist() == np.repeat([0, 120, 250], 16)[: int(seconds * 16)].tolist()
    saved(tmp_path / "b.mp4", clip(4), rate=2)
    assert len(read_pictures(tmp_path / "b.mp4", units=units, seconds=seconds)) == min(32, seconds * 16)
    assert len(read_pictures(saved(tmp_path / "c.mp4", clip(1)), units=units)) == 1


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.jpg", "a.webp", "a.tiff", "a.mpo"])
def test_a_still_is_one_picture(tmp_path, units, name):
    picture = Image.fromarray(corners(32, 48))
    more = {"save_all": True, "append_images": [Image.fromarray(clip(1, 32, 48)[0])]} if name == "a.mpo" else {}
    picture.save(tmp_path / name, **more)
    for source in (tmp_path / name, (tmp_path / name).read_bytes()):
        (found,) = read_pictures(source, units=units)
        assert np.abs(np.subtract(quarters(found), quarters(corners(32, 48)))).max() < 10


def test_pictures_cover_the_frame(units):
    wide = np.zeros((16, 96, 3), np.uint8)
    wide[:, 36:60] = 200
    assert np.all(read_pictures(wide, units=units) == 200)
    tall = np.zeros((96, 24, 3), np.uint8)
    tall[40:56] = 90
    assert np.all(read_pictures(tall, units=units) == 90)


def test_what_is_no_picture(models, units, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    for source, words in [
        (tmp_path / "notes.txt", "no image or clip that can be read"),
        (b"", "no image or clip"),
        (b"\x00" * 5000, "no image or clip"),
        (17, "start from a path, bytes or an array"),
        (np.zeros((16, 24, 3), np.float32), "must be uint8"),
        (np.zeros((16, 24), np.uint8), "must be uint8"),
        (np.zeros((0, 16, 24, 3), np.uint8), "must be uint8"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_pictures(source, units=units)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_pictures(tmp_path / "a.png", units=units)
    with Session(models, timeline=Timeline.of(FOX)) as session:
        for options, words in [
            ({"seconds": 0}, "`seconds` must be"),
            ({"seconds": float("nan")}, "`seconds` must be"),
            ({"seconds": 61}, "`seconds` must be"),
            ({"seconds": True}, "`seconds` must be"),
            ({"seed": -1}, "seed"),
            ({"prompt": " "}, "empty"),
            ({"name": "take 1"}, "there is a take"),
        ]:
            with pytest.raises(ValueError, match=words):
                session.start_from(clip(9), **options)
        assert len(session.takes) == 1
    with pytest.raises(RuntimeError, match="closed"):
        session.start_from(clip(9))


def test_damaged_logs(models, units):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        session.start_from(clip(9))
        make(session, 2)
        log = session.log
    first, *rest = log.records
    assert first.given is not None
    for change, words in [
        ({"data": "%%"}, "damaged"),
        ({"data": "AAAA"}, "damaged"),
        ({"shape": (1, 1, 1, 1, 1)}, "shape"),
    ]:
        broken = replace(first, given=replace(first.given, **change))
        with pytest.raises(ValueError, match=words):
            replay(TakeLog([broken, *rest], log.origin), models)
    text = log.to_json()
    for old, new, words in [
        ('"shape": [1, ', '"shape": [', "five numbers"),
        ('"given"', '"gift"', "gift"),
        ('"data": "', '"data": 5, "x": "', "x"),
    ]:
        with pytest.raises(ValueError, match=words):
            TakeLog.from_json(text.replace(old, new))
    # A byte that differs is told as a block that differs.
    other = replace(first, given=replace(first.given, data="AAAA" + first.given.data[4:]))
    assert 0 in replay(TakeLog([other, *rest], log.origin), models).differing


def test_whole_blocks_and_encoding_in_parts(models, units):
    assert [len(whole_blocks(clip(count), units)) for count in (1, 9, 10, 21, 32)] == [9, 9, 9, 21, 21]
    with Session(models, timeline=Timeline.of(FOX)) as session:
        session.start_from(clip(9))
        given = session.log[0].given
        assert given is not None
        assert torch.equal(unpack(given, units), session.latents[0])
    assert len(list(encode_blocks(models.vae, clip(33), units))) == 3
