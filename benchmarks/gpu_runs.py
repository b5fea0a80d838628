"""The parts of ``gpu.py`` that run more than the network: real training, clips from files, checkpoints, inference."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from common import SIZES, model_settings, synchronize
from torch import nn
from training import Training

from EAT.network.classifier import Classifier
from EAT.network.encoder import Encoder
from EAT.network.settings import ClassifierSettings

if TYPE_CHECKING:
    from gpu import Bench

ROOT = Path(__file__).resolve().parents[1]
UPDATES = 30


def command(bench: Bench, data: Path, save: Path, *overrides: str) -> list[str]:
    """fairseq-hydra-train with the published recipe at the benchmark's size."""
    cpu = bench.device.type == "cpu"
    sizes = {**SIZES[bench.size], "clone_batch": bench.clones}
    return [
        sys.executable, "-m", "fairseq_cli.hydra_train", "--config-dir", str(ROOT / "config"),
        "--config-name", "pretraining_AS2M", f"common.user_dir={ROOT / 'EAT'}", f"common.cpu={str(cpu).lower()}",
        "common.log_interval=1", "distributed_training.distributed_world_size=1", "lr_scheduler.warmup_updates=5",
        f"task.data={data}", f"task.target_length={bench.frames}", f"dataset.batch_size={min(12, max(bench.clips))}",
        f"dataset.num_workers={0 if cpu else 8}", f"optimization.max_update={UPDATES}", f"checkpoint.save_dir={save}",
        "checkpoint.save_interval_updates=0", *(f"model.{name}={value}" for name, value in sizes.items()), *overrides,
    ]  # fmt: skip


