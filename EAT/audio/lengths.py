"""Whether a file holds the audio that its header states: libsndfile only makes a note where it does not."""

from __future__ import annotations

import os
import re
from typing import IO

import soundfile

from ..errors import DataError
from .mp3 import opened

_SHORT = re.compile(
    r"^\s*(?:data|SSND|BODY|Data Size|(?P<whole>riff|Riff size))\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE
)
_STREAMED, _STREAMED_64 = 0x7FFF0000, 1 << 62
"""Bytes from which on a header's number stands for "unknown", as programs write it that write to a pipe: of 32 bits,
and of the 64 that w64 and rf64 have for the whole file."""
_JUNK = re.compile(r"^Ogg ?: Junk after the last page", re.MULTILINE)
_UNFINISHED = re.compile(r"^Ogg ?: Last page lacks an end-of-stream bit", re.MULTILINE)
"""What is noted of an Ogg stream, Vorbis or Opus, that ends inside a page, or has something behind its pages."""
_LARGEST_PAGE = 27 + 255 + 255 * 255


def _ends_inside_page(file: IO[bytes]) -> bool:
    """Whether the last page of an Ogg stream has fewer bytes than its header states (RFC 3533, section 6)."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _LARGEST_PAGE))
    content = file.read()
    page = content[max(0, content.rfind(b"OggS")) :]
    return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def check_length(source: str, content: str | bytes, sound: soundfile.SoundFile) -> None:
    """Raise DataError where the file ends before the audio that its header states; libsndfile only makes a note."""
    notes = sound.extra_info
    short = _SHORT.search(notes)
    if short:
        stated, held = int(short[2]), int(short[3])
        if held + 16 < stated < (_STREAMED_64 if short["whole"] else _STREAMED):
            what = "bytes" if short["whole"] else "bytes of audio"
            raise DataError(f"{source} is cut short: its header states {stated:,} {what}, it holds {held:,}.")
    if _JUNK.search(notes):
        with opened(content) as file:
            if _UNFINISHED.search(notes) or _ends_inside_page(file):
                raise DataError(f"{source} is cut short: it ends inside a page of its Ogg stream.")
