"""Prints the accuracy of each fold's checkpoint, their mean and standard deviation."""

import statistics
import sys

import torch


def accuracy(path: str) -> float:
    """What the last validation before the checkpoint measured."""
    return float(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["extra_state"]["val_loss"])


def main(folds: list[str]) -> int:
    """Each of ``folds`` is NAME=CHECKPOINT."""
    measured = []
    for fold in folds:
        name, _, path = fold.partition("=")
        measured.append(accuracy(path))
        print(f"{name}: accuracy {measured[-1]:.4f}")
    deviation = statistics.stdev(measured) if len(measured) > 1 else 0.0
    print(f"{len(measured)} folds: mean accuracy {statistics.fmean(measured):.4f}, standard deviation {deviation:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
