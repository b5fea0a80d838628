"""Every benchmark, one after the other: ``python benchmarks/run_all.py [--json FOLDER]`` (about half an hour)."""

import argparse
import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    ["masks.py"],
    ["front_end.py"],
    ["input_pipeline.py"],
    ["ema_and_optimizer.py"],
    ["extract.py"],
    ["scaling.py"],
    ["checkpoints.py"],
    ["train_step.py"],
    ["family.py"],
)


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--json", type=Path, help="folder for each benchmark's results")
    options = made.parse_args()
    here, failed = Path(__file__).parent, []
    for command in BENCHMARKS:
        print(f"== {' '.join(command)}", file=sys.stderr, flush=True)
        extra = ["--json", str(options.json / f"{Path(command[0]).stem}.json")] if options.json else []
        done = subprocess.run([sys.executable, str(here / command[0]), *command[1:], *extra], stdout=subprocess.DEVNULL)
        failed += [command[0]] if done.returncode else []
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
