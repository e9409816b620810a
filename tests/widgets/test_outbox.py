"""What pages ask for, served in turn: two takes beside each other, and nothing for pages that are gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from studio.events import DecodedBlock
from studio.widgets.outbox import Outbox

Sent = list[tuple[int, int]]


def block(take: int, index: int) -> DecodedBlock:
    """A block that can be had again."""
    first = 9 + 12 * (index - 1) if index else 0
    frames = np.zeros((12, 8, 8, 3), np.uint8)
    return DecodedBlock(index=index, first_frame=first, frames=frames, prompt="a fox", segment=0, take=take)


@pytest.fixture
def sent() -> Sent:
    """Takes and numbers of the blocks that were sent."""
    return []


@pytest.fixture
def outbox(sent: Sent) -> Iterator[Outbox]:
    def send(message: dict, buffers: list[bytes] | None) -> None:
        if message["type"] == "block":
            sent.append((message["take"], message["index"]))

    made = Outbox(send, lambda frames, level: [b"x"] * len(frames), fetch=block, timeout_s=0.3, silent_s=30)
    yield made
    made.close()


def until(found: Callable[[], bool], sent: Sent) -> None:
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline, sent
        time.sleep(0.005)


def fill(outbox: Outbox, sent: Sent) -> None:
    """Let the pages have as many blocks unconfirmed as may be, so that all else waits."""
    for index in range(2):
        outbox.post_block(block(0, index))
    until(lambda: len(sent) == 2, sent)


def confirm(outbox: Outbox, client: str, sent: Sent, count: int) -> None:
    """Confirm one by one until so many have arrived."""
    while len(sent) < count:
        before = len(sent)
        outbox.ack(client, before - 1)
        until(lambda before=before: len(sent) > before, sent)


def test_two_takes_beside_each_other_are_served_in_turn(outbox: Outbox, sent: Sent) -> None:
    outbox.join("page")
    fill(outbox, sent)
    outbox.want("page", 0, range(10, 13))
    outbox.want("page", 1, range(40, 42))
    outbox.want("page", 1, range(20, 23))  # Of this take the last question counts, and only of this one.
    confirm(outbox, "page", sent, 8)
    assert sent[2:] == [(0, 10), (1, 20), (0, 11), (1, 21), (0, 12), (1, 22)]


def test_pages_that_ask_for_the_same_take_are_served_in_turn(outbox: Outbox, sent: Sent) -> None:
    for name in ("page", "other"):
        outbox.join(name)
    fill(outbox, sent)
    outbox.want("page", 0, range(10, 12))
    outbox.want("other", 0, range(30, 32))
    for serial in range(1, 5):
        for name in ("page", "other"):
            outbox.ack(name, serial)
        until(lambda serial=serial: len(sent) == 2 + serial, sent)
    assert sent[2:] == [(0, 10), (0, 30), (0, 11), (0, 31)]


@pytest.mark.parametrize("gone", ["given up", "left", "reloaded"])
def test_what_a_page_asked_for_goes_with_it(outbox: Outbox, sent: Sent, gone: str) -> None:
    for name in ("page", "other"):
        outbox.join(name)
    fill(outbox, sent)
    outbox.want("other", 0, range(30, 38))
    outbox.want("page", 0, range(10, 12))
    outbox.ack("page", 2)
    if gone == "left":
        outbox.leave("other")
    elif gone == "reloaded":
        outbox.join("other")
        outbox.ack("page", 2)
    # Otherwise it confirms nothing, and the others stop waiting for it.
    until(lambda: len(sent) == 4, sent)
    time.sleep(0.05)
    assert sent[2:] == [(0, 10), (0, 11)]
