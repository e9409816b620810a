"""What the recache lab's widget asks of whatever makes the takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

__all__ = ["LabSource"]


@runtime_checkable
class LabSource(Protocol):
    """Makes one take under several policies; `studio.live.lab.Lab` says what each member is."""

    @property
    def name(self) -> str: ...
    @property
    def units(self) -> Any: ...
    @property
    def settings(self) -> Any: ...
    @property
    def version(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def error(self) -> Any: ...
    @property
    def blocks(self) -> Sequence[Any]:
        """Every block so far; each names the `version` of the settings that it was made for."""
        ...

    @property
    def runs(self) -> Sequence[Any]: ...

    @property
    def judged(self) -> bool: ...

    def unknown_words(self, text: str) -> list[Any]:
        """Words of a text that the model has never seen."""
        ...

    def table(self) -> list[dict[str, Any]]:
        """The summary, a row a policy."""
        ...

    def change(self, **changes: Any) -> Any:
        """Compare something else."""
        ...

    def subscribe(self, listener: Callable[[str, Any], None]) -> Callable[[], None]:
        """Announce what happens."""
        ...

    def close(self) -> None:
        """End it; harmless when repeated."""
        ...
