"""The experiments: what they generate, read, count, and write down."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch

from studio.cli import main, results
from studio.cli.resultspage import Strip, read, slugs
from studio.config import CacheConfig
from studio.evaluate.attributes import draw_trials, generate
from studio.evaluate.experiments import STORY, cache_named, drift, minute, story, switches
from studio.evaluate.films import Act, act_blocks, play, read_window
from studio.model.probe import Probe, ProbeConfig
from studio.model.weights import save, write
from studio.shapes import VideoShape
from studio.world import ATTRIBUTES, Scene, SceneBatch, held_out, parse, render
from tests.model.tiny import tiny_models

SIZES = ProbeConfig(classes={name: len(values) for name, values in ATTRIBUTES.items()}, width=16, levels=2, size=16)


@pytest.fixture(scope="module")
def models():
    return tiny_models()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, models):
    path = tmp_path_factory.mktemp("tiny")
    save(models, path)
    torch.manual_seed(0)
    write(path / "probe.safetensors", Probe(SIZES).state_dict(), kind="probe", config=dataclasses.asdict(SIZES))
    return path


def scene(**names: str) -> Scene:
    return Scene(**{"shape": "fox", "colour": "red", "action": "runs", "place": "snow", **names})


def test_a_film_is_what_the_evaluation_generates(models):
    trials = draw_trials(2, 0)
    acts = [
        Act(scenes=[t.scene for t in trials], texts=[t.text for t in trials], seconds=2.5),
        Act(scenes=[t.later for t in trials], texts=[t.later_text for t in trials], seconds=2.5),
    ]
    for policy in ("recache", "clear"):
        pieces = list(play(models, acts, seed=4, policy=policy))
        wanted = generate(models, trials, seed=4, policies=(policy,))[policy]
        found = torch.cat([piece.pixels for piece in pieces], dim=1)[:, : wanted.shape[1]]
        assert torch.allclose(found, wanted[:, : found.shape[1]], atol=1e-5)
        assert [piece.switched for piece in pieces].count(True) == 1
        assert [piece.act for piece in pieces] == sorted(piece.act for piece in pieces)


def test_acts_begin_at_the_first_block_that_begins_in_time(models):
    shape = VideoShape.of(models.config)
    acts = [Act(scenes=[scene()], texts=["a"], seconds=s) for s in (2.5, 10, 0.8)]
    starts = act_blocks(shape, acts)
    ends = [2.5, 12.5, 13.3]
    for block, end in zip(starts[1:], ends, strict=True):
        assert shape.first_frame(block) >= round(end * shape.fps) > shape.first_frame(block - 1)


@pytest.mark.parametrize(
    ("acts", "words"),
    [
        ([], "acts must be some"),
        (
            [Act(scenes=[scene()], texts=["a"], seconds=1), Act(scenes=[scene()] * 2, texts=["a", "b"], seconds=1)],
            "same",
        ),
        ([Act(scenes=[scene()], texts=["a"], seconds=2), Act(scenes=[scene()], texts=["a"], seconds=0.01)], "shorter"),
    ],
)
def test_acts_that_make_no_film(models, acts, words):
    with pytest.raises(ValueError, match=words):
        list(play(models, acts, seed=0))


@pytest.mark.parametrize("change", [{"scenes": []}, {"texts": ["a", "b"]}, {"seconds": 0}, {"seconds": float("nan")}])
def test_acts_that_are_none(change):
    with pytest.raises(ValueError, match=r"a text for each scene|positive and finite"):
        Act(**{"scenes": [scene()], "texts": ["a"], "seconds": 1.0, **change})


def test_a_window_is_read_as_it_is():
    probe = Probe(SIZES).requires_grad_(False)
    scenes = [scene(), scene(place="night", colour="blue")]
    pixels = render(SceneBatch.of(scenes, 3, "cpu"), frames=9, size=32).pixels
    found = read_window(probe, pixels)
    for name, logits in probe(pixels).items():
        wanted = logits.softmax(1)
        for i, one in enumerate(scenes):
            place = ATTRIBUTES[name].index(getattr(one, name))
            assert abs(float(found.probability(scenes, name)[i]) - float(wanted[i, place])) < 1e-6
            assert float(found.right(scenes, name)[i]) == float(wanted[i].argmax() == place)
    assert found.brightness[1] < found.brightness[0]  # Night is darker than snow.
    grey = torch.zeros(1, 2, 3, 32, 32)
    flat = read_window(probe, grey)
    assert abs(float(flat.brightness) - 127.5) < 1e-3
    assert float(flat.contrast) == 0


def test_a_story_changes_one_attribute_at_a_time_as_it_says():
    acts = story(5, 2, 1.0)
    assert len(acts) == len(STORY) + 1
    for before, after, changed in zip(acts, acts[1:], STORY, strict=False):
        for one, other, text in zip(before.scenes, after.scenes, after.texts, strict=True):
            differing = [name for name in ATTRIBUTES if getattr(one, name) != getattr(other, name)]
            assert differing == [changed]
            assert parse(text) == {name: getattr(other, name) for name in ATTRIBUTES}
    assert all(held_out(one) for one in acts[0].scenes)
    assert story(5, 2, 1.0) == acts
    assert story(5, 3, 1.0) != acts


def test_switches_report_every_policy(folder):
    kept = []
    report = switches(folder, clips=1, seeds=(0,), keep=lambda kind, frame, pixels, texts: kept.append((kind, frame)))
    assert json.loads(json.dumps(report)) == report
    assert set(report["policies"]) == {"recache", "keep", "clear"}
    for policy, row in report["policies"].items():
        assert all(0 <= row[name]["mean"] <= 1 for name in ("kept", "new", "alignment"))
        assert row["frames_per_second"]["mean"] > 0
        assert (row["recache_ms"]["mean"] > 0) == (policy == "recache")
        assert row["flicker"]["mean"] > 0
        assert row["jump"]["mean"] > 0
    assert {kind for kind, _ in kept} == {"recache", "keep", "clear"}
    # What comes before the switch is the same; a probe that never learned reads the same of it.
    again = switches(folder, clips=1, seeds=(0,), policies=("keep",))["policies"]["keep"]
    for name in ("kept", "new", "alignment", "flicker", "jump"):
        assert again[name] == report["policies"]["keep"][name]


def test_a_minute_reports_every_prompt(folder):
    report = minute(folder, clips=2, seeds=(0,), seconds=1.6)
    rows = report["policies"]["recache"]
    assert [row["changed"] for row in rows] == [None, *STORY]
    assert all(0 <= row["alignment"]["mean"] <= 1 and row["alignment"]["spread"] == 0 for row in rows)
    assert all(set(row["right"]) == set(ATTRIBUTES) for row in rows)


def test_drift_reports_every_window_and_cache(folder):
    report = drift(folder, clips=1, seeds=(0,), caches=("6+3", "9+0"), seconds=8, window=2)
    assert set(report["caches"]) == {"6+3", "9+0"}
    for part in report["caches"].values():
        assert [row["seconds"] for row in part["windows"]] == [2, 4, 6, 8]
        assert all(seconds > 0 for seconds in part["block_seconds"])


@pytest.mark.parametrize(
    ("seconds", "window", "ends"),
    [
        (1, 10, [1]),
        (2.8, 2, [2.8]),
        (3, 2, [2, 3]),
        (4.6, 2, [2, 4.6]),
        # No block begins in the quarter of a second at the end.
        (1.75, 0.5, [0.5, 1, 1.75]),
    ],
)
def test_windows_of_drift_say_what_they_cover(folder, seconds, window, ends):
    report = drift(folder, clips=1, seeds=(0,), caches=("6+3",), seconds=seconds, window=window)
    assert [row["seconds"] for row in report["caches"]["6+3"]["windows"]] == ends


def test_names_of_caches():
    like = CacheConfig(positions="window")
    assert cache_named("21+0", like) == CacheConfig(window=21, sink=0, positions="window")
    for name in ("9", "9+", "a+b", "9+3+1", "-9+3", ""):
        with pytest.raises(ValueError, match="as 9\\+3"):
            cache_named(name, like)
    with pytest.raises(ValueError, match="window"):
        cache_named("0+3", like)


@pytest.mark.parametrize("experiment", [switches, minute, drift])
def test_numbers_that_make_no_sense(folder, experiment):
    with pytest.raises(ValueError, match="`clips` must be at least 1"):
        experiment(folder, clips=0)
    with pytest.raises(ValueError, match="at least one seed"):
        experiment(folder, seeds=())


@pytest.fixture
def unread(monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("something was loaded before all was checked")

    for name in ("load", "load_probe"):
        monkeypatch.setattr(f"studio.evaluate.experiments.{name}", loaded)


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        *((one, {"clips": 1.5}, "`clips` must be a whole number, got 1.5") for one in (switches, minute, drift)),
        *((one, {"seeds": (0, None)}, "`seeds` must be a whole number, got None") for one in (switches, minute, drift)),
        *((one, {"seeds": (0, 1, 0)}, "different ones, got 0, 1, 0") for one in (switches, minute, drift)),
        *((one, {"policies": ("recahce", "keep")}, "keep, clear, got 'recahce'") for one in (switches, minute)),
        *((one, {"policies": "keep"}, "got 'keep'; put it into a list") for one in (switches, minute)),
        *((one, {"policies": ()}, "at least 1 of recache, keep, clear") for one in (switches, minute)),
        *((one, {"policies": ("keep", "keep")}, "different ones, got keep, keep") for one in (switches, minute)),
        *((minute, {"seconds": bad}, "`seconds` must be positive") for bad in (0, -1, math.inf, math.nan)),
        *((drift, {"seconds": bad}, "`seconds` must be positive") for bad in (0, -1, math.inf, math.nan)),
        *((drift, {"window": bad}, "`window` must be positive") for bad in (0, -1, math.inf, math.nan)),
        (drift, {"caches": ()}, "9\\+3, 12\\+0, 21\\+0, got"),
        (drift, {"caches": "9+3"}, "got '9\\+3'; put one into a list"),
        (drift, {"caches": ("9+3", "9-3")}, "as 9\\+3, got '9-3'"),
        *((one, {"device": "cuda:99"}, "`device` must be here") for one in (switches, minute, drift)),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(unread, folder, experiment, options, message):
    with pytest.raises(ValueError, match=message):
        experiment(folder, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0.25}, "`window` must be at least a block of 0.375 s, got 0.25"),
        ({"caches": ("6+3", "8+0")}, "multiple of the block size 3, got 8"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_anything_is_made(folder, monkeypatch, options, message):
    monkeypatch.setattr("studio.evaluate.experiments.play", None)
    with pytest.raises(ValueError, match=message):
        drift(folder, clips=1, seconds=3, **options)


@pytest.mark.parametrize("experiment", [switches, minute, drift])
def test_a_model_of_whole_clips_is_refused(models, tmp_path, experiment):
    save(dataclasses.replace(models, config=dataclasses.replace(models.config, causal=False)), tmp_path)
    with pytest.raises(ValueError, match="makes whole clips"):
        experiment(tmp_path)


def test_the_command_writes_numbers_a_page_and_pictures(folder, tmp_path, capsys):
    out = tmp_path / "results.json"
    words = ["--model", str(folder), "--label", "tiny one", "--clips", "1", "--seeds", "0", "--out", str(out)]
    assert main(["results", "drift", *words, "--caches", "6+3", "--seconds", "3"]) == 0
    assert main(["results", "switches", *words, "--policies", "keep"]) == 0
    assert main(["results", "minute", *words, "--seconds", "1"]) == 0
    found = read(out)
    assert set(found) == {"drift", "switches", "minute"}
    page = out.with_suffix(".md").read_text()
    row = found["switches"]["tiny one"]["policies"]["keep"]
    assert f"| keep | {100 * row['kept']['mean']:.1f} |" in page
    assert "studio results drift --model" in page
    assert "`studio results switches" in page
    for name in ("switches-tiny-one.png", "drift-tiny-one.png", "drift-tiny-one.svg", "minute-tiny-one.svg"):
        assert (tmp_path / "results" / name).stat().st_size > 1000
        assert f"results/{name}" in page
    # The page alone is made again, the same.
    curves = {path: path.read_bytes() for path in (tmp_path / "results").glob("*.svg")}
    assert main(["results", "page", "--out", str(out)]) == 0
    assert out.with_suffix(".md").read_text() == page
    assert len(curves) == 2 and all(path.read_bytes() == before for path, before in curves.items())
    capsys.readouterr()


def test_two_models_stand_side_by_side_and_a_remark_below_its_numbers(tmp_path, capsys):
    def drift_of(first, last, **more):
        windows = [
            {"seconds": 10.0 * (i + 1), "alignment": {"mean": share, "spread": 0.0}, "right": {"shape": 1.0},
             "brightness": {"mean": 9.0, "spread": 0.0}, "contrast": {"mean": 9.0, "spread": 0.0}}
            for i, share in enumerate((first, 0.5, last))
        ]  # fmt: skip
        told = {"seconds": 30.0, "window": 10.0, "clips": 1, "seeds": [0], "hardware": "h", "torch": "t", "date": "d"}
        caches = {name: {"windows": windows, "block_seconds": [0.1, 0.1]} for name in more.pop("caches", ("9+3",))}
        return {"caches": caches, "command": "c", **told, **more}

    out = tmp_path / "results.json"
    out.write_text(json.dumps({"drift": {"early": drift_of(0.9, 0.7)}}))
    page = out.with_suffix(".md")
    assert main(["results", "page", "--out", str(out)]) == 0
    assert "Side by side" not in page.read_text() and not (tmp_path / "results" / "drift.svg").exists()
    late = drift_of(0.8, 0.6, caches=("12+0",), note="Beside other work.")
    out.write_text(json.dumps({"drift": {"early": drift_of(0.9, 0.7), "late": late}}))
    assert main(["results", "page", "--out", str(out)]) == 0
    text = page.read_text()
    assert "| early | 90.0 → 70.0 |  |" in text and "| late |  | 80.0 → 60.0 |" in text
    assert "(results/drift.svg)" in text and (tmp_path / "results" / "drift.svg").stat().st_size > 1000
    assert text.rstrip().endswith("Beside other work.") and text.count("Beside other work.") == 1
    capsys.readouterr()


def test_labels_have_files_of_their_own_and_stand_in_tables_as_they_are(tmp_path, capsys):
    part = {name: {"mean": 9.0, "spread": 0.0} for name in ("alignment", "brightness", "contrast")}
    windows = [{"seconds": end, "right": {"shape": 1.0}, **part} for end in (10.0, 15.0)]
    told = {"seconds": 15.0, "window": 10.0, "clips": 1, "seeds": [0], "hardware": "h", "torch": "t", "date": "d"}
    found = {"caches": {"9+3": {"windows": windows, "block_seconds": [0.1, 0.1]}}, "command": "c", **told}
    labels = ["модель А", "модель Б", "Model A", "model-a", "a|b [c]", r"$\nothing{$", "$x^^2$ \\$y_{$"]
    out = tmp_path / "results.json"
    out.write_text(json.dumps({"drift": dict.fromkeys(labels, found)}))
    assert main(["results", "page", "--out", str(out)]) == 0
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    names = re.findall(r"\(results/(drift-.+\.svg)\)", text)
    assert len(set(names)) == len(labels) and all((tmp_path / "results" / name).exists() for name in names)
    assert "drift-model-a.svg" in names
    assert r"| a\|b \[c\] | 900.0" in text and r"## Drift: a\|b \[c\]" in text
    assert r"| \$\\nothing{\$ | 900.0" in text
    capsys.readouterr()


def test_names_of_files_keep_to_their_labels():
    assert slugs(["before DMD", "second run, before DMD"]) == {
        "before DMD": "before-dmd",
        "second run, before DMD": "second-run-before-dmd",
    }
    alike = slugs(["Model A", "model-a", "???", "!!!", "é", "модель 1"])
    assert alike["Model A"] == "model-a" and len(set(alike.values())) == len(alike)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in alike.values())
    # A hash depends on its label alone, not on its neighbours.
    assert alike["модель 1"] == slugs(["модель 1"])["модель 1"]


@pytest.mark.parametrize("seconds", ["1", "3"])
def test_a_short_film_has_a_page_and_a_strip_only_of_moments_that_it_has(seconds, folder, tmp_path, capsys):
    out, film = tmp_path / "r.json", tmp_path / "r" / "drift-one.png"
    film.parent.mkdir()
    film.write_bytes(b"of a longer film")
    words = ["--model", str(folder), "--label", "one", "--clips", "1", "--caches", "6+3", "--device", "cpu"]
    assert main(["results", "drift", *words, "--seconds", seconds, "--out", str(out)]) == 0
    text = out.with_suffix(".md").read_text()
    assert f"{seconds} s of one prompt, read as a whole." in text
    told = capsys.readouterr().out
    assert [film.exists(), *("drift-one.png" in part for part in (text, told))] == [seconds == "3"] * 3


def test_a_strip_counts_the_frames_of_its_model(models, tmp_path):
    save(dataclasses.replace(models, config=dataclasses.replace(models.config, fps=24)), tmp_path)
    options = argparse.Namespace(kind="drift", model=str(tmp_path))
    assert results.strip(options).fps == 24
    options.kind = "minute"
    assert results.strip(options) is None


@pytest.mark.parametrize("kind", ["switches", "minute"])
def test_the_command_knows_its_policies(kind, folder, tmp_path, capsys):
    out = tmp_path / "r.json"
    with pytest.raises(SystemExit) as left:
        main(["results", kind, "--model", str(folder), "--policies", "recahce", "keep", "--out", str(out)])
    said = capsys.readouterr().err
    assert left.value.code == 2 and "recahce" in said and "recache" in said and "clear" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["switches", "--caches", "9+3"], "--caches is nothing"),
        (["drift", "--policies", "keep"], "--policies is nothing"),
        (["minute", "--model", "no-such-model"], "no-such-model"),
        (["drift", "--caches", "9-3"], "as 9+3"),
        (["drift", "--seconds", "inf"], "`seconds` must be positive and finite, got inf"),
        (["drift", "--device", "cuda:99"], "`device` must be here"),
    ],
)
def test_words_that_the_command_does_not_know(words, said, folder, tmp_path, capsys):
    model = [] if "--model" in words else ["--model", str(folder)]
    assert main(["results", *words, *model, "--out", str(tmp_path / "r.json")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"drift": 1}'])
def test_a_file_that_holds_something_else_stays(text, tmp_path, capsys):
    out = tmp_path / "r.json"
    out.write_text(text)
    assert main(["results", "page", "--out", str(out)]) == 1
    assert "another file with --out" in capsys.readouterr().err
    assert out.read_text() == text


def test_a_strip_says_its_moments_over_the_first_row(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *to, **how: drawn.append(self) or savefig(self, *to, **how))
    strip = Strip((0.0, 0.5), fps=16, films=2)
    for kind in ("keep", "clear"):
        strip.add(kind, 0, torch.zeros(2, 9, 3, 16, 16), ["one", "two"])
    strip.save(tmp_path / "strip.png")
    titles = [axes.get_title() for axes in drawn[0].get_axes()]
    assert titles == ["0 s", "0.5 s", "", ""] * 2


def test_a_strip_keeps_the_moments_that_it_was_asked_for(tmp_path):
    strip = Strip((0.0, 0.5, 9.0), fps=16, films=1)
    for frame in (0, 9):
        strip.add("keep", frame, torch.full((2, 9, 3, 16, 16), frame / 9), ["one", "two"])
    assert {second: picture.shape for second, picture in strip.rows["keep"].items()} == {
        0.0: (1, 16, 16, 3),
        0.5: (1, 16, 16, 3),
    }
    assert strip.rows["keep"][0.5].max() == 127
    assert strip.save(tmp_path / "a" / "strip.png").stat().st_size > 500


def test_a_strip_draws_prompts_as_they_are_and_nothing_without_a_moment(tmp_path):
    strip = Strip((0.0,), fps=16, films=2)
    strip.add("keep", 0, torch.zeros(2, 9, 3, 16, 16), ["a $x^^2$ fox", r"\$ and $\frac{$"])
    assert strip.save(tmp_path / "strip.png").stat().st_size > 500
    strip = Strip((2.0,), fps=16)
    strip.add("keep", 0, torch.zeros(1, 9, 3, 16, 16), ["one"])
    assert strip.save(tmp_path / "strip.png") is None and not (tmp_path / "strip.png").exists()


def entry(**more):
    """Numbers of a made-up run of switches."""
    told = {"clips": 1, "seeds": [0], "hardware": "h", "torch": "t", "date": "d", "command": "c"}
    figures = ("kept", "new", "alignment", "flicker", "jump", "frames_per_second", "recache_ms")
    return {**told, "policies": {"keep": {key: {"mean": 0.5, "spread": 0.0} for key in figures}}, **more}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"switches": {"a": {}}}, "switches, a lacks 'clips'"),
        ({"switches": {"a": 3}}, "switches, a must have keys"),
        ({"switches": {"a": entry(policies={"keep": {}})}}, "switches, a, policies, keep lacks 'kept'"),
        ({"switches": {"a": entry(policies=[1])}}, "switches, a, policies must have keys"),
        ({"switches": {"a": entry(seeds=3)}}, "switches, a, seeds must be a list"),
        ({"minute": {"a": entry(seconds="long", policies={})}}, "minute, a, seconds must be a number"),
        ({"minute": {"a": entry(seconds=1.0, policies={"keep": []})}}, "keep must be a list with something in it"),
        ({"drift": {"a": entry(seconds=1.0, window=1.0, caches={"9+3": {"windows": [{}]}})}}, "lacks 'block_seconds'"),
        ({"swiches": {}}, "swiches is no experiment"),
        ({"model": "miniature"}, "model is no experiment"),
    ],
)
def test_numbers_that_make_no_page_are_named(text, said, tmp_path, capsys):
    out = tmp_path / "r.json"
    out.write_text(json.dumps(text))
    assert main(["results", "page", "--out", str(out)]) == 1
    told = capsys.readouterr().err
    assert said in told and "mend it, or name another file with --out" in told
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_the_numbers_in_the_repository_make_a_page(repository):
    assert set(read(repository / "docs" / "results.json")) == {"switches", "minute", "drift"}


@pytest.fixture
def measured(monkeypatch):
    """`studio results switches` measures nothing, but does meanwhile what a test wants."""

    def during(action):
        monkeypatch.setattr(results, "strip", lambda options: None)
        monkeypatch.setattr(results, "measure", lambda *_: (action(), entry())[1])

    return during


def test_numbers_that_came_meanwhile_stay(measured, tmp_path, capsys):
    out = tmp_path / "r.json"
    out.write_text(json.dumps({"switches": {"first": entry()}}))
    measured(lambda: out.write_text(json.dumps({"switches": {"first": entry(), "other": entry(clips=7)}})))
    assert main(["results", "switches", "--label", "mine", "--out", str(out)]) == 0
    found = read(out)["switches"]
    assert list(found) == ["first", "other", "mine"] and found["other"]["clips"] == 7
    capsys.readouterr()


@pytest.mark.parametrize("name", ["r.json", "r.md"])
def test_a_write_that_breaks_off_leaves_what_was_there(name, measured, tmp_path, monkeypatch, capsys):
    out = tmp_path / "r.json"
    out.write_text(json.dumps({"switches": {"first": entry()}}))
    (tmp_path / "r.md").write_text("a page")
    before, write_text = (tmp_path / name).read_bytes(), Path.write_text

    def half(path, text, *more, **options):
        if name not in path.name:
            return write_text(path, text, *more, **options)
        write_text(path, text[: len(text) // 2], *more, **options)
        raise OSError(28, "No space left on device")

    measured(lambda: monkeypatch.setattr(Path, "write_text", half))
    assert main(["results", "switches", "--label", "mine", "--out", str(out)]) == 1
    assert "No space" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before and not list(tmp_path.glob(".*.part"))


def test_a_file_that_cannot_be_written_is_said_before_measuring(measured, tmp_path, monkeypatch, capsys):
    measured(lambda: pytest.fail("it was measured"))
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "r.json", tmp_path):
        assert main(["results", "switches", "--out", str(out)]) == 1
        said = capsys.readouterr().err
        assert f"'{out}' " in said and "with --out" in said

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    assert main(["results", "switches", "--out", str(tmp_path / "r.json")]) == 1
    assert "cannot be written (Permission denied); name another file with --out" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()
