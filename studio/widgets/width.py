"""The width of a widget."""

from __future__ import annotations

__all__ = ["check_width"]


def check_width(width: str | int) -> str:
    """Check a width.

    Args:
        width: CSS text as "800px" or "100%", or a number of pixels.

    Returns:
        CSS text.

    Raises:
        ValueError: If it is no width.
    """
    text = f"{width}px" if isinstance(width, int) else width.strip()
    number = text.removesuffix("px") if text.endswith("px") else text.removesuffix("%")
    if number == text or not number.isascii() or not number.isdigit() or int(number) == 0:
        raise ValueError(f'`width` must be a width like 800, "800px" or "100%", got {width!r}')
    return text
