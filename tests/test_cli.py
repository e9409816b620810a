from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch

from studio import cli
from studio.cli import doctor
from studio.config import PRESETS
from studio.live import bench, export, records
from studio.model import backends
from studio.model.backends import BACKENDS
from studio.timeline import Segment, Timeline
from studio.world.grammar import parse, vocabulary, words_of
from tests.live.doubles import generators, tiny_config, tiny_models

pytestmark = pytest.mark.usefixtures("one_thread")

FOX, SEA = "a red fox", "the blue sea"


@pytest.fixture
def tiny(monkeypatch):
    """The commands find tiny random networks where they would load a model."""
    import studio.model.weights as weights

    monkeypatch.setattr(weights, "load", lambda name, device=None, **options: tiny_models(), raising=False)


def read(path: Path):
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        return stream.codec_context.name, stream.average_rate, film.metadata, [
            frame.to_ndarray(format="rgb24") for frame in film.decode(stream)
        ]  # fmt: skip


# render


def test_render_writes_the_film_of_a_timeline(tiny, tmp_path, capsys):
    line = Timeline((Segment(FOX), Segment(SEA, 2)), 3, 5)
    line.save(tmp_path / "line.json")
    out = tmp_path / "clip.mp4"
    assert cli.main(["render", "--timeline", str(tmp_path / "line.json"), "--out", str(out)]) == 0
    codec, rate, tags, frames = read(out)
    assert (codec, rate, len(frames)) == ("h264", 16, 33)
    assert frames[0].shape == (16, 24, 3)
    assert Timeline.from_json(tags["comment"]) == line
    assert tags["title"] == FOX
    said = capsys.readouterr()
    assert said.out == f"{out}: 33 frames, 2.06 s\n"
    assert "33/33" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "line.json"]
    assert not generators()


def test_render_shows_what_a_session_shows(tiny, tmp_path):
    from studio.live import Session

    out = tmp_path / "clip.mp4"
    arguments = ["render", "--prompt", FOX, "--seconds", "1", "--seed", "3", "--quiet", "--out", str(out)]
    assert cli.main(arguments) == 0
    with Session(tiny_models(), timeline=Timeline.of(FOX, length=2, seed=3)) as session:
        wanted = [frame for block in session.frames() for frame in block]
    frames = read(out)[3]
    assert len(frames) == len(wanted) == 21
    assert max(abs(a.mean() - b.mean()) for a, b in zip(frames, wanted, strict=True)) < 3


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ((), 12 * 14 - 3),
        (("--seconds", "0.1"), 9),
        (("--seconds", "0.6"), 21),
        (("--policy", "clear", "--seed", "1"), 165),
    ],
)
def test_render_lengths(tiny, tmp_path, options, frames, capsys):
    (tmp_path / "a.txt").write_text(f"{FOX}\nzebra\n")
    out = tmp_path / "clip.mp4"
    assert cli.main(["render", "--timeline", str(tmp_path / "a.txt"), "--out", str(out), "--quiet", *options]) == 0
    assert len(read(out)[3]) == frames
    assert ("tiny does not know the word 'zebra'" in capsys.readouterr().err) == (frames > 100)


