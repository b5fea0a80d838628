"""One style for all pictures: colours, matplotlib's settings, and files written whole."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError
from ..files import replacing
from .fonts import use_fonts_for_every_script

Function = TypeVar("Function", bound=Callable[..., Any])

INK, MUTED, GRID, PAPER = "#1f2933", "#616e7c", "#e4e7eb", "#ffffff"
PALETTE = (
    "#2f6fde", "#e8743b", "#2a9d8f", "#b5179e", "#e9b200",
    "#7a5195", "#c1121f", "#4cc9f0", "#606c38", "#8d5b4c",
)  # fmt: skip
BLUE, PALE, OTHERS, HIDDEN = PALETTE[0], "#c9dcfb", "#b8c0c8", "#d9dde3"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: the browser has fonts for every script
    "svg.hashsalt": "EAT",
    "text.parse_math": False,  # a name may hold dollar signs
    "text.color": INK,
    "figure.facecolor": PAPER,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": INK,
}
KINDS = ("png", "svg", "pdf")


def check_library() -> None:
    """Raise ConfigError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("pictures need matplotlib: pip install 'eat-audio[plot]'.") from None


def styled(function: Function) -> Function:
    """Run a function that draws or saves in this style, without changing anybody else's settings."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        check_library()
        import matplotlib

        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def new_figure(width: float, height: float) -> Any:
    """An empty figure, sizes in inches; to be called by a :func:`styled` function."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def check_kind(output: str | Path) -> str:
    """The format that a picture's ending asks for. Raises ConfigError for one that is not written."""
    kind = Path(output).suffix.lstrip(".").lower()
    if kind not in KINDS:
        raise ConfigError(f"{output} does not end in the name of a picture format: .{', .'.join(KINDS)}.")
    return kind


@styled
def save(figure: Any, output: str | Path) -> None:
    """Write a picture whole; its format is the ending of ``output``.

    Raises:
        ConfigError: for an ending that names none.
        DataError: where it cannot be written.
    """
    kind = check_kind(output)
    use_fonts_for_every_script(figure, keeps_text=kind == "svg")
    with replacing(output, "wb") as handle:
        figure.savefig(handle, format=kind, dpi=150)


def bare(axes: Any) -> None:
    """Take spines and tick marks off."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def shorten(text: str, length: int = 34) -> str:
    """A name that fits beside a picture, on one line."""
    text = "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text)
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"
