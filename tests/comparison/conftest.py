"""The clips of data/ by family, in groups."""

from __future__ import annotations

import pytest

from EAT.comparison.corpus import write_groups

from ..labelled_clips import families, write_descriptors, write_split


@pytest.fixture(scope="session")
def data_with_groups(tmp_path_factory):
    """The three largest families in five groups."""
    data = tmp_path_factory.mktemp("families")
    names = families()
    largest = sorted(set(names.values()), key=lambda family: -list(names.values()).count(family))[:3]
    clips = {name: [family] for name, family in sorted(names.items()) if family in largest}
    write_split(data, "train", clips)
    write_descriptors(data, largest)
    write_groups(data, {name: f"fold {number % 5}" for number, name in enumerate(clips)})
    return data
