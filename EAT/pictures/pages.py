"""Pages that need nothing beside them: text, style, script, pictures and sounds in one HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any


def data_uri(kind: str, content: bytes) -> str:
    """A file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def asset(name: str) -> str:
    """The text of a file of ``EAT/pictures/web``."""
    return (files(__package__) / "web" / name).read_text(encoding="utf-8")


def page(
    title: str, body: str, styles: Sequence[str], script: str, data: Any, sounds: Mapping[int, bytes] | None = None
) -> str:
    """A page that works without a network and runs no script but its own.

    Args:
        title: any text.
        body: HTML.
        styles: names of style sheets in ``EAT/pictures/web``.
        script: name of the script there.
        data: what the script reads from the element ``data``, for JSON.
        sounds: MP3 files by number, each in an element ``sound-NUMBER``.
    """
    code = asset(script)
    fingerprint = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{fingerprint}'; style-src 'unsafe-inline'; img-src data:; "
        "media-src data:; base-uri 'none'; form-action 'none'"
    )
    held = "".join(
        f'<script type="text/plain" id="sound-{number}">{base64.b64encode(content).decode()}</script>\n'
        for number, content in (sounds or {}).items()
    )
    text = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{''.join(map(asset, styles))}</style></head><body><main>{body}</main>\n"
        f'<script type="application/json" id="data">{_in_html(data)}</script>\n{held}<script>{code}</script>'
        "</body></html>\n"
    )
    return text.encode("utf-8", "replace").decode()


def _in_html(data: Any) -> str:
    """JSON that cannot end the element that it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
