"""The recache lab as a widget: policies side by side, in step, with what each leaves in the cache."""

from __future__ import annotations

import html
import threading
import traceback
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets as t

from studio.comms import keep_subshell
from studio.config import POLICIES
from studio.widgets import protocol
from studio.widgets.cells import Replacing
from studio.widgets.codec import encode_frames, require_simplejpeg
from studio.widgets.labsource import LabSource
from studio.widgets.outbox import Outbox
from studio.widgets.seeing import finite
from studio.widgets.still import png_of
from studio.widgets.thumbs import small
from studio.widgets.width import check_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RecacheLab"]

STATIC = Path(__file__).parent / "static"
KEPT_ERRORS = 100
# Pixels high that a picture of the lab comes close to; larger ones are made smaller on the way.
HEIGHT = 160
SINK_POLICIES = ("keep", "rewrite")

_replacing = Replacing()


class RecacheLab(anywidget.AnyWidget):
    """One seed and one switch of prompt under two to four policies, side by side and in step.

    Each policy has its film, the slots of its cache, and lines of what the cache still holds of the first prompt and of
    how well the film shows each prompt; a table sums up. Prompts, switch, seed and policies can be changed in the page
    and by `lab.change(...)`; everything follows.

    Args:
        lab: What makes the takes, as `studio.compare("miniature", ...)`.
        width: Width of the widget: CSS text as "800px" or "100%", or a number of pixels.

    Raises:
        ImportError: If the library that compresses frames is missing.
        TypeError: If `lab` is not a lab.
        ValueError: If `width` is not a width.
    """

    _esm = STATIC / "studio.js"
    _css = STATIC / "studio.css"

    width = t.Union([t.Unicode(), t.Int()], default_value="100%", help="Width of the widget.").tag(sync=True)
    key = t.Unicode(help="Name of this widget in the front end.").tag(sync=True)
    view = t.Unicode("lab", help="What the front end shows.").tag(sync=True)
    errors = t.List(t.Unicode(), help="What went wrong in the front end or in a message, newest last.")

    def __init__(self, lab: LabSource, *, width: str | int = "100%"):
        if not isinstance(lab, LabSource):
            raise TypeError(
                f'`lab` must be a lab, got {type(lab).__name__}; use studio.RecacheLab(studio.compare("miniature"))'
            )
        require_simplejpeg()
        self._lock = threading.RLock()
        self._lab: LabSource | None = lab
        # Version of the settings that the pages were told of.
        self._announced = -1
        key = uuid.uuid4().hex
        super().__init__(width=width, key=key, model_id=key)
        keep_subshell(self.comm)
        self._outbox = Outbox(self._transmit, lambda frames, level: [])
        self._unsubscribe = lab.subscribe(self._listen)
        self.on_msg(self._receive)
        _replacing.add(self)

    @t.validate("width")
    def _check_width(self, proposal: Any) -> str:
        return check_width(proposal["value"])

    @property
    def lab(self) -> Any:
        """What makes the takes.

        Raises:
            RuntimeError: If the widget is closed.
        """
        if self._lab is None:
            raise RuntimeError("this widget is closed; make another with studio.RecacheLab(lab)")
        return self._lab

    def change(self, **changes: Any) -> Any:
        """Compare something else; see `studio.live.lab.Lab.change`."""
        return self.lab.change(**changes)

    def to_rows(self) -> list[dict[str, Any]]:
        """The summary, a row a policy, ready for `pandas.DataFrame`."""
        return self.lab.table()

    def residue_rows(self) -> list[dict[str, Any]]:
        """A row for each residue measured, ready for `pandas.DataFrame`."""
        return [row for run in self.lab.runs for row in run.rows()]

    def figure(self) -> Figure:
        """Draw the films around the switch and the lines below for print.

        Returns:
            A matplotlib figure, as wide as a page's text.

        Raises:
            ValueError: If nothing was made yet beyond the switch.
        """
        from studio.widgets.labfigure import lab_figure

        return lab_figure(self.lab)

    def close(self) -> None:
        """Take the widget away; the lab stays open."""
        lab, self._lab = getattr(self, "_lab", None), None
        if lab is not None:
            self._unsubscribe()
            self._outbox.close()
        super().close()

    def __repr__(self) -> str:
        if self._lab is None:
            return "RecacheLab(closed)"
        return f"RecacheLab({self._lab.name}, {'; '.join(self._lab.settings.names)}, {self._lab.state})"

    # Events of the lab; called from its thread

    def _listen(self, kind: str, payload: Any) -> None:
        lab = self._lab
        if lab is None or not self._outbox.clients:
            return
        if kind == "block":
            if payload.version > self._announced:  # it was made before whoever changed the settings said so
                self._announce()
            self._outbox.post(*self._block_message(payload))
            if payload.run is not None:
                self._tell_table()
        elif kind == "settings":
            self._announce()
        else:
            self._outbox.post(self._state_message())

    def _announce(self) -> None:
        message = self._lab_message()
        self._announced = max(self._announced, message["version"])
        self._outbox.post(message)

    def _lab_message(self) -> dict[str, Any]:
        lab = self.lab
        settings, units = lab.settings, lab.units
        choices = [*POLICIES, *(("recache", sink) for sink in SINK_POLICIES)]
        return {
            **self._state_message(),
            "type": "lab",
            "name": lab.name,
            "fps": units.fps,
            "width": units.width,
            "height": units.height,
            "grid": {"first": units.frames_in(0), "rest": units.frames_in(1)},
            "first": settings.first,
            "then": settings.then,
            "at": settings.at,
            "blocks": settings.blocks,
            "seed": settings.seed,
            "policies": [list(p) if not isinstance(p, str) else p for p in settings.policies],
            "names": list(settings.names),
            "judged": lab.judged,
            "unknown": [
                {"word": word.word, "nearest": word.nearest}
                for prompt in (settings.first, settings.then)
                for word in lab.unknown_words(prompt)
            ],
            "choices": [list(p) if not isinstance(p, str) else p for p in choices],
        }

    def _state_message(self) -> dict[str, Any]:
        lab = self.lab
        error = lab.error
        return {
            "type": "labstate",
            "version": lab.version,
            "state": lab.state,
            "error": None if error is None else error.message,
        }

    def _block_message(self, block: Any) -> tuple[dict[str, Any], list[bytes]]:
        reading = block.reading
        shares = np.nan_to_num(reading.mass.mean(axis=(0, 1))) if reading.mass.size else np.zeros(len(reading.slots))
        jpegs = encode_frames(np.stack([small(frame, HEIGHT) for frame in block.frames]))
        message = {
            "type": "labblock",
            "version": block.version,
            "run": block.run,
            "block": reading.block,
            "policy": reading.policy,
            "slots": [[slot.frame, slot.role, slot.prompt, slot.written, slot.block] for slot in reading.slots],
            "own": list(reading.own),
            "shares": [float(share) for share in shares],
            "residue": {found.moment: finite(found.total) for found in reading.residues},
            "alignment": {str(number): finite(value) for number, value in reading.alignment.items()},
            "words": [] if reading.trace is None else [reading.trace.share(0), reading.trace.share(1)],
            "warnings": [fault.message for fault in reading.warnings],
            "sizes": [len(jpeg) for jpeg in jpegs],
        }
        return message, [b"".join(jpegs)]

    def _tell_table(self) -> None:
        lab = self.lab
        version, rows = lab.version, lab.table()
        if version != lab.version:  # the rows may be of either; the next block brings them anew
            return
        told = [[finite(value) if isinstance(value, float) else value for value in row.values()] for row in rows]
        self._outbox.post({"type": "labtable", "version": version, "columns": list(rows[0]), "rows": told})

    # Messages from the browser

    def _receive(self, _widget: object, content: object, _buffers: object) -> None:
        try:
            message = protocol.parse(content)
        except ValueError as error:
            self._note(f"a message from the browser was not understood: {error}")
            return
        try:
            self._handle(message)
        except Exception:
            self._note(traceback.format_exc())

    def _handle(self, message: protocol.Incoming) -> None:
        client, kind = message.client, message.kind
        if self._lab is None or kind == "bye":
            self._outbox.leave(client)
            return
        known = self._outbox.heard(client, message.fields.get("hidden"))
        if kind == "ready" or (not known and kind != "failure"):
            self._welcome(client, message.fields.get("hidden", False))
        if kind == "ping":
            self._outbox.post({"type": "pong", "client": client, "id": message["id"]})
        elif kind == "failure":
            self._note(f"{message['message']}\n{message['stack']}".strip())
        elif kind == "lab":
            self._outbox.post(self._answer(client, message["id"], message["changes"]))

    def _welcome(self, client: str, hidden: bool) -> None:
        self._outbox.join(client, hidden)
        self._announce()
        for block in self.lab.blocks:
            self._outbox.post(*self._block_message(block))
        self._tell_table()

    def _answer(self, client: str, number: int, changes: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = {"type": "reply", "client": client, "id": number, "error": None}
        try:
            self.change(**changes)
        except (ValueError, RuntimeError, TypeError) as error:
            reply["error"] = str(error)
            self._outbox.post(self._lab_message())
        return reply

    def _transmit(self, content: dict[str, Any], buffers: list[bytes] | None) -> None:
        try:
            self.send(content, buffers)
        except Exception:
            self._note(traceback.format_exc())

    def _note(self, text: str) -> None:
        with self._lock:
            self.errors = [*self.errors, text][-KEPT_ERRORS:]

    # Without a kernel

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        picture = png_of(self.figure)
        data["text/html"] = self._fallback(picture)
        if picture is not None:
            data["image/png"] = picture
        return data, metadata

    def _fallback(self, data: str | None) -> str:
        text = html.escape(f"{self!r}. Run the cell to see it live.")
        if data is None:
            return f"<p>{text}</p>"
        return f'<p><img alt="{text}" style="max-width:100%" src="data:image/png;base64,{data}"><br>{text}</p>'
