"""What a foreign format cannot hold of a timeline, in words."""

from __future__ import annotations

from studio.timeline.value import Timeline


class Losses:
    """Finds what is in a timeline beyond prompts and starts.

    Args:
        timeline: what would be written.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    def of(self, *names: str) -> list[str]:
        """Describe what a format without some things would lose.

        Args:
            names: what the format does not have: "blends", "transitions", "policies", "sink_policies", "colours",
                "notes", "markers", "seed" or "length".

        Returns:
            Short descriptions of what is really there; empty when nothing is lost.
        """
        return [text for name in names if (text := getattr(self, name)())]

    def _any(self, name: str, plural: str) -> str:
        return f"the {plural}" if any(getattr(segment, name) for segment in self.timeline.segments) else ""

    def blends(self) -> str:
        """Further prompts and their weights."""
        return self._any("blend", "blends of prompts, of which the first is kept")

    def transitions(self) -> str:
        """Soft switches."""
        return self._any("transition", "transitions")

    def policies(self) -> str:
        """What the switches do to the cache."""
        return self._any("policy", "policies")

    def sink_policies(self) -> str:
        """What the switches do to the sink."""
        return self._any("sink_policy", "sink policies")

    def colours(self) -> str:
        """Colours of segments."""
        return self._any("colour", "colours")

    def notes(self) -> str:
        """Notes of segments."""
        return self._any("note", "notes")

    def markers(self) -> str:
        """Named places."""
        return "the markers" if self.timeline.markers else ""

    def seed(self) -> str:
        """A seed other than 0."""
        return f"the seed {self.timeline.seed}" if self.timeline.seed else ""

    def length(self) -> str:
        """Where the video ends."""
        return "" if self.timeline.length is None else f"the length of {self.timeline.length} blocks"
