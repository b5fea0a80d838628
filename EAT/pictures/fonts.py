"""Fonts for what matplotlib's own does not have: Chinese, Japanese, Korean, Devanagari and others."""

from __future__ import annotations

import contextlib
import logging
from functools import lru_cache
from typing import Any

logger = logging.getLogger("EAT")

OWN = "DejaVu Sans"
"""The font that comes with matplotlib."""
BOXES = "Last Resort"
"""A font that has a box for every letter."""


@lru_cache(maxsize=256)
def _letters(path: str) -> frozenset[int]:
    """What a font file can write; nothing where it cannot be opened."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@lru_cache(maxsize=1)
def _look_for_new_fonts() -> None:
    """Have matplotlib know the fonts that were installed since it made its list."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {font.fname for font in fontManager.ttflist}
    for path in sorted(set(findSystemFonts()) - known):
        with contextlib.suppress(OSError, RuntimeError):  # a damaged file, or a kind that it does not read
            fontManager.addfont(path)


def _choose(missing: set[int]) -> tuple[list[str], set[int]]:
    """Names of as few of the known fonts as a greedy choice needs for some letters, and those that none has."""
    from matplotlib.font_manager import fontManager

    plain = [font for font in fontManager.ttflist if font.style == "normal" and str(font.weight) in ("400", "normal")]
    fonts = {font.name: font.fname for font in plain if not font.name.startswith(BOXES)}
    chosen: list[str] = []
    while missing:
        found = {name: missing & _letters(path) for name, path in fonts.items()}
        best = min(found, key=lambda name: (-len(found[name]), name))
        if not found[best]:
            break
        chosen.append(best)
        missing = missing - found[best]
    return chosen, missing


def fonts_for(letters: set[int]) -> tuple[list[str], set[int]]:
    """Installed fonts that have what matplotlib's own does not.

    Args:
        letters: code points.

    Returns:
        The fonts' names, and the code points that none has.
    """
    from matplotlib.font_manager import findfont

    wanted = letters - _letters(findfont(OWN))
    chosen, missing = _choose(wanted)
    if missing:
        _look_for_new_fonts()
        chosen, missing = _choose(wanted)
    return chosen, missing


def use_fonts_for_every_script(figure: Any, keeps_text: bool) -> None:
    """Give each text of a figure fonts that have its letters; say on the log what no font has.

    Args:
        figure: matplotlib's, not drawn yet.
        keeps_text: whether its file holds letters rather than their shapes, so that the viewer's fonts count.
    """
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if not text.get_text().isascii()]
    fonts, missing = fonts_for({ord(letter) for text in texts for letter in text.get_text() if letter.isprintable()})
    if fonts:
        for text in texts:
            text.set_fontfamily([OWN, *fonts])
    if missing and not keeps_text:
        shown = " ".join(chr(letter) for letter in sorted(missing)[:10])
        logger.warning(
            f"{len(missing)} letters that no installed font has are drawn as boxes ({shown}); install one, such as "
            "Debian's fonts-noto-cjk, or write an .svg, which takes the fonts of whoever looks at it"
        )
