"""Reading the tables that come with data sets."""

from __future__ import annotations

import csv
import os

from ...errors import DataError


def read_table(path: str | os.PathLike[str], columns: list[str]) -> list[dict[str, str]]:
    """Read a CSV file with a header.

    Args:
        path: the file.
        columns: those that it must have.

    Returns:
        Its rows.

    Raises:
        DataError: for a file that is missing, has no such columns, or has a row without one of them.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            header = reader.fieldnames or []
            absent = [column for column in columns if column not in header]
            if absent:
                raise DataError(
                    f"{path} has no column {absent[0]!r}; its first line names {', '.join(header)[:200]!r}."
                )
            rows = []
            for row in reader:
                empty = next((column for column in columns if not row[column]), None)
                if empty is not None:
                    raise DataError(f"line {reader.line_num} of {path} has nothing in the column {empty!r}.")
                rows.append(row)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV table in UTF-8 ({error}).") from None
    if not rows:
        raise DataError(f"{path} lists nothing.")
    return rows


def read_list(path: str | os.PathLike[str]) -> list[str]:
    """Read a text file of one entry a line. Raises DataError where it cannot be read or holds none."""
    try:
        with open(path, encoding="utf-8-sig") as handle:
            entries = [line.strip() for line in handle if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if not entries:
        raise DataError(f"{path} lists nothing.")
    return entries
