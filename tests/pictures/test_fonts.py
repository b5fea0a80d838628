"""Letters of every script have a font, or a sentence says that they have none."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from matplotlib.font_manager import findfont, findSystemFonts
from matplotlib.ft2font import FT2Font

from EAT.pictures.embeddings_map import Embeddings, draw_map
from EAT.pictures.fonts import OWN, fonts_for
from EAT.pictures.style import save

SCRIPT_A = "\N{MATHEMATICAL BOLD SCRIPT CAPITAL A}"  # of fonts that come with matplotlib in STIX alone
UNKNOWN = "\N{CUNEIFORM SIGN A}"


def drawn(labels: list[str], path: Path) -> np.ndarray:
    vectors = np.random.default_rng(1).normal(size=(len(labels), 4)).astype(np.float32)
    figure = draw_map(Embeddings(vectors, labels, 0))
    save(figure, path)
    return figure


def has(letter: str) -> bool:
    """Whether an installed font has a letter, asked of all files."""
    return any(ord(letter) in FT2Font(path).get_charmap() for path in findSystemFonts())


def test_a_letter_that_the_own_font_lacks_comes_from_another(tmp_path: Path, caplog) -> None:
    assert ord(SCRIPT_A) not in FT2Font(findfont(OWN)).get_charmap()
    fonts, missing = fonts_for({ord(letter) for letter in f"a\N{LATIN SMALL LETTER E WITH ACUTE}{SCRIPT_A}"})
    assert len(fonts) == 1 and not missing
    assert ord(SCRIPT_A) in FT2Font(findfont(fonts[0])).get_charmap()
    figure = drawn([SCRIPT_A, "plain", "\N{LATIN SMALL LETTER E WITH ACUTE}"], tmp_path / "map.png")
    texts = {text.get_text(): text.get_fontfamily() for text in figure.legends[0].get_texts()}
    assert texts[f"{SCRIPT_A} (1)"] == [OWN, *fonts] and texts["plain (1)"] == ["sans-serif"]
    assert not caplog.records


@pytest.mark.parametrize("letter", ["\N{CJK UNIFIED IDEOGRAPH-97F3}", UNKNOWN])
def test_what_no_font_has_is_said(letter: str, tmp_path: Path, caplog) -> None:
    """Which of both is the case hangs on the machine's fonts; a letter is written, or named as missing."""
    with caplog.at_level(logging.WARNING, "EAT"):
        drawn([letter, "b", "c"], tmp_path / "map.png")
    said = [record.getMessage() for record in caplog.records if record.name == "EAT"]
    if has(letter):
        assert not said and fonts_for({ord(letter)})[1] == set()
    else:
        assert len(said) == 1 and letter in said[0] and "write an .svg" in said[0]
    caplog.clear()
    drawn([letter, "b", "c"], tmp_path / "map.svg")
    assert not caplog.records and letter in (tmp_path / "map.svg").read_text()
