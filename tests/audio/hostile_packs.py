"""HDF5 packs with changed bytes: read to the end, or refused in a sentence; nothing foreign is raised.

``python -m tests.audio.hostile_packs --count 5000 --seed 1`` prints what became of them. Each is a file of its own, as
an open one is kept. They are read in another process: HDF5 itself may crash, or go round in a damaged table, which no
Python code can end; that is counted, and a new process goes on behind it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np

from EAT.audio.recordings import open_recording, read_audio
from EAT.data.search import read_pack_keys
from EAT.errors import EATError
from EAT.inference.feature_files import packed

KEYS = ("plain", "group/inner/clip", "chunked", "squeezed", "soft", "stereo", "real")
SECONDS = 20
"""Processor time after which HDF5 is taken to go round."""


def write_pack(path: Path, libver: str) -> None:
    """Data sets of every layout that a pack may have, with attributes, groups and links."""
    samples = (np.random.default_rng(0).normal(size=3200) * 1000).astype(np.int16)
    with h5py.File(path, "w", libver=libver) as file:
        file["plain"] = samples
        file["group/inner/clip"] = samples[:400]
        file.create_dataset("chunked", data=samples, chunks=(512,))
        file.create_dataset("squeezed", data=samples, chunks=(512,), compression="gzip", shuffle=True, fletcher32=True)
        file["soft"] = h5py.SoftLink("/plain")
        file["hard"] = file["group"]
        file["stereo"] = samples.reshape(-1, 2)
        file["real"] = samples.astype(np.float32) / 32768
        for name in KEYS[:4]:
            file[name].attrs["sample_rate"] = 16000
        for number in range(40):  # names enough for tables of several nodes
            file[f"many/clip {number}"] = samples[:200]


def mutate(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    action = rng.choice(["flip", "flip", "flip", "zero", "ones", "copy", "cut", "number"])
    place = rng.randrange(len(changed))
    length = rng.choice([1, 4, 8, 64, 512])
    if action == "cut":
        return bytes(changed[:place])
    if action == "copy":
        source = rng.randrange(len(changed))
        changed[place : place + length] = changed[source : source + length]
    elif action in ("zero", "ones"):
        changed[place : place + length] = (b"\0" if action == "zero" else b"\xff") * min(length, len(changed) - place)
    elif action == "number":  # an address or a size of eight bytes
        place -= place % 8
        value = rng.choice([0, 1, place, len(changed), 1 << 40, (1 << 64) - 1, rng.randrange(len(changed))])
        changed[place : place + 8] = value.to_bytes(8, "little")[: len(changed) - place]
    else:
        for _ in range(rng.choice([1, 1, 4, 32, 256])):
            changed[rng.randrange(len(changed))] ^= rng.randint(1, 255)
    return bytes(changed)


def use(path: Path) -> Counter[str]:
    """Everything that opens a pack, of every key. Raises what no reader should."""
    outcome: Counter[str] = Counter()
    steps = [lambda: read_pack_keys(str(path)), lambda: _features(path)]
    steps += [lambda key=key: open_recording(f"{path}/{key}").close() for key in KEYS]
    steps += [lambda key=key: read_audio(f"{path}/{key}") for key in KEYS]
    steps += [lambda: read_audio(f"{path}/chunked", 1000, 0.5)]
    for step in steps:
        try:
            step()
            outcome["read"] += 1
        except EATError as error:
            assert path.name in str(error) and "\n" not in str(error), str(error)
            outcome["refused"] += 1
        except MemoryError:  # whoever decodes answers it: it is counted apart
            outcome["memory"] += 1
    return outcome


def _features(path: Path) -> None:
    with packed("hdf5", path) as content:
        for array in content.arrays.values():
            assert len(array.shape) >= 0


def batch(numbers: range, seed: int) -> None:
    """Go through mutations, saying each one's number before it and its outcome after."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    with tempfile.TemporaryDirectory() as name:
        wholes = []
        for libver in ("earliest", "latest"):
            write_pack(Path(name) / libver, libver)
            wholes.append((Path(name) / libver).read_bytes())
            assert use_whole(Path(name) / libver)
        for number in numbers:
            rng = random.Random(f"{seed} {number}")
            path = Path(name) / f"{number}.h5"
            path.write_bytes(mutate(rng, rng.choice(wholes)))
            print(f"begin {number}", flush=True)
            faulthandler.dump_traceback_later(SECONDS * 6, exit=True)
            resource.setrlimit(resource.RLIMIT_CPU, (int(_used()) + SECONDS, resource.RLIM_INFINITY))
            try:
                print("end", json.dumps(use(path)), flush=True)
            except Exception as error:
                print(f"FAULT {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
            path.unlink()


def use_whole(path: Path) -> bool:
    """Whether the pack itself is read without a word."""
    renamed = path.with_suffix(".h5")
    renamed.write_bytes(path.read_bytes())
    return use(renamed)["refused"] == 0


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutated HDF5 packs: read, or refused in a sentence.")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs=2, metavar=("FROM", "TO"), help="these alone, in this process")
    args = parser.parse_args()
    if args.batch:
        batch(range(*args.batch), args.seed)
        return 0
    total: Counter[str] = Counter()
    first = 0
    while first < args.count:
        command = [
            sys.executable,
            "-m",
            "tests.audio.hostile_packs",
            "--seed",
            str(args.seed),
            "--batch",
            str(first),
            str(args.count),
        ]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        last = first - 1
        for line in done.stdout.splitlines():
            if line.startswith("begin"):
                last = int(line.split()[1])
                total["packs"] += 1
            elif line.startswith("FAULT"):
                total["faults"] += 1
                print(f"{last}: {line}", flush=True)
            else:
                outcome = json.loads(line.removeprefix("end "))
                total.update(outcome)
                total["whole" if set(outcome) == {"read"} else "named"] += 1
        if done.returncode:
            total["crashes of HDF5"] += 1
            print(f"{last}: ended with {done.returncode}: {done.stderr[-1500:]}", flush=True)
        elif last < first:
            raise RuntimeError(done.stderr)
        first = last + 1
    print(", ".join(f"{count:,} {what}" for what, count in total.items()))
    return 1 if total["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