def test_render_does_not_replace_a_film_unasked(tiny, tmp_path, capsys):
    out = tmp_path / "clip.mp4"
    out.write_bytes(b"mine")
    words = ["render", "--prompt", FOX, "--seconds", "0.5", "--out", str(out), "--quiet"]
    assert cli.main(words) == 1
    assert "exists; name another file, or replace it with --force" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert cli.main([*words, "--force"]) == 0
    assert len(read(out)[3]) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", ""], "must not be empty"),
        (["--prompt", "x" * 10_000], "at most 2000 characters"),
        (["--prompt", "a\x00"], "U\\+0000"),
        (["--prompt", FOX, "--out", "clip.avi"], "must end in .mp4"),
        (["--prompt", FOX, "--out", "no/such/clip.mp4"], "there is no folder"),
        (["--prompt", FOX, "--seconds", "0"], "more than 0"),
        (["--prompt", FOX, "--seconds", "-1"], "from 0 up"),
        (["--prompt", FOX, "--seconds", "nan"], "from 0 up, got nan"),
        (["--prompt", FOX, "--seed", "-1"], "`seed`"),
        (["--timeline", "none.json"], "there is no timeline"),
        (["--timeline", "bad.json"], "bad.json: .*overlap"),
        (["--prompt", "boom"], "choked on boom"),
    ],
)
def test_render_refuses_what_makes_no_sense(tiny, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    segments = [{"start_s": 0, "end_s": 3, "prompt": FOX}, {"start_s": 2, "prompt": SEA}]
    bad = {"format": "studio-timeline", "version": 1, "segments": segments}
    Path("bad.json").write_text(json.dumps(bad))
    out = [] if "--out" in words else ["--out", "clip.mp4"]
    assert cli.main(["render", *words, *out, "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("studio render: ")
    assert re.search(message, error)
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]
    assert not generators()


def test_an_interrupted_render_leaves_nothing(tiny, tmp_path, monkeypatch, capsys):
    def interrupt(self, frames):
        raise KeyboardInterrupt

    monkeypatch.setattr(export.Film, "write", interrupt)
    assert cli.main(["render", "--prompt", FOX, "--out", str(tmp_path / "clip.mp4"), "--quiet"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert not generators()


@pytest.mark.parametrize(
    "words",
    [[], ["fly"], ["render"], ["render", "--out", "a.mp4"],
     ["render", "--prompt", "a", "--timeline", "b", "--out", "c.mp4"],
     ["render", "--prompt", "a", "--out", "c.mp4", "--policy", "drop"], ["bench", "--blocks", "x"], ["doctor", "--jsn"],
     ["timeline"]],
)  # fmt: skip
def test_words_that_cannot_be_understood(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "usage: studio" in capsys.readouterr().err


# Films


def test_another_encoder_is_taken_and_said(tiny, tmp_path, monkeypatch, capsys):
    encoders = {name: options for name, options in export.ENCODERS.items() if name == "mpeg4"}
    monkeypatch.setattr(export, "ENCODERS", encoders)
    out = tmp_path / "clip.mp4"
    assert cli.main(["render", "--prompt", FOX, "--seconds", "0.5", "--out", str(out), "--quiet"]) == 0
    assert "no libx264; writing with mpeg4 instead" in capsys.readouterr().err
    assert read(out)[0] == "mpeg4"
    monkeypatch.setattr(export, "ENCODERS", {"nonsense": {}})
    assert cli.main(["render", "--prompt", FOX, "--out", str(tmp_path / "b.mp4"), "--quiet"]) == 1
    assert "has none of nonsense" in capsys.readouterr().err


def test_a_film_checks_its_frames(tmp_path):
    import numpy as np

    path = tmp_path / "clip.mp4"
    with pytest.raises(ValueError, match=r"must be uint8 \[T, 16, 24, 3\], got float32 \[2, 16, 24, 3\]"):
        _write(path, np.zeros((2, 16, 24, 3), np.float32))
    with pytest.raises(ValueError, match="must be uint8"):
        _write(path, np.zeros((2, 24, 16, 3), np.uint8))
    with pytest.raises(RuntimeError, match="at least one frame"):
        _write(path, np.zeros((0, 16, 24, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def _write(path, frames):
    with export.Film(path, width=24, height=16, fps=16) as film:
        film.write(frames)


# doctor


def test_doctor_says_what_is_there(capsys):
    status = cli.main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] == (status == 0)
    found = {entry["name"]: entry for group in report["findings"].values() for entry in group}
    assert found["torch"]["state"] == found["H.264"]["state"] == found["jupyterlab"]["state"] == "ok"
    assert {*BACKENDS, "memory", "ipykernel", "miniature"} <= set(found)
    assert all(entry["remedy"] for entry in found.values() if entry["state"] == "missing")
    cli.main(["doctor"])
    text = capsys.readouterr().out
    assert "attention\n" in text
    assert ("MISSING" in text) != report["healthy"]


def test_doctor_shows_each_back_end_and_the_one_that_is_taken(monkeypatch):
    reasons = dict.fromkeys(BACKENDS, "") | {"flash3": "fa3_fwd_interface: No module named 'fa3_fwd_interface'"}
    monkeypatch.setattr(backends, "available", lambda device, dtype: reasons)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = {finding.name: finding for finding in doctor._attention()}
    assert list(found) == list(BACKENDS)
    assert (found["flash3"].state, found["flash3"].remedy) == ("optional", "pip install fa3-fwd")
    assert found["flash3"].detail == reasons["flash3"]
    assert found["cudnn"].detail == "serves; taken unless another is named"
    assert {found[name].detail for name in ("flash4", "flash2", "pytorch")} == {"serves"}


def test_doctor_knows_the_broken_kernel_and_old_packages(monkeypatch):
    fake = {"ipykernel": "7.3.0", "ipyvue": "2.0.1", "jupyterlab": "4.3.9"}
    real = doctor.version

    def version(name):
        if name == "anywidget":
            raise doctor.PackageNotFoundError(name)
        return fake.get(name) or real(name)

    monkeypatch.setattr(doctor, "version", version)
    found = {finding.name: finding for finding in doctor.examine()}
    assert found["ipykernel"].state == "missing"
    assert found["ipykernel"].remedy == 'pip install "ipykernel>=7.4"'
    assert "unread" in found["ipykernel"].detail
    assert found["ipyvue"].remedy == 'pip install "ipyvue>=1,<2"'
    assert found["jupyterlab"].state == "missing"
    assert found["anywidget"].detail == "not installed"


def test_a_look_that_fails_does_not_end_the_examination(monkeypatch):
    def fail(*_):
        raise OSError("no such disk")

    monkeypatch.setattr(doctor.shutil, "disk_usage", fail)
    findings = doctor.examine()
    assert any("no such disk" in finding.detail for finding in findings)
    assert any(finding.name == "torch" for finding in findings)


def test_doctor_without_torch(monkeypatch):
    real = doctor.version

    def version(name):
        if name == "torch":
            raise doctor.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setitem(sys.modules, "torch", None)
    findings = {finding.name: finding for finding in doctor.examine()}
    assert findings["torch"].remedy == 'pip install "torch>=2.8"'
    assert findings["devices"].remedy == "pip install torch"
    assert findings["PyAV"].state == "ok"


# bench


def test_bench_prints_its_keys(tiny, capsys, monkeypatch):
    monkeypatch.setattr(bench, "SWITCHES", 1)
    assert cli.main(["bench", "--json", "--blocks", "3"]) == 0
    figures = json.loads(capsys.readouterr().out)
    asked = ["denoise_fps", "vae_ms_per_block", "end_to_end_fps", "watching_share", "first_frame_s"]
    asked += ["switch_latency_s", "peak_memory_gib", "hardware", "versions", "model", "quantization"]
    assert set(asked) < set(figures) <= {*records.UNITS, *records.SETTING, "hardware", "versions"}
    assert math.isfinite(figures.pop("watching_share"))  # the next test is of its arithmetic
    numbers = {name: value for name, value in figures.items() if name in records.UNITS and name != "warm_up_s"}
    assert all(0 < value < 1e6 for value in numbers.values()), numbers
    assert set(records.UNITS) - set(numbers) == {
        "watching_share", "warm_up_s", "latents_error", "commit_error", "recache_error", "decode_psnr_db"
    }  # fmt: skip
    assert figures["denoise_fps"] > figures["end_to_end_fps"]
    assert figures["switch_latency_s"] <= figures["switch_latency_worst_s"] < 30
    assert figures["first_frame_after_warm_up_s"] < figures["first_frame_s"]
    assert {"studio", "python", "torch"} <= set(figures["versions"])
    assert (figures["attention"], figures["compiled"], figures["recorded"]) == ("pytorch", False, "no")
    assert not generators()


def test_bench_keeps_what_it_measured(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "SWITCHES", 1)
    monkeypatch.setitem(PRESETS, "tiny", tiny_config())
    file = tmp_path / "docs" / "benchmarks.json"
    command = ["bench", "--model", "tiny", "--random", "--blocks", "2", "--exact", "--device", "cpu"]
    command += ["--record", str(file)]
    monkeypatch.setattr(sys, "argv", ["studio", *command])
    assert cli.main(command) == 0
    assert cli.main([*command, "--quantization", "int8"]) == 0
    assert "quantization" in capsys.readouterr().out
    kept = records.read_records(file)
    by_name = {record["name"]: record for record in kept if record["setting"]["quantization"] == "none"}
    assert by_name["denoise_fps"]["unit"] == "frames/s" and by_name["denoise_fps"]["value"] > 0
    assert by_name["denoise_fps"]["command"].startswith("studio bench --model tiny --random")
    assert by_name["denoise_fps"]["setting"]["model"] == "tiny, random weights"
    assert by_name["latents_error"]["value"] == 0
    quantised = (r["value"] for r in kept if r["setting"]["quantization"] == "int8" and r["name"] == "latents_error")
    assert next(quantised) > 0
    assert len({json.dumps([r["name"], r["setting"]]) for r in kept}) == len(kept)
    # Measured again, it is replaced.
    assert cli.main(command) == 0
    assert len(records.read_records(file)) == len(kept)


@pytest.mark.parametrize("text", ["{", "{}", '[{"name": "denoise_fps"}]', "[3]"])
def test_bench_leaves_a_file_alone_that_is_another(tmp_path, capsys, text):
    file = tmp_path / "figures.json"
    file.write_text(text)
    assert cli.main(["bench", "--record", str(file)]) == 1
    assert "must hold" in capsys.readouterr().err
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--random"], "not a known model"),
        (["--random", "--model", "tiny", "--quantization", "int3"], "int3"),
        (["--random", "--model", "tiny", "--attention", "flash3", "--device", "cpu"], "needs an NVIDIA GPU"),
        (["--random", "--model", "tiny", "--dtype", "int8"], "`dtype` must be"),
    ],
)
def test_bench_refuses_what_makes_no_sense(options, message, capsys, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", tiny_config())
    monkeypatch.delitem(PRESETS, "miniature")
    assert cli.main(["bench", *options]) == 1
    assert message in capsys.readouterr().err


def test_watching_share_is_what_watching_adds(monkeypatch):
    """By a clock of its own: a block takes 2 s, watched 0.16 s more, and some are held up by something else."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Watched:
        lead = 1

        def __init__(self):
            self.on, self.begun = False, 0

        @contextmanager
        def watch(self):
            self.on = True
            yield
            self.on = False

        def __iter__(self):
            while True:
                # The block taken first in a turn had begun before it.
                self.begun += 1
                held_up = 30.0 if self.begun % 5 == 0 else 0.0
                clock.now += 2.0 + 0.16 * self.on + held_up
                yield self.begun

    source = Watched()
    assert bench.watching_share(source, iter(source), 10) == pytest.approx(0.08)


def test_bench_checks_its_blocks(tiny, capsys):
    assert cli.main(["bench", "--blocks", "1"]) == 1
    assert "`blocks`" in capsys.readouterr().err


# evaluate


def test_evaluate_hands_over_and_prints(monkeypatch, capsys):
    import studio.evaluate

    calls = []

    def evaluate(model, *, captions, seed, device, steps, guidance, say):
        calls.append((model, captions, seed, device, steps, guidance))
        say("reading")
        return {"probe_accuracy": {"shape": 1.0}, "captions": captions}

    monkeypatch.setattr(studio.evaluate, "evaluate", evaluate)
    words = [
        "--model",
        "mine",
        "--captions",
        "3",
        "--seed",
        "5",
        "--device",
        "cpu",
        "--steps",
        "7",
        "--guidance",
        "1.5",
    ]
    assert cli.main(["evaluate", *words, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"probe_accuracy": {"shape": 1.0}, "captions": 3}
    assert said.err == "reading ...\n"
    assert calls == [("mine", 3, 5, "cpu", 7, 1.5)]
    assert cli.main(["evaluate"]) == 0
    assert "probe_accuracy    shape 1.0" in capsys.readouterr().out


# lab, timeline, python -m


def test_lab_opens_the_notebook(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(cli, "_become", lambda command: calls.append(command) or 0)
    notebook = tmp_path / "a.ipynb"
    notebook.write_text("{}")
    assert cli.main(["lab", str(notebook), "--no-browser", "--port=8899"]) == 0
    assert calls == [[sys.executable, "-m", "jupyterlab", str(notebook), "--no-browser", "--port=8899"]]
    assert cli.main(["lab", str(tmp_path / "none.ipynb")]) == 1
    assert "there is no notebook" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "opened", "handed"),
    [
        ("--port 8889", None, "--port 8889"),
        ("--port=8889 --no-browser", None, "--port=8889 --no-browser"),
        ("--ServerApp.default_url /lab/tree/b.ipynb", None, "--ServerApp.default_url /lab/tree/b.ipynb"),
        ("a.ipynb --port 8889", "a.ipynb", "--port 8889"),
        ("--port 8889 a.ipynb", "a.ipynb", "--port 8889"),
        ("--no-browser . --ip 0.0.0.0", ".", "--no-browser --ip 0.0.0.0"),
        ("--notebook-dir . a.ipynb", "a.ipynb", "--notebook-dir ."),
        ("--unheard-of a.ipynb", "a.ipynb", "--unheard-of"),
        ("--no-browser none", None, None),
        ("--port 8889 none.ipynb", None, None),
    ],
)
def test_lab_tells_the_notebook_from_the_values_of_options(monkeypatch, tmp_path, capsys, words, opened, handed):
    calls = []
    monkeypatch.setattr(cli, "_become", lambda command: calls.append(command) or 0)
    monkeypatch.chdir(tmp_path)
    Path("a.ipynb").write_text("{}")
    status = cli.main(["lab", *words.split()])
    if handed is None:
        assert (status, calls) == (1, [])
        assert f"there is no notebook {words.split()[-1]!r}; check the path" in capsys.readouterr().err
    else:
        assert status == 0
        opened = opened or str(cli.ROOT / cli.LAB)
        assert calls == [[sys.executable, "-m", "jupyterlab", opened, *handed.split()]]


JUPYTERLAB = """
import os, signal, sys, time
# As JupyterLab does: where the tests run in the background, interrupts are ignored by all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
print(os.getpid(), *sys.argv[1:], flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="no other system lets a process become another program")
@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT"])
def test_what_ends_lab_ends_jupyterlab(tmp_path, way):
    (tmp_path / "jupyterlab.py").write_text(JUPYTERLAB)
    (tmp_path / "a.ipynb").write_text("{}")
    # Modules beside the command come first: this one stands for JupyterLab.
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(cli.__file__).parents[2]}"}
    command = [sys.executable, "-m", "studio.cli", "lab", "a.ipynb", "--port", "8889"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        process.send_signal(getattr(signal, way))
        assert process.wait(30) != 0
    assert words == [str(process.pid), "a.ipynb", "--port", "8889"]


def test_convert(tmp_path, capsys):
    source, text, back = tmp_path / "a.json", tmp_path / "b.txt", tmp_path / "c.json"
    Timeline((Segment(FOX), Segment(SEA, 3)), 9).save(source)
    assert cli.main(["timeline", "convert", str(source), str(text)]) == 0
    said = capsys.readouterr()
    assert "plain text cannot hold the starts of the segments" in said.err
    assert "plain text cannot hold the length of 9 blocks" in said.err
    assert said.out == f"{text}: 2 segments\n"
    assert cli.main(["timeline", "convert", str(text), str(back)]) == 0
    assert Timeline.load(back) == Timeline.of(FOX, SEA)
    assert cli.main(["timeline", "convert", str(text), str(back)]) == 1
    assert cli.main(["timeline", "convert", str(text), str(back), "--force"]) == 0
    odd = tmp_path / "odd"
    assert cli.main(["timeline", "convert", str(text), str(odd)]) == 1
    assert cli.main(["timeline", "convert", str(text), str(odd), "--to", "json"]) == 0
    assert cli.main(["timeline", "convert", str(odd), str(back), "--from", "json", "--force"]) == 0


def test_example_timelines(repository):
    paths = sorted((repository / "assets" / "timelines").glob("*.json"))
    assert len(paths) >= 2
    for path in paths:
        line = Timeline.load(path)
        assert line.length
        assert len(line.segments) > 1
        for segment in line.segments:
            assert None not in parse(segment.prompt).values(), segment.prompt
            assert set(words_of(segment.prompt)) <= set(vocabulary()), segment.prompt


def test_python_m(repository):
    done = subprocess.run(
        [sys.executable, "-m", "studio.cli", "--version"], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("studio ")


def test_the_parser_loads_no_torch(repository):
    code = "import sys; from studio.cli import build_parser; build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0


# what is written, and where


def test_letters_that_an_encoding_has_not_are_escaped(repository):
    code = "from studio.cli import say, tell; tell('лиса.mp4: 33 frames ☃ é'); say('лиса'); tell('\\udcff')"
    settings = {**os.environ, "PYTHONIOENCODING": "cp1252:strict"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=repository, env=settings, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.decode("cp1252").splitlines()
    assert lines == [r"\u043b\u0438\u0441\u0430.mp4: 33 frames \u2603 é", r"\udcff"]
    assert ran.stderr.decode("cp1252").strip() == r"\u043b\u0438\u0441\u0430"


def test_a_device_that_cannot_compute_is_said_before_anything_is_loaded(monkeypatch, capsys, tmp_path):
    import studio.model.weights as weights

    monkeypatch.setattr(weights, "load", lambda *_, **__: pytest.fail("a model was loaded"), raising=False)
    for device in ("meta", "xpu", "hpu", "privateuseone"):
        words = ["render", "--prompt", FOX, "--device", device, "--out", str(tmp_path / "clip.mp4")]
        assert cli.main(words) == 1
        said = capsys.readouterr().err
        assert "`device` must be" in said and f'"{device}"' in said and 'use "cpu"' in said
