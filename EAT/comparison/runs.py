"""Carrying plans out: a training in a process of its own, its judgement, and a line of JSON when both are done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import Checkpoint
from ..data.normalization import read_normalization
from ..errors import DataError, EATError
from ..inference.model import EATModel, load
from ..network.encoder import Encoder
from ..network.front_end import front_end_of
from ..network.settings import PretrainingSettings
from ..pictures.run_logs import read_run
from .corpus import read_task
from .judge import encoded, log_mel, scores
from .recipes import LOG_MEL, UNTRAINED, Bench, Plan, composed, import_choices, run_key


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results; none where there is no file. Raises DataError for a line that is not JSON."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            raise DataError(f"line {number} of {path} is not JSON; remove it, and its run is made again.") from None
    return found


def judge(tasks: Mapping[str, Path], checkpoint: str | None, recipe: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Scores by task, readout and division: of a checkpoint; of an untrained encoder of the recipe's sizes where
    ``checkpoint`` is None; of the plain spectrogram where it is 'log-mel'.
    """
    front_end = front_end_of(recipe["task"])
    if checkpoint not in (None, LOG_MEL):
        model = load(str(checkpoint))
    elif front_end is None:
        raise DataError("the recipe has no normalisation constants; prepare the data first.")
    else:
        torch.manual_seed(seed)
        settings = PretrainingSettings.take(recipe["model"])
        encoder = Encoder(settings).state_dict()
        made = Checkpoint("untrained", "eat", "pretraining", settings, encoder, None, front_end, None, None, {})
        model = EATModel(made).eval()
    found = {}
    for name, folder in tasks.items():
        task = read_task(name, folder)
        features = log_mel(task, model.front_end) if checkpoint == LOG_MEL else encoded(model, task)
        found[name] = {readout: scores(values, task) for readout, values in features.items()}
    return found


def watched(folder: Path) -> dict[str, float]:
    """The last figures that a run logged of its learning."""
    wanted = ("_fraction", "_skill", "_rank", "_std", "_loss", "loss")
    return {
        name: values[-1]
        for name, values in read_run(folder).items()
        if name.endswith(wanted) and name != "masked_fraction"
    }


def train(plan: Plan, config: Path, data: Path, folder: Path) -> dict[str, float]:
    """Pre-train by a plan into ``folder``; returns :func:`watched`. Raises DataError with the log's end if it fails."""
    command = [
        str(Path(sys.executable).with_name("fairseq-hydra-train")), "--config-dir", str(config), "--config-name",
        plan.base, f"common.user_dir={plan.user_dir}", f"task.data={data}", f"checkpoint.save_dir={folder}",
        *plan.overrides, f"optimization.max_update={plan.updates}", f"common.seed={plan.seed}",
        "common.log_format=json", f"common.log_interval={max(1, plan.updates // 20)}",
    ]  # fmt: skip
    log = folder / "log.txt"
    folder.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as handle:
        status = subprocess.call(command, env=one_thread(), stdout=handle, stderr=subprocess.STDOUT)
    if status:
        text = log.read_text(errors="replace")
        raise DataError(f"{plan.recipe} (seed {plan.seed}) ended with status {status}: {text.strip().splitlines()[-1]}")
    return watched(folder)