def run(given: list[str], stop_after: int | None = None, seconds: float = 300) -> tuple[int, list[dict[str, Any]], str]:
    """Run a training command, and tell it to stop after so many updates; status, logged lines and output."""
    process = subprocess.Popen(
        given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    output, seen = [], 0
    try:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            seen += "[train_inner]" in line
            if stop_after is not None and seen == stop_after:
                process.send_signal(signal.SIGTERM)
                stop_after = None
        status = process.wait()
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
    text = "".join(output)
    found = re.findall(r"\[train_inner\]\[INFO\] - (\{.*\})", text)
    return status, [json.loads(line) for line in found], text


def summary(status: int, lines: list[dict[str, Any]], text: str) -> dict[str, Any]:
    """What a row keeps of a run."""
    if status not in (0, 75):
        raise RuntimeError(f"status {status}: {' '.join(text.splitlines()[-3:])[-250:]}")
    rates = [float(line["clips_per_s"]) for line in lines[len(lines) // 2 :] if line.get("clips_per_s")]
    return {
        "status": status, "updates": len(lines), "clips_per_s": statistics.median(rates) if rates else None,
        "first_loss": lines[0]["loss"] if lines else None, "last_loss": lines[-1]["loss"] if lines else None,
    }  # fmt: skip


INJECTED = """
import sys
sys.path.insert(0, {root!r})
import EAT.models, EAT.tasks
from EAT.training.clip_task import ClipTask
train_step = ClipTask.train_step
def injecting(self, sample, model, criterion, optimizer, update_num, *args, **kwargs):
    result = train_step(self, sample, model, criterion, optimizer, update_num, *args, **kwargs)
    if update_num == 4:
        next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = float("nan")
    return result
ClipTask.train_step = injecting
"""


def two_processes(bench: Bench, folder: Path) -> dict[str, Any]:
    """A run of two processes on one device, which talk over gloo."""
    parts = [
        command(
            bench, folder / "clips", folder / "two", "optimization.max_update=8",
            "distributed_training.distributed_backend=gloo", "distributed_training.distributed_no_spawn=true",
            f"distributed_training.distributed_init_method=file://{folder}/meeting",
            f"distributed_training.distributed_rank={rank}", "distributed_training.ddp_backend=legacy_ddp",
        )
        for rank in range(2)
    ]  # fmt: skip
    one = "distributed_training.distributed_world_size=1"
    parts = [[a.replace(one, one[:-1] + "2") for a in part] for part in parts]
    results: list[Any] = [None, None]

    def work(rank: int) -> None:
        results[rank] = run(parts[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return summary(*results[0])


def training(bench: Bench) -> None:
    """The real command: 30 updates; stopped and resumed, with equal weights; a NaN; two processes on one device."""
    if importlib.util.find_spec("fairseq") is None:
        bench.write("training", "all rows", error="fairseq is not installed")
        return
    from clips import make_clips  # needs soundfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clips(folder / "clips", 4 * min(12, max(bench.clips)), seconds=bench.frames / 100)

        def whole() -> dict[str, Any]:
            return summary(*run(command(bench, folder / "clips", folder / "whole")))

        def resumed() -> dict[str, Any]:
            given = command(bench, folder / "clips", folder / "resumed")
            first = summary(*run(given, stop_after=UPDATES // 2))
            second = summary(*run(given))
            one, other = (
                torch.load(folder / n / "checkpoint_last.pt", weights_only=True)["model"] for n in ("whole", "resumed")
            )
            apart = [key for key in one if not torch.equal(one[key], other[key])]
            return {**second, "stopped_with": first["status"], "bit_equal": not apart, "tensors_apart": len(apart)}

        def nonfinite() -> dict[str, Any]:
            (folder / "mine").mkdir()
            (folder / "mine" / "__init__.py").write_text(INJECTED.format(root=str(ROOT)))
            given = command(
                bench,
                folder / "clips",
                folder / "nan",
                f"common.user_dir={folder / 'mine'}",
                "optimization.max_update=8",
            )
            done = run([part for part in given if not part.endswith(str(ROOT / "EAT"))])
            return {**summary(*done), "skipped": done[2].count("is skipped: ")}

        def compiled() -> dict[str, Any]:
            extra = ("model.compile=true", "model.compile_or_stop=true")
            return summary(*run(command(bench, folder / "clips", folder / "compiled", *extra)))

        bench.row("training", f"{UPDATES} updates", whole, allowance=10)
        bench.row("training", "stopped and resumed", resumed, allowance=12)
        bench.row("training", "with a NaN", nonfinite, allowance=6)
        bench.row("training", "compiled", compiled, allowance=20)
        bench.row(
            "training", "two processes on one device, over gloo", lambda: two_processes(bench, folder), allowance=8
        )


def feeding(bench: Bench) -> None:
    """Clips a second: of decoding on a core, of the loader by workers, of steps fed by it against synthetic ones."""
    if importlib.util.find_spec("soundfile") is None:
        bench.write("input", "all rows", error="soundfile is not installed")
        return
    import soundfile
    from clips import batches, make_clips

    from EAT.audio.recordings import decode
    from EAT.network.front_end import FrontEnd

    cpu = bench.device.type == "cpu"
    clips, samples = min(12, max(bench.clips)), FrontEnd(bench.frames).samples
    with tempfile.TemporaryDirectory() as name:
        manifest = make_clips(Path(name), 2 * clips if cpu else 512, seconds=bench.frames / 100)
        wave, rate = soundfile.read(Path(name) / "00000.wav")

        for kind in ("wav", "flac", "mp3"):

            def decoding(kind: str = kind) -> dict[str, Any]:
                path = Path(name) / f"other.{kind}"
                soundfile.write(path, wave, rate)
                found = bench.time(lambda: decode(str(path), samples, 0.0), share=0.1)
                return {**found, "clips_per_s_a_core": 1000 / found["ms"]}

            bench.row("input", f"decode and resample {kind}", decoding)

        for workers in (0,) if cpu else (4, 8, 12, 16):

            def loading(workers: int = workers) -> dict[str, Any]:
                stream = batches(manifest, clips, workers, "device", bench.device, bench.frames)
                found = bench.time(lambda: next(stream), share=0.3)
                return {**found, "clips_per_s": 1000 * clips / found["ms"]}

            bench.row("input", f"loader alone, {workers} workers", loading, allowance=2)

        def fed() -> dict[str, Any]:
            step = Training(bench.settings(), bench.device, torch.bfloat16)
            stream = batches(manifest, clips, 0 if cpu else 8, "device", bench.device, bench.frames)
            x, numbers = next(stream)
            synthetic = bench.time(lambda: step.step(x, numbers), share=0.2)
            found = bench.time(lambda: step.step(*next(stream)), share=0.3)
            return {**found, "clips_per_s": 1000 * clips / found["ms"], "of_synthetic": synthetic["ms"] / found["ms"]}

        bench.row("input", f"steps fed by the loader, {clips} x {bench.clones}", fed, allowance=3)


def checkpoint(bench: Bench) -> None:
    """How long training waits while a checkpoint's worth of state is fetched from the device and written."""

    def stall() -> dict[str, Any]:
        step = Training(bench.settings(), bench.device, torch.bfloat16)
        step.step(bench.filterbank(1), [0])
        state = {"model": step.model.state_dict(), "optimizer": step.optimizer.state_dict(), "masters": step.masters}
        synchronize(bench.device)
        began = time.perf_counter()
        memory = io.BytesIO()
        torch.save(state, memory)
        fetched = time.perf_counter()
        with tempfile.NamedTemporaryFile() as file:
            file.write(memory.getbuffer())
            file.flush()
        written = time.perf_counter()
        return {
            "gib": memory.tell() / 2**30, "fetch_and_pickle_s": fetched - began, "write_s": written - fetched,
        }  # fmt: skip

    bench.row("checkpoint", "fetch, pickle and write", stall, allowance=3)


def use(bench: Bench) -> None:
    """Clips a second of what comes after pre-training: features, and fine-tuning steps."""
    for clips in sorted({min(bench.clips), max(bench.clips)}):

        def extraction(clips: int = clips) -> dict[str, Any]:
            encoder = Encoder(bench.settings()).to(bench.device, torch.bfloat16).eval()
            x = bench.filterbank(clips).to(torch.bfloat16)
            with torch.inference_mode():
                found = bench.time(lambda: encoder(x))
            return {**found, "clips_per_s": 1000 * clips / found["ms"]}

        def tuning(clips: int = clips) -> dict[str, Any]:
            fields = {k: v for k, v in SIZES[bench.size].items() if k in ClassifierSettings.__dataclass_fields__}
            model: nn.Module = Classifier(ClassifierSettings(**fields, num_classes=527)).to(
                bench.device, torch.bfloat16
            )
            optimizer = torch.optim.AdamW(model.parameters(), fused=True)
            x, targets = bench.filterbank(clips), torch.zeros(clips, 527, device=bench.device)

            def step() -> None:
                optimizer.zero_grad()
                nn.functional.binary_cross_entropy_with_logits(model(x).float(), targets).backward()
                optimizer.step()

            found = bench.time(step)
            return {**found, "clips_per_s": 1000 * clips / found["ms"]}

        bench.row("use", f"extraction, {clips} clips", extraction)
        bench.row("use", f"fine-tuning, {clips} clips", tuning)


def learning(bench: Bench) -> None:
    """Loss curves of ViT-S in bfloat16, compiled, against float32, eager, on the same batches of noise."""
    size = "small" if bench.size != "tiny" else "tiny"
    updates = 200 if bench.device.type == "cuda" else 3
    settings = model_settings(size, bench.clones)
    clips = min(12, max(bench.clips))
    torch.manual_seed(2)
    stored = [torch.randn(clips, 1, bench.frames, 128).cumsum(dim=2).div_(8) for _ in range(min(20, updates))]
    curves: dict[str, list[float]] = {}

    def curve(name: str, dtype: torch.dtype, compiled: bool) -> dict[str, Any]:
        made = Training(settings, bench.device, dtype, lr=2e-4)
        if compiled:
            made.model.compile(bench.backend)
        losses = [
            made.step(stored[update % len(stored)].to(bench.device), list(range(clips))).float()
            for update in range(updates)
        ]
        synchronize(bench.device)
        curves[name] = torch.stack(losses).tolist()
        return {"losses": curves[name], "fell_back": made.model.fell_back}

    bench.row("learning", "float32, eager", lambda: curve("float32", torch.float32, False), allowance=10)
    bench.row("learning", "bfloat16, compiled", lambda: curve("bfloat16", torch.bfloat16, True), allowance=20)
    if len(curves) == 2:
        apart = [abs(a - b) / abs(b) for a, b in zip(curves["bfloat16"], curves["float32"], strict=True)]
        bench.write("learning", "difference", largest=max(apart), median=statistics.median(apart))
