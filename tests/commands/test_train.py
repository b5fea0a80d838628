"""``python -m EAT.train``: the real training from anywhere, mistakes in a sentence before it begins, and a forecast."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import EAT
from EAT.commands import train
from EAT.recipes import FOLDER, copy_recipe
from EAT.training import before

from ..conftest import CONFORMANCE, ROOT
from ..fairseq_runs import TINY, environment
from ..labelled_clips import write_single_label
from ..tiny import NETWORK, model

ONE = "distributed_training.distributed_world_size=1"


def test_a_folder_of_one_s_own_from_somewhere_else(tmp_path: Path) -> None:
    """The guide's command: the recipe for a folder, from a published checkpoint, and what is said of both."""
    write_single_label(tmp_path / "prepared")
    command = [sys.executable, "-m", "EAT.train", "--config-name", "finetuning_folder", "task.data=prepared"]
    command += [f"model.model_path={CONFORMANCE / 'official_pretrain.pt'}", "task.target_length=64"]
    command += [
        "common.cpu=true",
        "common.log_interval=1",
        "dataset.num_workers=0",
        "optimization.max_update=3",
        "lr_scheduler.warmup_updates=1",
    ]
    elsewhere = {**environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=elsewhere, capture_output=True, text=True, timeout=240)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in said, said[-3000:]
    assert re.search(r"\d+ of 24 clips looked at last longer than the 0\.64 s of task\.target_length=64; each", said)
    assert (
        f"{CONFORMANCE}/official_pretrain.pt was trained with task.target_length=1024, task.norm_mean=-4.268, "
        "task.norm_std=4.569; this run has task.target_length=64, task.norm_mean=-7.5, task.norm_std=5.0" in said
    )
    last = tmp_path / "checkpoints" / "finetuning_folder" / "checkpoint_last.pt"
    assert torch.load(last)["optimizer_history"][-1]["num_updates"] == 3
    assert len(EAT.load(last).classes) == 10


@pytest.fixture
def data(clip_manifest: Path) -> str:
    return f"task.data={clip_manifest}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--config-name", "pretraining_AS2", "DATA"],
            r"has no recipe pretraining_AS2 \(did you mean pretraining_AS2M\?\)",
        ),
        (["--config-name", "pretraining_AS2M", "--config-dir", "nowhere"], "--config-dir nowhere is no folder"),
        (["taks.data=x"], r"has no setting taks\.data \(did you mean task\.data\?\)"),
        (["DATA", "model.dept=3"], r"has no setting model\.dept \(did you mean model\.depth\?\)"),
        (["DATA", ONE, "+task.dat=x"], "these settings cannot be used: Key 'dat' not in 'EATPretrainingConfig'"),
        (
            ["DATA", ONE, "model.depth=many"],
            "these settings cannot be used: Value 'many' of type 'str' could not be conv",
        ),
        (["DATA", "common.seed=x"], "cannot be read with these settings"),
        (["DATA", "quick"], "'quick' is no setting; settings are key=value"),
        (["DATA", "optimization.lr=[1"], "cannot be read with these settings"),
        ([], "task.data is not set; give the folder that holds the manifests, task.data=FOLDER"),
        (["task.data=nowhere", ONE], r"the manifest nowhere/train\.tsv cannot be read"),
        (["DATA", ONE, "common.user_dir=nowhere"], "common.user_dir=nowhere cannot be imported"),
        (["DATA", ONE, "dataset.disable_validation=false"], r"valid\.tsv cannot be read"),
    ],
)
def test_mistakes_are_found_before_it_begins(data: str, capsys, arguments: list[str], sentence: str) -> None:
    given = [argument.replace("DATA", data) for argument in arguments]
    if "--config-name" not in given:
        given = ["--config-name", "pretraining_AS2M", *given]
    assert train.main(given) == 2
    said = capsys.readouterr().err
    assert re.search(sentence, said) and said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="fairseq starts processes")
def test_a_folder_of_one_s_own_is_trained_from_a_new_process(data: str, tmp_path: Path) -> None:
    """Also where a recipe's file names it: it may import from EAT what wraps fairseq's command line."""
    (tmp_path / "mine_of_a_test").mkdir()
    (tmp_path / "mine_of_a_test" / "__init__.py").touch()
    _, technical = copy_recipe("pretraining_AS2M", tmp_path / "recipes")
    given = ["--config-name", "pretraining_AS2M", "--config-dir", str(tmp_path / "recipes"), data, *TINY]
    options = train.parser().parse_intermixed_args(given)
    assert train._checked(options)[2]
    text = technical.read_text()
    assert "user_dir: EAT\n" in text
    technical.write_text(text.replace("user_dir: EAT\n", f"user_dir: {tmp_path / 'mine_of_a_test'}\n"))
    assert not train._checked(options)[2]


