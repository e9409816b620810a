"""The recache lab's widget without a browser: its messages, its answers, its figure, and what it leaves behind."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studio.live.lab import Lab, LabSettings
from studio.widgets import RecacheLab
from studio.widgets import lab as lab_module
from tests.live.doubles import tiny_models
from tests.widgets.recorder import Browser

FIRST, THEN = "a red fox runs", "the blue rabbit jumps"


@pytest.fixture(scope="module")
def models() -> Any:
    return tiny_models()


@pytest.fixture
def lab(models):
    settings = LabSettings(first=FIRST, then=THEN, at=3, blocks=5, policies=("clear", "keep", "recache"))
    with Lab(models, settings, judge=lambda frames, texts: [0.25, 0.75][: len(texts)]) as made:
        yield made


def browser(view: RecacheLab) -> Any:
    page: Any = Browser(view)  # type: ignore[arg-type]
    page.ready()
    return page


def test_a_page_hears_every_block_and_the_table(lab) -> None:
    view = RecacheLab(lab)
    page = browser(view)
    lab.wait(120)
    page.wait(lambda: len(page.of("labblock")) == 3 + 3 * 2)
    hello = page.of("lab")[0]
    assert (hello["first"], hello["then"], hello["at"], hello["blocks"]) == (FIRST, THEN, 3, 5)
    assert hello["names"] == ["clear", "keep", "recache"]
    assert ["recache", "rewrite"] in hello["choices"]
    told = [(message["run"], message["block"]) for message in page.of("labblock")]
    assert told == [(block.run, block.reading.block) for block in lab.blocks]
    for message, block in zip(page.of("labblock"), lab.blocks, strict=True):
        assert message["residue"] == {r.moment: None if np.isnan(r.total) else r.total for r in block.reading.residues}
        assert message["alignment"] == {"0": 0.25, "1": 0.75}
        np.testing.assert_allclose(message["shares"], np.nan_to_num(block.reading.mass.mean(axis=(0, 1))), rtol=1e-6)
        assert sum(message["sizes"]) > 0
    sent = next(b for m, b in zip(page.messages, page.buffers, strict=True) if m["type"] == "labblock")[0]
    first = np.asarray(Image.open(io.BytesIO(sent[: page.of("labblock")[0]["sizes"][0]])), dtype=float)
    assert np.abs(first - lab.blocks[0].frames[0]).mean() < 12
    table = page.wait(lambda: (page.of("labtable")[-1:] or [{}])[0].get("rows"))
    assert page.of("labtable")[-1]["columns"] == list(lab.table()[0])
    assert [row[0] for row in table] == ["clear", "keep", "recache"]
    view.close()


def test_a_page_hears_which_words_are_unknown_and_whether_somebody_judges(models) -> None:
    settings = LabSettings(
        first="a red foxx runs", then="the glacier jumps", at=2, blocks=3, policies=("clear", "keep")
    )
    with Lab(models, settings) as made:
        view = RecacheLab(made)
        page = browser(view)
        (hello,) = page.wait(lambda: page.of("lab")[:1])
        assert hello["unknown"] == [{"word": "foxx", "nearest": "fox"}, {"word": "glacier", "nearest": None}]
        assert hello["judged"] is False
        view.close()


def test_a_block_of_the_settings_before_is_told_from_those_now(lab, monkeypatch) -> None:
    view = RecacheLab(lab)
    page = browser(view)
    lab.wait(120)
    assert {block.version for block in lab.blocks} == {lab.version}
    encode, changed = lab_module.encode_frames, threading.Event()

    def slow(frames: Any, *rest: Any) -> Any:
        if lab.settings.seed == 5 and not changed.is_set():  # the settings change while a block is on its way
            changed.set()
            other = threading.Thread(target=lambda: lab.change(seed=6))
            other.start()
            other.join(20)
        return encode(frames, *rest)

    monkeypatch.setattr(lab_module, "encode_frames", slow)
    told = len(page.messages)
    lab.change(seed=5)
    assert changed.wait(60)
    lab.wait(120)
    wanted = [(block.run, block.reading.block) for block in lab.blocks]
    now = lab.version
    page.wait(lambda: sum(m["version"] == now for m in page.of("labblock")) == len(wanted))
    messages = [m for m in page.messages[told:] if m["type"] in ("lab", "labblock")]
    assert [(m["run"], m["block"]) for m in messages if m["type"] == "labblock" and m["version"] == now] == wanted
    assert now - 1 in [m["version"] for m in messages if m["type"] == "labblock"]
    # The page hears of the settings before it hears of their blocks, whoever is faster.
    first = next(i for i, m in enumerate(messages) if m["version"] == now)
    assert messages[first]["type"] == "lab"
    view.close()


def test_a_page_that_comes_late_gets_everything(lab) -> None:
    view = RecacheLab(lab)
    lab.wait(120)
    page = browser(view)
    page.wait(lambda: len(page.of("labblock")) == 9 and page.of("labtable"))
    assert page.of("lab")[0]["state"] == "ready"
    view.close()
    assert "closed" in repr(view)
    assert lab.state == "ready", "the lab stays open"


def test_a_page_changes_the_lab_or_hears_why_not(lab) -> None:
    view = RecacheLab(lab)
    page = browser(view)
    assert page.ask("lab", changes={"at": 2, "policies": ["keep", ["recache", "rewrite"]]})["error"] is None
    assert lab.settings.at == 2
    assert lab.settings.policies == ("keep", ("recache", "rewrite"))
    for changes, why in (
        ({"at": 99}, "`at` must"),
        ({"first": ""}, "prompt"),
        ({"policies": ["keep"]}, "2 to 4"),
        ({"policies": 7}, "2 to 4"),
        ({"policies": ["keep", 7]}, "must name recache, keep, clear, got 7"),
        ({"policies": ["keep", ["recache"]]}, "must name"),
        ({"colour": "red"}, "there is no `colour` in a lab"),
    ):
        assert why in page.ask("lab", changes=changes)["error"]
    assert lab.settings.at == 2
    page.say("lab", id=1, changes="all of it")
    assert "`changes` must be an object" in view.errors[-1]
    view.change(seed=4)
    page.wait(lambda: page.of("lab")[-1]["seed"] == 4)
    view.close()
    with pytest.raises(RuntimeError, match="this widget is closed"):
        view.change(seed=5)


def test_table_figure_and_fallback(lab, tmp_path) -> None:
    view = RecacheLab(lab)
    lab.wait(120)
    assert view.to_rows() == lab.table() or str(view.to_rows()) == str(lab.table())
    assert {row["policy"] for row in view.residue_rows()} == {"clear", "keep", "recache"}
    figure = view.figure()
    figure.savefig(tmp_path / "lab.pdf")
    figure.savefig(tmp_path / "lab.svg")
    assert figure.get_size_inches()[0] == pytest.approx(6.75)
    residue = next(axes for axes in figure.axes if "1 the first prompt" in axes.get_title(loc="left"))
    lines = {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in residue.get_lines()}
    for run in lab.runs:
        np.testing.assert_allclose(lines[run.name], [row["residue"] for row in run.rows()], rtol=1e-6)
    assert "data:image/png" in view._repr_mimebundle_()[0]["text/html"]
    view.close()


def test_nothing_to_draw_yet_is_said(models) -> None:
    with Lab(models, LabSettings(first=FIRST, then="a fox goes boom", at=2, blocks=4)) as lab:
        view = RecacheLab(lab)
        with pytest.raises(RuntimeError, match="boom"):
            lab.wait(60)
        with pytest.raises(ValueError, match="nothing was made beyond the switch yet"):
            view.figure()
        assert "Run the cell" in view._repr_mimebundle_()[0]["text/html"]
        view.close()


@pytest.mark.parametrize("wrong", [None, "miniature", object()])
def test_what_is_no_lab_is_refused(wrong) -> None:
    with pytest.raises(TypeError, match="`lab` must be a lab"):
        RecacheLab(wrong)


def test_a_width_that_is_none_is_refused(lab) -> None:
    with pytest.raises(Exception, match="`width` must be a width"):
        RecacheLab(lab, width="wide")
