"""Clips divided into training, validation and evaluation: by class, and groups of clips kept together."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from ...errors import ConfigError, DataError
from .output import Clips

FINEST = 20
"""Groups are divided into so many parts at most, of which a split takes some."""


def rarest_labels(clips: Clips) -> list[str]:
    """What clips are divided evenly by: the label, or of several the one with the fewest clips."""
    if clips.labels is None:
        return [""] * len(clips)
    counts = Counter(label for clip in clips.labels for label in clip)
    return [min(clip, key=lambda label: (counts[label], label), default="") for clip in clips.labels]


def divide(classes: list[str], eval_fraction: float, valid_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Divide clips into train, valid and eval at random, every class in the same proportions.

    A class gives each split its fraction, rounded but at least one clip, as long as one is left to be trained on.

    Args:
        classes: of each clip.
        eval_fraction: of the clips.
        valid_fraction: of the clips.
        seed: of the order.

    Returns:
        Clips by split, in their order, without splits that have none.

    Raises:
        ConfigError: for fractions that leave nothing to train on.
    """
    check_fractions(eval_fraction, valid_fraction)
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for index in rng.permutation(len(classes)).tolist():
        members.setdefault(classes[index], []).append(index)
    splits: dict[str, list[int]] = {"train": [], "valid": [], "eval": []}
    for clips in members.values():
        left = len(clips)
        for split, fraction in (("eval", eval_fraction), ("valid", valid_fraction)):
            taken = min(max(1, round(fraction * len(clips))), left - 1) if fraction else 0
            splits[split] += clips[left - taken : left]
            left -= taken
        splits["train"] += clips[:left]
    return {split: np.sort(indices) for split, indices in splits.items() if indices}


def check_fractions(eval_fraction: float, valid_fraction: float) -> None:
    """Raise ConfigError for fractions that leave nothing to train on."""
    if not (0 <= eval_fraction < 1 and 0 <= valid_fraction < 1 and eval_fraction + valid_fraction < 1):
        raise ConfigError(
            f"--eval {eval_fraction:g} and --valid {valid_fraction:g} must be fractions that add up to less than 1."
        )


def divide_groups(
    classes: Sequence[str], groups: Sequence[str], eval_fraction: float, valid_fraction: float, seed: int
) -> dict[str, np.ndarray]:
    """As :func:`divide`, with all clips of a group in one split; classes are in about the same proportions.

    Fractions are rounded to parts of :data:`FINEST` at the smallest.

    Raises:
        ConfigError: for fractions that leave nothing to train on, or groups too few for the splits.
    """
    check_fractions(eval_fraction, valid_fraction)
    wanted = {"eval": eval_fraction, "valid": valid_fraction}
    parts = {split: Fraction(fraction).limit_denominator(FINEST // 2) for split, fraction in wanted.items()}
    count = math.lcm(*(part.denominator for part in parts.values()))
    count = min(count, FINEST, len(set(groups)))
    held = {split: max(1, round(count * part)) if wanted[split] else 0 for split, part in parts.items()}
    if not any(held.values()):
        return {"train": np.arange(len(classes))}
    members = fold_members(classes, groups, count, seed) if sum(held.values()) < count else []
    splits, first = {}, 0
    for split, number in (*held.items(), ("train", count - sum(held.values()))):
        splits[split] = np.sort(np.concatenate([*members[first : first + number], np.empty(0, dtype=np.int64)]))
        first += number
        if (number or split == "train") and not len(splits[split]):
            raise ConfigError(
                f"{len(set(groups)):,} groups are too few for the splits wanted, {split} would be empty; ask for "
                "fewer splits, or for groups of fewer clips."
            )
    return {split: splits[split] for split in ("train", "valid", "eval") if len(splits[split])}


def fold_members(classes: Sequence[str], groups: Sequence[str], folds: int, seed: int) -> list[np.ndarray]:
    """Each fold's clips, ascending: all clips of a group in one fold, classes in about the same proportions in each.

    Raises:
        ConfigError: where scikit-learn is not installed, or there are fewer groups, or clips of every
            class, than folds.
    """
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError:
        raise ConfigError("folds and groups need scikit-learn: pip install 'eat-audio[evaluate]'.") from None
    most = max(Counter(classes).values())
    if most < folds:
        raise ConfigError(f"no class has more than {most} clips, too few for {folds} parts; ask for fewer.")
    several = len(set(groups))
    if several < folds:
        raise ConfigError(f"{several} groups are too few for {folds} folds; ask for fewer.")
    divider = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the smallest class is not in every fold
        return [held for _, held in divider.split(np.zeros(len(classes)), list(classes), list(groups))]


def cross_validation(
    classes: Sequence[str], groups: Sequence[str] | None, folds: int, valid_fraction: float, seed: int
) -> list[dict[str, np.ndarray]]:
    """The splits of each fold, whose clips are its ``eval``; a fraction of the others is its ``valid``.

    Raises:
        ConfigError: for fewer than 2 folds, or as :func:`divide_groups`.
    """
    if folds < 2:
        raise ConfigError(f"--folds is {folds}; it must be at least 2.")
    members = fold_members(classes, groups or [str(index) for index in range(len(classes))], folds, seed)
    if min(map(len, members)) == 0:
        raise ConfigError(f"the groups' sizes do not allow {folds} folds, one would be empty; ask for fewer, --folds.")
    divided = []
    for held in members:
        rest = np.setdiff1d(np.arange(len(classes)), held)
        of_rest = [classes[index] for index in rest]
        if groups is None:
            splits = divide(of_rest, 0.0, valid_fraction, seed)
        else:
            splits = divide_groups(of_rest, [groups[index] for index in rest], 0.0, valid_fraction, seed)
        divided.append({**{split: rest[positions] for split, positions in splits.items()}, "eval": held})
    return divided


def groups_of(paths: Sequence[str], pattern: str) -> list[str]:
    """Each path's group: what the regular expression's first brackets hold where it is found, or all that it matches.

    Raises:
        ConfigError: for what is no regular expression.
        DataError: for a path in which it is not found.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--group-pattern {pattern!r} is no regular expression ({error}).") from None
    found = [compiled.search(path) for path in paths]
    without = next((path for path, match in zip(paths, found, strict=True) if match is None), None)
    if without is not None:
        raise DataError(f"--group-pattern {pattern!r} is not found in {without}; every path must have a group.")
    return [match[1] or "" if compiled.groups else match[0] for match in found if match is not None]