@pytest.mark.skipif(torch.cuda.device_count() > 3, reason="there are as many")
def test_more_processes_than_devices(data: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    assert train.main(["--config-name", "pretraining_AS2M", data]) == 2
    said = capsys.readouterr().err
    assert "distributed_training.distributed_world_size is 4, but this machine has" in said
    there = max(1, torch.cuda.device_count())
    assert f"set {ONE[:-1]}{there}, with optimization.update_freq=[{-(-4 // there)}]" in said
    assert said.endswith(" and common.cpu=true.\n") is (torch.cuda.device_count() == 0)


BY_HAND = (
    "distributed_training.distributed_world_size=2", "distributed_training.distributed_no_spawn=true",
    "distributed_training.distributed_init_method=tcp://127.0.0.1:29511",
)  # fmt: skip
OVER_GLOO = ("distributed_training.distributed_backend=gloo", "distributed_training.ddp_backend=legacy_ddp")


NO_GPU = "no GPU can be used: this PyTorch, .* or set common.cpu=true to train on the CPU"


def by_hand(*settings: str) -> list[tuple[int, str, str]]:
    """Start two processes as the README does where there are no GPUs; the status of each, and what it says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"distributed_training.distributed_init_method=tcp://127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "EAT.train", "--config-name", "pretraining_AS2M", *settings, *BY_HAND[:2], place]
    ranks = [
        subprocess.Popen(
            [*command, f"distributed_training.distributed_rank={rank}"], cwd=ROOT, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in ranks]
    return [(process.returncode, *streams) for process, streams in zip(ranks, said, strict=True)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_every_process_without_a_gpu_ends_in_a_sentence(data: str) -> None:
    for status, _, said in by_hand(data):
        assert status == 2 and re.fullmatch(f"error: {NO_GPU}\\.\n", said), said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("torchrun", "settings", "sentence"),
    [
        (True, [], NO_GPU),
        (
            True,
            ["common.cpu=true", *OVER_GLOO],
            r"set distributed_training.distributed_no_spawn=true distributed_training.distributed_init_method=\S+ and",
        ),
        (False, ["common.cpu=true", *BY_HAND], f"torchrun; set {' '.join(OVER_GLOO)} and start one for each rank"),
    ],
)
def test_what_fairseq_cannot_start_on_cpus(
    data: str, capsys, monkeypatch: pytest.MonkeyPatch, torchrun: bool, settings: list[str], sentence: str
) -> None:
    """It would say ZeroDivisionError or that it has no NCCL, or start nothing and end well."""
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "WORLD_SIZE": "2", "RANK": "0"}
    for name, value in told.items():
        monkeypatch.setenv(name, value) if torchrun else monkeypatch.delenv(name, raising=False)
    assert train.main(["--config-name", "pretraining_AS2M", data, *settings]) == 2
    assert re.fullmatch(f"error: .*{sentence}.*\n", capsys.readouterr().err)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_processes_on_cpus_train(data: str, tmp_path: Path) -> None:
    short = ("optimization.max_update=3", "dataset.batch_size=4", f"checkpoint.save_dir={tmp_path}")
    for status, *streams in by_hand(data, *TINY, *OVER_GLOO, *short):
        assert status == 0 and "Traceback" not in "".join(streams), streams
    saved = torch.load(tmp_path / "checkpoint_last.pt")
    assert saved["optimizer_history"][-1]["num_updates"] == 3
    assert saved["cfg"]["distributed_training"]["distributed_world_size"] == 2


@pytest.mark.parametrize("name", ["pretraining_AS2M", "finetuning_AS20K"])
def test_what_a_run_takes_without_a_gpu(name: str) -> None:
    small = model(NETWORK) if name.startswith("pretraining") else [f"model.{key}=32" for key in ("embed_dim",)]
    small += ("model.depth=2", "model.num_heads=4", "task.target_length=128", ONE, "common.cpu=true")
    cfg = before.compose(FOLDER, name, [*small, "task.data=x", "optimization.update_freq=[2]"])
    clips, updates, batch = 2_000_000, 1_000_000, cfg.dataset.batch_size
    cfg.optimization.max_update = updates
    said = before.forecast(cfg, clips)
    numbers = re.fullmatch(
        rf"without a GPU: one clip takes (\S+) s here, an update of {batch} clips a process (.+), an epoch of "
        rf"2,000,000 clips (.+), its 1,000,000 updates (.+)\.",
        said,
    )
    a_clip = float(numbers[1])
    for text, expected in ((numbers[3], a_clip * clips), (numbers[4], a_clip * batch * 2 * updates)):
        amount, unit = text.split()
        seconds = float(amount) * {"s": 1, "min": 60, "hours": 3600, "days": 86400, "years": 365 * 86400}[unit]
        assert seconds == pytest.approx(expected, rel=0.1)
    assert before.forecast(cfg, 100) is not None
    cfg.optimization.max_update = 10
    assert before.forecast(cfg, 100) is None  # over at once