def one_thread() -> dict[str, str]:
    """The environment of a run: several run side by side, one a core."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def carry_out(
    plan: Plan, config: Path, data: Path, tasks: Mapping[str, Path], work: Path, keep: bool
) -> dict[str, Any]:
    """Train and judge; returns the line of results."""
    began = time.time()
    folder = work / "runs" / plan.key
    figures = {} if plan.recipe in (UNTRAINED, LOG_MEL) else train(plan, config, data, folder)
    trained = time.time()
    checkpoint = {UNTRAINED: None, LOG_MEL: LOG_MEL}.get(plan.recipe, str(folder / "checkpoint_last.pt"))
    asked = json.dumps([checkpoint, str(config), str(data), {k: str(v) for k, v in tasks.items()}, asdict(plan)])
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=asked, env=one_thread(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DataError(f"{plan.recipe} could not be judged: {done.stderr.strip().splitlines()[-1]}")
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        **named(plan), "base": plan.base, "updates": plan.updates, "gflop_an_update": round(plan.gflop, 3),
        "gflop": round(plan.gflop * plan.updates, 1), "train_seconds": round(trained - began),
        "judge_seconds": round(time.time() - trained), "figures": figures, "scores": json.loads(done.stdout),
    }  # fmt: skip


def named(plan: Plan) -> dict[str, Any]:
    """What a line says of its plan that plans of the same run can say otherwise."""
    return {"recipe": plan.recipe, "size": plan.size, "seed": plan.seed, "overrides": list(plan.overrides)}


def with_controls(bench: Bench, planned: Sequence[Plan]) -> list[Plan]:
    """The plans with an untrained network for each seed and the log-mel spectrogram once behind."""
    some = [plan for plan in planned if plan.recipe == bench.reference]
    made: list[Plan] = []
    for number, plan in enumerate(some):
        controls = (UNTRAINED, LOG_MEL) if number == 0 else (UNTRAINED,)
        made += [
            Plan(name, plan.size, plan.seed, plan.base, plan.user_dir, plan.overrides, 0, 0.0) for name in controls
        ]
    return [*planned, *made]


def resume(planned: Sequence[Plan], tasks: Mapping[str, Path], results: Path) -> list[list[Plan]]:
    """Write what follows from ``results``; returns the runs that are left to make, each as all the plans that it is.

    What follows are the plans that are the same run as one there of another recipe or size, judged by these tasks: they
    get its line under their own names.
    """
    lines = read_results(results)
    there = _known(lines)
    wanted: dict[str, list[Plan]] = {}
    for plan in planned:
        if (plan.size, plan.recipe, plan.key) not in there:
            wanted.setdefault(plan.key, []).append(plan)
    made = {run_key(line): line for line in lines if set(tasks) <= set(line["scores"])}
    for key in [key for key in wanted if key in made]:  # in the plans' order
        write(made[key], wanted.pop(key), results)
    return list(wanted.values())


def _known(lines: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Lines by size, recipe and run."""
    return {(line["size"], line["recipe"], run_key(line)): line for line in lines}


def unjudged(planned: Sequence[Plan], tasks: Iterable[str], results: Path) -> dict[str, int]:
    """How many of the plans' runs that are in ``results`` were judged without each task, where some were."""
    known = _known(read_results(results))
    there = [known[name] for plan in planned if (name := (plan.size, plan.recipe, plan.key)) in known]
    without = {task: sum(task not in line["scores"] for line in there) for task in tasks}
    return {task: runs for task, runs in without.items() if runs}


def write(line: Mapping[str, Any], same: Sequence[Plan], results: Path) -> None:
    """Append a run's line for each of the plans that it is."""
    with open(results, "a", encoding="utf-8") as handle:
        for plan in same:
            handle.write(json.dumps({**line, **named(plan)}) + "\n")


def carry_out_all(
    wanted: Sequence[Sequence[Plan]], config: Path, data: Path, tasks: Mapping[str, Path], work: Path, results: Path,
    jobs: int, keep: bool = False,
) -> Iterator[dict[str, Any] | EATError]:  # fmt: skip
    """Make runs, of :func:`resume`, ``jobs`` side by side, and append their lines when one is done.

    Yields:
        The line of each run, or the error of one that failed, which leaves no line and is made again at the next start.
    """
    with ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(carry_out, same[0], config, data, tasks, work, keep): same for same in wanted}
        try:
            for future in as_completed(started):
                try:
                    line = future.result()
                except EATError as error:
                    yield error
                    continue
                write(line, started[future], results)
                yield line
        finally:
            pool.shutdown(cancel_futures=True)


def _main() -> None:
    checkpoint, config, data, tasks, plan = json.load(sys.stdin)
    import_choices(plan["user_dir"])
    recipe = composed(Path(config), plan["base"], [*plan["overrides"], f"task.data={data}"])
    for name, value in zip(("norm_mean", "norm_std"), read_normalization(data), strict=True):
        recipe["task"][name] = value if recipe["task"][name] is None else recipe["task"][name]
    folders = {name: Path(folder) for name, folder in tasks.items()}
    json.dump(judge(folders, checkpoint, recipe, plan["seed"]), sys.stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    _main()
