"""Forks, takes and replays: the same latents again, whatever the course."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch

from studio.live import Session, read_log, replay
from studio.live.log import TakeLog
from studio.live.rebuild import rebuild_stream
from studio.timeline import SEGMENT_BLOCKS, PastEdit, Segment, Timeline, Transition, Weighted
from studio.timeline.messages import preview
from studio.timeline.operations import Change, Put, SetLength, Split
from tests.live.doubles import Blocker, tiny_models, wait_for

pytestmark = pytest.mark.usefixtures("one_thread")

FOX, SEA, SNOW = "a red fox runs", "the blue sea", "a rabbit in the snow"


def run(session: Session, blocks: int) -> None:
    """Make blocks until there are so many."""
    while session.stats.generated_blocks < blocks:
        before = session.stats.generated_blocks
        session.step()
        wait_for(
            lambda before=before: session.stats.generated_blocks > before and session.state in ("paused", "finished")
        )


def same(ours, theirs) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def of(models, timeline: Timeline, **options):
    with Session(models, timeline=timeline, **options) as session:
        list(session.frames())
        return session.latents


# Forks


@pytest.mark.parametrize("at", [1, 2, 3, 5, 8])
def test_a_fork_under_recache_is_the_switch_that_was_not_made(models, at):
    plain = Timeline.of(FOX, length=10)
    wanted = of(models, plain.put(Segment(SEA, at, policy="recache")))
    with Session(models, timeline=plain) as session:
        run(session, 9)
        session.fork(at, prompt=SEA, policy="recache")
        run(session, 10)
        assert same(session.latents, wanted)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("policy", ["keep", "clear", None])
def test_an_early_fork_has_the_very_cache_of_its_parent(models, at, policy):
    plain = Timeline.of(FOX, length=6)
    switched = plain if policy is None else plain.put(Segment(SEA, at, policy=policy))
    wanted = of(models, switched)
    with Session(models, timeline=plain) as session:
        run(session, 5)
        session.fork(at, timeline=switched)
        run(session, 6)
        assert same(session.latents, wanted)


@pytest.mark.parametrize("sink_policy", ["keep", "rewrite"])
@pytest.mark.parametrize("first", ["clear", "recache"])
def test_a_fork_knows_where_the_sink_began(models, sink_policy, first):
    line = Timeline((Segment(FOX), Segment(SNOW, 5, policy=first, sink_policy=sink_policy)), 12)
    wanted = of(models, line.put(Segment(SEA, 9, policy="recache", sink_policy="keep")))
    with Session(models, timeline=line) as session:
        run(session, 11)
        session.fork(9, prompt=SEA, policy="recache", sink_policy="keep")
        run(session, 12)
        assert same(session.latents, wanted)


def test_forks_are_deterministic_and_differ_by_seed_and_policy(models):
    with Session(models, timeline=Timeline.of(FOX, length=9)) as session:
        run(session, 8)
        courses = [{"seed": 5}, {"policy": "keep"}, {"prompt": SEA}, {"prompt": SEA, "policy": "clear"}, {"seed": 5}]
        made = []
        for course in courses:
            session.fork(6, take="take 1", **course)
            run(session, 9)
            assert same(session.latents[:6], made[0][:6] if made else session.latents[:6])
            made.append(session.latents)
        assert same(made[0], made[4])
        for one, two in itertools.combinations(made[:4], 2):
            assert not torch.equal(one[6], two[6])


def test_frames_of_a_fork_are_the_streamed_decode_of_its_latents(models):
    with Session(models, timeline=Timeline.of(FOX, length=8)) as session:
        run(session, 7)
        session.fork(5, prompt=SEA)
        run(session, 8)
        frames = session.clip(0, session.stats.generated_frames)
        whole = torch.cat(session.latents, dim=1)
    with torch.no_grad():
        pixels = models.vae.decode(whole)[0].permute(0, 2, 3, 1)
    assert np.abs((pixels.numpy() + 1) * 127.5 - frames).max() <= 0.51


@pytest.mark.parametrize("cleared", [None, 5, 37])
def test_a_stream_is_rebuilt_to_the_bit_without_its_beginning(models, cleared):
    import studio.live.rebuild as module
    from studio.live.orders import Order

    latents = [torch.randn(1, 3, 4, 4, 6) for _ in range(40)]
    orders = [Order(prompt=FOX, number=0, policy="clear" if i == cleared else None) for i in range(40)]
    with torch.inference_mode():
        whole = models.vae.stream()
        for block, order in zip(latents[:-1], orders, strict=False):
            models.vae.decode(block, whole, cut=order.policy == "clear")
        short = rebuild_stream(models.vae, latents[:-1], orders[:-1], 3)
        assert module.warm_blocks(models.vae, 3) < 39
        assert torch.equal(models.vae.decode(latents[-1], whole), models.vae.decode(latents[-1], short))


@pytest.mark.parametrize("policy", ["clear", "recache", "keep"])
def test_a_cleared_cache_is_a_cut_and_time_goes_on(models, policy):
    with Session(models, timeline=Timeline.of(FOX, length=6)) as session:
        session.switch(SEA, policy=policy, at=3)
        run(session, 6)
        frames, latents = session.clip(0, session.stats.generated_frames), session.latents
        first = session.timeline.start_frame(3)
    assert len(frames) == session.timeline.start_frame(6)
    after = frames[first : first + 12]
    held = all(np.array_equal(after[0], after[i]) for i in range(4))
    assert held == (policy == "clear"), "the first picture of another video stands as long as four"
    if policy == "clear":
        with torch.no_grad():
            alone = models.vae.decode(torch.cat(latents[3:], dim=1))[0].permute(0, 2, 3, 1)
        assert np.abs((alone.numpy() + 1) * 127.5 - frames[first + 3 :]).max() <= 0.51


# The tree


def test_takes_are_a_tree_with_names(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        events = []
        session.subscribe(lambda event: events.append((event.kind, event.payload)))
        run(session, 4)
        first = session.latents
        fork = session.fork(2, prompt=SEA, name="to the sea")
        assert (fork.number, fork.name, fork.parent, fork.forked_at, fork.blocks) == (1, "to the sea", 0, 2, 2)
        run(session, 4)
        assert session.timeline.segment_at(2).prompt == SEA
        second = session.latents
        assert same(second[:2], first[:2]) and not torch.equal(second[2], first[2])
        session.fork(3, seed=9)
        assert [(t.name, t.parent, t.current) for t in session.takes] == [
            ("take 1", None, False),
            ("to the sea", 0, False),
            ("take 3", 1, True),
        ]
        assert [take.name for take in session.takes.children("take 1")] == ["to the sea"]
        assert repr(session.takes).splitlines()[1].startswith("  - to the sea: 4 blocks, from block 2")
        session.takes.choose("take 1")
        assert session.timeline.segments == (Segment(FOX),)
        assert same(session.latents, first)
        assert session.take == 0
        run(session, 5)
        assert [record.block for record in session.log if record.resumed] == [4]
        session.takes.rename("take 1", "the fox")
        session.takes.remove("to the sea")
        assert [(take.name, take.parent) for take in session.takes] == [("the fox", None), ("take 3", 0)]
        assert [kind for kind, _ in events if kind == "takes"]
        assert session.takes.log("take 3")[2].prompt == SEA
        assert session.takes.timeline("take 3").seed == 9


@pytest.mark.parametrize(
    ("at", "options", "words"),
    [
        (9, {}, "the take has 2 blocks"),
        (-1, {}, "from 0 to 2"),
        (1.5, {}, "whole number"),
        (1, {"prompt": ""}, "must not be empty"),
        (1, {"policy": "drop"}, "`policy` must be one of"),
        (1, {"seed": -1}, "`seed`"),
        (1, {"take": "no such"}, "there is no take 'no such'"),
        (1, {"take": 7}, "there is no take 7; their numbers are 0"),
        (1, {"take": True}, "there is no take True"),
        (1, {"name": "take 1"}, "already"),
        (1, {"name": "a\x00b"}, "control characters"),
        (1, {"timeline": Timeline.of(FOX), "prompt": SEA}, "says prompt and policy itself"),
        (2, {"timeline": Timeline.of(FOX, length=1)}, "at least the 2 blocks it shares"),
        (1, {"timeline": Timeline.of(SEA, length=9)}, "differs at block 0"),
        (1, {"timeline": Timeline((Segment(FOX),), fps=5)}, "frames/s"),
    ],
)
def test_bad_forks(models, at, options, words):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        run(session, 2)
        with pytest.raises(ValueError, match=words):
            session.fork(at, **options)
        assert len(session.takes) == 1
        run(session, 3)


def test_made_up_names_are_free_ones(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        run(session, 2)
        session.takes.rename(0, "take 2")
        session.restart()
        assert [take.name for take in session.takes] == ["take 2", "take 3"]
        session.takes.rename(0, "take 4")
        session.fork(1, take=0)
        assert session.takes.current.name == "take 5"
        session.start_from(np.zeros((16, 24, 3), np.uint8))
        names = [take.name for take in session.takes]
        assert len(set(names)) == len(names)
        assert session.takes.number(session.takes.current.name) == session.take


def test_a_restart_moves_the_forks_of_a_take_without_blocks_up(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        session.fork(0, name="b")
        session.fork(0, name="c")
        session.takes.choose("b")
        session.restart()
        assert [(take.name, take.parent) for take in session.takes] == [("take 1", None), ("c", 0), ("take 4", None)]
        session.takes.choose("take 1")
        session.restart()
        assert [(take.name, take.parent) for take in session.takes][:2] == [("c", None), ("take 4", None)]
        assert len(repr(session.takes).splitlines()) == len(session.takes)
        session.takes.choose("c")
        run(session, 1)


@pytest.mark.parametrize("options", [{"prompt": SEA}, {"policy": "recache"}, {"prompt": SEA, "policy": "clear"}])
def test_a_fork_at_the_end_goes_on_for_some_seconds(models, options):
    with Session(models, timeline=Timeline.of(FOX, length=2)) as session:
        run(session, 2)
        assert session.state == "finished"
        session.fork(2, **options)
        assert session.timeline == Timeline.of(FOX, length=2).put(session.timeline.segment_at(2))
        assert session.timeline.length == 2 + SEGMENT_BLOCKS
        run(session, 4)
        assert session.state == "paused"
        session.fork(1, take=0, prompt=SNOW)
        assert session.timeline.length == 2, "it ends where its take did as long as that leaves it a block"


def test_bad_names_and_removals(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        run(session, 1)
        session.fork(1, name="b")
        for act, words in [
            (lambda: session.takes.remove("b"), "is the current take"),
            (lambda: session.takes.remove("c"), "there is no take"),
            (lambda: session.takes.rename("b", "take 1"), "already"),
            (lambda: session.takes.choose(5), "there is no take 5"),
        ]:
            with pytest.raises(ValueError, match=words):
                act()
    with pytest.raises(RuntimeError, match="closed"):
        session.fork(0)


# The past


def test_the_past_can_be_kept_forked_or_made_again(models):
    with Session(models, timeline=Timeline((Segment(FOX), Segment(SEA, 2)), 8)) as session:
        run(session, 5)
        change = Change((1,), {"prompt": SNOW})
        with pytest.raises(PastEdit, match="the past cannot be edited") as caught:
            session.edit(change)
        assert (caught.value.block, caught.value.begun, caught.value.choices[1]) == (2, 5, "fork")
        session.edit(change, past="keep")
        assert [(s.start, s.prompt) for s in session.timeline.segments] == [(0, FOX), (2, SEA), (5, SNOW)]
        assert len(session.takes) == 1
        session.edit(change, past="fork")
        assert [(s.start, s.prompt) for s in session.timeline.segments] == [(0, FOX), (2, SNOW), (5, SNOW)]
        assert session.takes.current.forked_at == 2
        run(session, 6)
        session.edit(Change((1,), {"prompt": FOX}), past="regenerate")
        assert len(session.takes) == 2
        assert session.takes.current.blocks == 2
        assert session.takes.current.name == "take 2"
        run(session, 3)
        assert session.log[2].prompt == FOX


def test_undo_and_redo_of_a_running_take(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        run(session, 2)
        start = session.timeline
        session.edit(Put(Segment(SEA, 4)))
        session.switch(SNOW, at=6)
        session.edit({"op": "length", "length": 9})
        end = session.timeline
        assert session.editor.version == 3
        for _ in range(3):
            session.undo()
        assert session.timeline == start
        with pytest.raises(RuntimeError, match="nothing to undo"):
            session.undo()
        for _ in range(3):
            session.redo()
        assert session.timeline == end
        with pytest.raises(RuntimeError, match="nothing to redo"):
            session.redo()
        run(session, 5)
        for _ in range(2):
            session.undo()
        with pytest.raises(PastEdit):
            session.undo()
        session.undo(past="fork")
        assert session.timeline == start
        assert session.takes.current.forked_at == 4


def test_a_block_under_way_when_its_take_is_left_is_dropped_though_the_take_comes_back(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        run(session, 2)
        blocker = Blocker(models, call=1)
        session.step()
        assert blocker.reached.wait(60)  # inside block 2, under the first prompt
        session.fork(1, name="away")
        session.takes.choose(0)
        session.edit(Put(Segment(SEA, 2)))
        blocker.remove()
        run(session, 3)
        assert [record.prompt for record in session.log] == [FOX, FOX, SEA]
        line = session.timeline.with_length(3)
        made = session.latents
    with Session(models, timeline=line) as again:
        list(again.frames())
        assert same(again.latents[:2], made[:2])


def test_undo_goes_back_over_a_fork_and_redo_to_it(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        run(session, 4)
        session.edit(Put(Segment(SEA, 9)))
        first, told = session.timeline, lambda: session.editor.describe()["history"]
        session.edit(Change((0,), {"prompt": SNOW}), past="fork")
        assert (told()["undo"], told()["redo"], session.editor.can_undo) == ("fork", None, True)
        session.edit(Put(Segment(SEA, 6)))
        second = session.timeline
        assert told()["undo"] == "put"
        session.undo()
        assert session.take == 1
        session.undo()
        assert (session.take, session.timeline, len(session.takes)) == (0, first, 2)
        assert (told()["undo"], told()["redo"]) == ("put", "fork")
        # What was taken back here is done again first, then the fork.
        session.undo()
        assert told()["redo"] == "put"
        session.redo()
        session.redo()
        assert session.take == 1
        session.redo()
        assert session.timeline == second
        assert not session.editor.can_redo
        # Another edit of the first take gives the way to the fork up.
        session.undo()
        session.undo()
        session.edit(Put(Segment(SNOW, 12)))
        assert told()["redo"] is None
        with pytest.raises(RuntimeError, match="nothing to redo"):
            session.redo()
        # Without the take it came from a fork has nothing before it.
        session.takes.choose(1)
        session.takes.remove(0)
        session.undo() if told()["undo"] == "put" else None
        assert (told()["undo"], session.editor.can_undo) == (None, False)
        with pytest.raises(RuntimeError, match="nothing to undo"):
            session.undo()


def test_an_edit_that_makes_the_take_again_is_undone_like_any_other(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        run(session, 3)
        session.edit(Put(Segment(SEA, 9)))
        before = session.timeline
        session.edit(Change((0,), {"prompt": SNOW}), past="regenerate")
        after = session.timeline
        assert (len(session.takes), session.takes.current.blocks) == (1, 0)
        assert [session.editor.describe()["history"][name] for name in ("undo", "redo")] == ["change", None]
        session.undo()
        assert session.timeline == before
        session.redo()
        assert session.timeline == after
        run(session, 2)
        with pytest.raises(PastEdit):
            session.undo()
        session.undo(past="regenerate")
        assert (session.timeline, len(session.takes)) == (before, 1)
        session.undo()
        assert session.timeline == Timeline.of(FOX)


def test_a_split_of_what_was_made_is_no_change_of_it(models):
    with Session(models, timeline=Timeline.of(FOX, SEA, blocks=3, length=9)) as plain:
        run(plain, 7)
        expected = [record.latents for record in plain.log]
    with Session(models, timeline=Timeline.of(FOX, SEA, blocks=3, length=9)) as session:
        run(session, 5)
        for at in (1, 4, 6):
            session.edit(Split(at))
        assert [segment.start for segment in session.timeline.segments] == [0, 1, 3, 4, 6]
        run(session, 7)
        assert [record.latents for record in session.log] == expected
        assert [record.segment for record in session.log] == [0, 0, 0, 1, 1, 1, 1]
        for _ in range(3):
            session.undo()
        assert len(session.timeline.segments) == 2
        session.redo()
        # What is changed after a split is the half that was made under another prompt.
        with pytest.raises(PastEdit) as caught:
            session.edit(Change((1,), {"prompt": SNOW}))
        assert caught.value.block == 1


@pytest.mark.parametrize(
    ("operation", "options", "words"),
    [
        ({"op": "spilt", "at": 3}, {}, 'did you mean "split"'),
        ({"op": "split"}, {}, "is not complete; add at"),
        (Split(3), {"past": "drop"}, "`past` must be one of"),
        (Split(3), {"version": 7}, "changed meanwhile"),
        (SetLength(0), {}, "`length`"),
        (3, {}, "must be an Operation"),
    ],
)
def test_bad_edits(models, operation, options, words):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        before = session.timeline
        with pytest.raises(ValueError, match=words):
            session.editor.apply(operation, **options)
        assert session.timeline == before


def test_messages_are_answered(models):
    with Session(models, timeline=Timeline.of(FOX, SEA, blocks=2, length=6)) as session:
        run(session, 3)
        obey = session.editor.obey
        put = {"op": "put", "segment": {"start_block": 5, "prompt": SNOW, "transition": {"blocks": 1}}}
        assert obey({"do": "apply", "operation": put, "version": 0}) == {"error": None, "past": None, "version": 1}
        shown = session.editor.describe()
        assert [(s["start_block"], s["end_block"], s["when"]) for s in shown["segments"]] == [
            (0, 2, "past"),
            (2, 5, "now"),
            (5, 6, "future"),
        ]
        assert shown["history"] == {"version": 1, "undo": "put", "redo": None, "steps": [1, 0]}
        assert preview(session.timeline)["shares"][4:] == [[0, 1, 0], [0, 0.5, 0.5]]
        assert obey({"do": "undo"})["version"] == 2
        assert obey({"do": "redo"})["version"] == 3
        late = {"do": "apply", "operation": {"op": "change", "segments": [0], "changes": {"prompt": SNOW}}}
        answer = obey(late)
        assert answer["past"] == {"block": 0, "begun": 3, "choices": ["keep", "fork", "regenerate"]}
        assert "the past cannot be edited" in answer["error"]
        assert obey({**late, "past": "fork"})["error"] is None
        assert session.takes.current.forked_at == 0
        assert obey({"do": "undo"})["error"] is None
        assert session.take == 0
        assert obey({"do": "undo"})["error"] is None
        for bad, words in [
            (None, "must be an object"),
            ({"do": "paint"}, "`do` must be one of"),
            ({"do": "undo"}, "nothing to undo"),
            ({"do": "apply"}, "must name an operation"),
            ({"do": "apply", "operation": put, "version": 9}, "changed meanwhile"),
            ({"do": "apply", "operation": put, "past": 3}, "`past` must be one of"),
            ({"do": "apply", "op": put}, "unknown key 'op'"),
        ]:
            assert words in obey(bad)["error"]


def test_latents_are_saved_with_their_log(models, tmp_path):
    with Session(models, timeline=Timeline.of(FOX, length=2)) as session:
        with pytest.raises(ValueError, match="at least one block"):
            session.save_latents(tmp_path / "none.safetensors")
        list(session.frames())
        path = session.save_latents(tmp_path / "take.safetensors")
        assert read_log(path) == session.log
        with pytest.raises(FileExistsError, match="exists"):
            session.save_latents(path)
        session.save_latents(path, force=True)
    assert list(tmp_path.iterdir()) == [path]


def test_a_split_changes_nothing_of_the_video(models):
    plain = Timeline.of(FOX, length=5)
    assert same(of(models, plain), of(models, Split(3).apply(plain)))


# Mixes


@pytest.mark.parametrize("kind", ["linear", "spherical"])
@pytest.mark.parametrize("policy", ["recache", "keep", "clear"])
def test_mixes_play_are_logged_and_replay(models, kind, policy):
    soft = Segment(SEA, 2, policy=policy, transition=Transition(2, kind), blend=(Weighted(SNOW, 0.5),))
    line = Timeline((Segment(FOX), soft), 6)
    with Session(models, timeline=line) as session:
        events = []
        session.subscribe(lambda event: events.append(event))
        list(session.frames())
        log, made = session.log, session.latents
        # A block is in the consumer's hands before everybody has heard of it.
        blocks = wait_for(lambda: len(found := [e.payload for e in list(events) if e.kind == "block"]) == 6 and found)
        assert [block.switch is not None for block in blocks] == [False, False, True, False, False, False]
        recaches = [record.block for record in log if record.policy == "recache"]
        assert recaches == ([2, 3, 4] if policy == "recache" else [])
        assert log[3].mix.weights == pytest.approx(line.weights_at(3))
        if kind == "linear":
            assert same(of(models, session.script), made)
        else:
            with pytest.raises(ValueError, match="replay the log"):
                session.script  # noqa: B018
    assert not same(of(models, Timeline((Segment(FOX), Segment(SEA, 2, policy=policy)), 6)), made)
    again = replay(TakeLog.from_json(log.to_json()), models)
    assert again.same and same(again.latents, made)


def test_a_live_switch_may_be_soft_and_blended(models):
    with Session(models, timeline=Timeline.of(FOX)) as session:
        run(session, 2)
        switch = session.switch(SEA, transition=Transition(1), blend=[Weighted(SNOW, 3)])
        run(session, 4)
        assert switch.effective_block == 2
        assert session.log[2].mix.weights == {FOX: 0.5, SEA: 0.125, SNOW: 0.375}
        assert session.log[3].mix.weights == {SEA: 0.25, SNOW: 0.75}
        assert replay(session.log, models).same
        for options, words in (({"transition": 3}, "must be a Transition"), ({"blend": [SNOW]}, "must be a Weighted")):
            with pytest.raises(ValueError, match=words):
                session.switch(FOX, **options)


# Replay


def test_any_tree_of_takes_replays_bit_for_bit(models):
    with Session(models, timeline=Timeline.of(FOX, seed=3)) as session:
        run(session, 7)
        session.switch(SEA)
        run(session, 9)
        session.fork(6, prompt=SNOW, policy="keep", seed=8)
        run(session, 10)
        session.fork(8, policy="clear")
        run(session, 9)
        session.takes.choose("take 1")
        run(session, 10)
        for take in list(session.takes):
            log = session.takes.log(take.number)
            session.takes.choose(take.number)
            again = replay(TakeLog.from_json(log.to_json()), models)
            assert again.same and again.differences == ()
            assert same(again.latents, session.latents)


def test_a_replay_says_what_is_not_the_same(models):
    with Session(models, timeline=Timeline.of(FOX, length=3)) as session:
        list(session.frames())
        log = session.log
    other = tiny_models()
    with torch.no_grad():
        next(other.dit.parameters()).add_(0.01)
    found = replay(log, other)
    assert not found.same and found.differing == (0, 1, 2)
    assert any(line.startswith("another weights") for line in found.differences)
    with pytest.raises(ValueError, match="at least one block"):
        replay(TakeLog((), log.origin), models)


def test_a_log_round_trips_in_a_file(models, tmp_path):
    with Session(models, timeline=Timeline.of(FOX, SEA, blocks=1, length=2)) as session:
        list(session.frames())
        session.log.save(tmp_path / "take.json")
        assert read_log(tmp_path / "take.json") == session.log
        assert session.log == list(session.log.records)
        assert session.log.origin.model == "tiny"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda head: head.update(format="other"), 'of format "studio-log"'),
        (lambda head: head.update(version=2), "version 1"),
        (lambda head: head.update(extra=1), "unknown key 'extra'"),
        (lambda head: head.pop("origin"), "`origin` must be an object"),
        (lambda head: head["origin"].pop("weights"), "weights is missing"),
        (lambda head: head.update(blocks={}), "`blocks` must be a list"),
        (lambda head: head["blocks"][1].update(block=5), r"blocks\[1\].*use 1"),
        (lambda head: head["blocks"][0].update(prompt=""), r"blocks\[0\].*must not be empty"),
        (lambda head: head["blocks"][0].update(policy="drop"), r"blocks\[0\].*`policy`"),
        (lambda head: head["blocks"][0].update(seed=-1), r"blocks\[0\].*`seed`"),
        (lambda head: head["blocks"][0].update(mix={"parts": []}), "at least one prompt"),
        (lambda head: head["blocks"][0].update(sed=3), 'did you mean "seed"'),
    ],
)
def test_bad_logs(models, tmp_path, change, words):
    import json

    with Session(models, timeline=Timeline.of(FOX, length=2)) as session:
        list(session.frames())
        head = json.loads(session.log.to_json())
    change(head)
    (tmp_path / "bad.json").write_text(json.dumps(head))
    with pytest.raises(ValueError, match=words):
        read_log(tmp_path / "bad.json")


def test_files_without_a_log(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no log"):
        read_log(tmp_path / "none.json")
    for name, content in [("a.json", b"{"), ("b.json", b"\xff\xfe"), ("c.mp4", b"none"), ("d.safetensors", b"none")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name.split(".")[0]):
            read_log(tmp_path / name)


@pytest.fixture(params=[0, 2**40])
def resting(request, monkeypatch):
    """Takes at rest keep nothing of their decoder, or all of it."""
    monkeypatch.setattr("studio.live.take.RESTING", request.param)


def frames_of(models, line: Timeline) -> np.ndarray:
    """Every frame of a timeline with an end, made without a stop."""
    with Session(models, timeline=line) as session:
        run(session, line.length)
        return session.clip(0, session.stats.generated_frames)


@pytest.mark.usefixtures("resting")
def test_frames_after_a_decode_that_failed_half_way_are_those_of_one_that_did_not(models):
    line = Timeline.of(FOX, length=6)
    wanted, calls = frames_of(models, line), itertools.count()

    def fail(*_):
        if next(calls) == 3:
            raise RuntimeError("in the middle of a chunk")

    handle = models.vae.decoder.head[2].register_forward_pre_hook(fail)
    with Session(models, timeline=line) as session:
        run(session, 3)
        session.step()
        wait_for(lambda: session.error)
        assert "middle of a chunk" in session.error.message
        run(session, 6)
        assert np.array_equal(session.clip(0, session.stats.generated_frames), wanted)
    handle.remove()


@pytest.mark.usefixtures("resting")
def test_a_take_left_while_it_decodes_goes_on_as_if_it_had_not_been(models):
    line = Timeline.of(FOX, length=5)
    wanted = frames_of(models, line)
    with Session(models, timeline=line) as session:
        run(session, 3)
        reached, release = threading.Event(), threading.Event()

        def hold(*_):
            reached.set()
            assert release.wait(60)

        handle = models.vae.decoder.head[2].register_forward_pre_hook(hold)
        seat = session.attach()
        seat.played(60)
        session.play()
        assert reached.wait(60)
        other = session.fork(2)
        session.pause()
        release.set()
        wait_for(lambda: session.state == "paused")
        handle.remove()
        seat.close()
        assert session.takes[other.number].blocks == 2
        session.takes.choose(0)
        run(session, 5)
        made_after = line.start_frame(3)  # what was shown before is kept a little smaller
        assert np.array_equal(session.clip(made_after, len(wanted)), wanted[made_after:])


def test_a_stream_goes_on_only_where_it_stands(models):
    from studio.live.orders import Order
    from studio.live.rebuild import goes_on

    orders = [Order(prompt=FOX, number=0, policy="clear" if i == 2 else None) for i in range(6)]
    stream = models.vae.stream()
    with torch.inference_mode():
        for block in range(4):
            assert goes_on(stream, block, orders, 3)
            assert not goes_on(stream, block + 1, orders, 3)
            models.vae.decode(torch.randn(1, 3, 4, 4, 6), stream, cut=orders[block].policy == "clear")
    assert goes_on(stream, 4, orders, 3)
    assert not goes_on(stream, 3, orders, 3)
    assert not goes_on(None, 4, orders, 3)
    stream.spoilt = True
    assert not goes_on(stream, 4, orders, 3)
