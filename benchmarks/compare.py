"""Two checkouts, one run: a benchmark of each in turns, and the ratios of their medians.

    git worktree add /tmp/before COMMIT
    python benchmarks/compare.py /tmp/before train_step.py --rounds 5 -- --repeats 2 --precision bfloat16

Everything behind ``--`` goes to the benchmark. Rows are joined by name; a ratio below 1 is faster here than there.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def run(checkout: Path, benchmark: str, arguments: list[str]) -> dict[str, dict[str, float]]:
    """A benchmark's rows by name, run with the package of its own checkout."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [sys.executable, str(checkout / "benchmarks" / benchmark), *arguments, "--json", str(output)]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        subprocess.run(command, check=True, env=environment, cwd=checkout, capture_output=True)
        return {row["name"]: row for row in json.loads(output.read_text())["results"]}


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("other", type=Path, help="the other checkout")
    made.add_argument("benchmark", help="a file of benchmarks/, the same in both")
    made.add_argument("--rounds", type=int, default=5, help="turns of both")
    made.add_argument("--json", type=Path, help="write every turn's times here")
    own, arguments = sys.argv[1:], []
    if "--" in own:
        own, arguments = own[: own.index("--")], own[own.index("--") + 1 :]
    options = made.parse_args(own)
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(options.rounds):
        for side, checkout in (("there", options.other.resolve()), ("here", HERE)):
            for name, row in run(checkout, options.benchmark, arguments).items():
                for clock in ("ms_per_clip", "cpu_ms_per_clip"):
                    if row.get(clock):
                        times[name][f"{clock} {side}"].append(row[clock])
    print("| what | ms a clip there | here | ratio | CPU time, ratio | rounds |\n|---|---|---|---|---|---|")
    for name, found in times.items():
        medians = {key: statistics.median(values) for key, values in found.items()}
        if "ms_per_clip there" in medians and "ms_per_clip here" in medians:
            there, here = medians["ms_per_clip there"], medians["ms_per_clip here"]
            processor = [medians.get(f"cpu_ms_per_clip {side}", float("nan")) for side in ("here", "there")]
            ratio = processor[0] / processor[1]
            print(f"| {name} | {there:.1f} | {here:.1f} | {here / there:.3f} | {ratio:.3f} | {options.rounds} |")
    if options.json:
        options.json.write_text(json.dumps(times, indent=1) + "\n")


if __name__ == "__main__":
    main()
