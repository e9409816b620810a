"""One colour a prompt, and the same one for as long as the widget lives."""

from __future__ import annotations

from collections import Counter

from studio.timeline import Timeline

__all__ = ["COLOURS", "HEXES", "Palette", "css"]

# How many colours the style sheet defines: those of Okabe and Ito, which colour-blind eyes tell apart.
COLOURS = 7
HEXES = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#f0e442")


class Palette:
    """Gives each prompt a place in the palette."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._before: dict[int, str] = {}

    def colours(self, timeline: Timeline) -> list[int | str]:
        """Colours of the segments.

        A prompt that was edited in place keeps the colour of its segment; a new one gets the colour used least.

        Args:
            timeline: The timeline.

        Returns:
            For each segment its own colour if it has one, else a place in the palette from 0 to `COLOURS` - 1.
        """
        prompts = {segment.prompt for segment in timeline.segments}
        used = Counter(self._places[prompt] for prompt in prompts if prompt in self._places)
        for segment in timeline.segments:
            if segment.prompt in self._places:
                continue
            former = self._before.get(segment.start)
            if former is not None and former not in prompts:
                self._places[segment.prompt] = self._places[former]
                used[self._places[former]] += 1
            else:
                self._place(segment.prompt, used)
        self._before = {segment.start: segment.prompt for segment in timeline.segments}
        return [segment.colour or self._places[segment.prompt] for segment in timeline.segments]

    def shades(self, timeline: Timeline) -> dict[str, int]:
        """Places of the prompts that are mixed in, by prompt; those of segments keep theirs.

        Args:
            timeline: The timeline; `colours` was asked for it before.

        Returns:
            For each further prompt of a blend its place in the palette.
        """
        mixed = list(dict.fromkeys(part.prompt for segment in timeline.segments for part in segment.blend))
        if not mixed:
            return {}
        shown = {segment.prompt for segment in timeline.segments} | set(mixed)
        used = Counter(self._places[prompt] for prompt in shown if prompt in self._places)
        for prompt in mixed:
            if prompt not in self._places:
                self._place(prompt, used)
        return {prompt: self._places[prompt] for prompt in mixed}

    def _place(self, prompt: str, used: Counter[int]) -> None:
        self._places[prompt] = min(range(COLOURS), key=lambda place: (used[place], place))
        used[self._places[prompt]] += 1


def css(colour: int | str) -> str:
    """A place in the palette, or a colour of its own, as a hexadecimal colour.

    Args:
        colour: As `Palette.colours` gives it.

    Returns:
        As "#e69f00".
    """
    return HEXES[colour % COLOURS] if isinstance(colour, int) else colour
