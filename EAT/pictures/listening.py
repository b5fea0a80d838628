"""Clips as points that are heard: the part that the evaluation report and the map have in common."""

from __future__ import annotations

from html import escape

from .style import PALETTE

SHAPES = 5
"""Shapes that ``listen.js`` draws; a group is told by colour and shape."""
SOUNDS = 200
"""Clips whose sound a page holds, unless another number is asked for."""


def group_mark(number: int) -> tuple[str, int]:
    """A group's colour and shape: no two of the first fifty alike."""
    return PALETTE[number % len(PALETTE)], (number + number // len(PALETTE)) % SHAPES


def listen_section(title: str, text: str, plot: str) -> str:
    """The element that ``listen.js`` fills; without the script it is not seen.

    Args:
        title: any text.
        text: HTML.
        plot: what the points are, for those who do not see them.
    """
    return f"""<section id="listen" aria-labelledby="listen-title" hidden>
<h2 id="listen-title">{escape(title)}</h2><p>{text}</p>
<div class="two"><div>
<svg id="plot" tabindex="0" role="application" aria-label="{escape(plot)}" aria-describedby="plot-help"></svg>
<p id="plot-help" class="caption">Click a point to hear its clip. With the keyboard: arrows go from point to point,
Enter plays, + and - come closer and go away; turning the wheel does too, and dragging moves.</p></div>
<div id="chosen" aria-live="polite" tabindex="-1"><p>No clip is chosen yet.</p></div></div>
<ul id="legend" aria-label="groups"></ul>
<div class="tools"><label>label <select id="label"></select></label>
<label>search <input id="search" type="search"></label>
<button id="everything" type="button">Show all</button>
<button id="closer" type="button" aria-label="closer">+</button>
<button id="away" type="button" aria-label="away">&minus;</button>
<span id="count" role="status"></span></div>
<div class="table" tabindex="0" role="region" aria-label="clips"><table id="clips"><tbody></tbody></table></div>
</section>"""


def silence(held: int, clips: int) -> str:
    """What is said of a clip without sound."""
    if held >= clips:
        return "This clip could not be read."
    return f"The page holds the sounds of {held:,} of {clips:,} clips; --sounds takes more."
