"""Lengths of MP3s: exact where a Xing or Info header states one, counted by decoding where libsndfile estimates.

Without such a header libsndfile takes the first frame's bit rate for all and a tag for audio, and gives no sample
beyond its estimate. It goes by the size of the file, so a file that claims to be longer shows which it is, and is
decoded to its real end.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import lru_cache
from typing import IO

import numpy as np
import soundfile

from ..errors import DataError

TAIL = 128
"""Bytes at a file's end that libmpg123 looks for a tag in when it opens one."""
ENDLESS = 1 << 40
"""Bytes that are added to a file's size for all of it to be decoded."""
BLOCK = 1 << 13
"""Samples per channel that are decoded at once for counting."""
LEAD = 16 * 1152
"""Samples to decode before a place that was jumped to: a frame may need bits of a dozen before it."""

OpenSound = Callable[[object], soundfile.SoundFile]


class Stretched:
    """A file that says it is ``extra`` bytes longer than it is.

    Its last bytes are those of the real end; before them is a gap in which nothing can be read.
    """

    def __init__(self, file: IO[bytes], extra: int) -> None:
        self._file, self._place, self._extra = file, 0, extra
        self._size = file.seek(0, io.SEEK_END)

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go there."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size + self._extra}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` as far as there are bytes."""
        shift = self._extra if self._place >= self._size + self._extra - TAIL else 0
        self._file.seek(self._place - shift)
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def opened(content: str | bytes) -> IO[bytes]:
    """A recording's file, from its path or its bytes."""
    return open(content, "rb") if isinstance(content, str) else io.BytesIO(content)


def endless(content: str | bytes) -> Stretched:
    """A recording as a file that libsndfile reads to its real end."""
    return Stretched(opened(content), ENDLESS)


def counted(source: str, content: str | bytes, frames: int, open_sound: OpenSound) -> int | None:
    """Samples per channel of an MP3 whose length libsndfile estimates; None where its header states them.

    Counts of files are kept, so that a recording of hours that is read in many parts is decoded as a whole once a
    process.

    Args:
        source: named in errors.
        content: its path or its bytes.
        frames: what libsndfile gives.
        open_sound: opens a sound that is read forwards.

    Raises:
        DataError: where decoding stops before the end: the file is damaged, or ends inside a frame.
    """
    if isinstance(content, bytes):
        return _counted(source, content, frames, open_sound)
    status = os.stat(content)
    return _counted_once(source, content, status.st_size, status.st_mtime_ns, frames, open_sound)


def _counted(source: str, content: str | bytes, frames: int, open_sound: OpenSound) -> int | None:
    with opened(content) as file:
        # Less than the 1 % from which on libmpg123 says on stderr that a header is wrong.
        extra = max(8, file.seek(0, io.SEEK_END) // 125)
        with open_sound(Stretched(file, extra)) as sound:
            if sound.frames == frames:
                return None
        total = 0
        with open_sound(Stretched(file, ENDLESS)) as sound:
            block = np.empty((BLOCK, sound.channels), np.float32)
            try:
                while got := len(sound.read(out=block)):
                    total += got
            except soundfile.LibsndfileError:
                place = f"{total / sound.samplerate:.1f} s"
                raise DataError(f"{source} is cut short or damaged: it cannot be decoded after {place}.") from None
    return total


@lru_cache(maxsize=1 << 16)
def _counted_once(source: str, path: str, size: int, changed: int, frames: int, open_sound: OpenSound) -> int | None:
    return _counted(source, path, frames, open_sound)
