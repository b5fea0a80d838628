"""Features: the encoder's forward pass, many short clips in one call, and ``feature_extract.py`` over their files.

    python benchmarks/extract.py

The second part gives ``EATModel.extract`` clips of mixed lengths, all in one call and one by one, and compares the
vectors; the third writes them as wav files and times the command on all at once and on a
few of them one call each.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from clips import make_clips
from common import DTYPES, SIZES, MatrixRate, Result, encoder_work, measure, model_settings, parser, report

from EAT.audio.recordings import read_audio
from EAT.checkpoint.contents import Contents
from EAT.checkpoint.formats import write_checkpoint
from EAT.data.manifest import Manifest
from EAT.inference.model import EATModel, load
from EAT.network.encoder import Encoder
from EAT.system import keep_freed_memory

COMMAND = Path(__file__).parents[1] / "feature_extract" / "feature_extract.py"


def write_model(path: str, size: str) -> None:
    """A checkpoint with random weights."""
    torch.manual_seed(1)
    settings = model_settings(size)
    tensors = {f"encoder.{name}": value for name, value in Encoder(settings).state_dict().items()}
    write_checkpoint(Contents("huggingface", tensors, settings), path, "huggingface")


def extract(arguments: list[str], threads: int) -> tuple[float, float]:
    """Run the command; wall-clock seconds, and clips/s as it reports them, without its start."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(COMMAND), *arguments], capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    rate = re.search(r"([\d.]+) clips/s", done.stdout)
    assert rate is not None, done.stdout
    return seconds, float(rate[1])


def call_results(path: str, manifest: Manifest, precision: str, options: argparse.Namespace) -> list[Result]:
    """All clips in one call of ``EATModel.extract`` against a call a clip; decoding is not part of it."""
    device = torch.device(options.device)
    model = load(path, device=device).to(DTYPES[precision])
    clips = [read_audio(manifest.source(index)) for index in range(len(manifest))]
    vectors: dict[str, list[torch.Tensor]] = {}

    @torch.inference_mode()
    def together() -> None:
        vectors["together"] = model.extract(clips)

    @torch.inference_mode()
    def one_by_one() -> None:
        vectors["one by one"] = [model.extract(clip) for clip in clips]

    results = [
        measure(
            f"extract, {len(clips)} clips, {name}, {precision}",
            call,
            len(clips),
            device,
            repeats=min(2, options.repeats),
        )
        for name, call in (("one call", together), ("a call a clip", one_by_one))
    ]
    apart = [(a - b).abs().max().item() for a, b in zip(vectors["together"], vectors["one by one"], strict=True)]
    results[0].more = {
        "times_a_call_a_clip": results[0].clips_per_s / results[1].clips_per_s, "largest_difference": max(apart)
    }  # fmt: skip
    return results


def command_results(folder: Path, model: str, manifest: Manifest, options: argparse.Namespace) -> list[Result]:
    common = ["--checkpoint", model]
    everything = [*common, "--source", str(folder / "clips")]
    results: list[Result] = []
    for name, extra in (
        ("feature_extract.py, one call", []),
        ("feature_extract.py, one call, bfloat16", ["--precision", "bfloat16"]),
    ):
        seconds, rate = extract([*everything, *extra, "--output", str(folder / f"out{len(results)}")], options.threads)
        more = {"after_start_clips_per_s": rate}
        results.append(Result(name, options.clips / seconds, 1000 * seconds / options.clips, 0.0, 1, more=more))
    times = [
        extract([*common, "--source", manifest.source(i), "--output", str(folder / f"one{i}.npy")], options.threads)[0]
        for i in range(options.calls)
    ]
    mean = sum(times) / len(times)
    spread = (max(times) - min(times)) / mean
    results.append(
        Result(f"feature_extract.py, a call a clip ({options.calls} clips)", 1 / mean, 1000 * mean, spread, len(times))
    )
    for result in results[:-1]:
        result.more["times_a_call_a_clip"] = result.clips_per_s * mean
    return results


def main() -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("--size", choices=SIZES, default="base")
    made.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    made.add_argument("--precision", choices=DTYPES, nargs="+", default=list(DTYPES))
    made.add_argument("--device", default="cpu")
    made.add_argument("--clips", type=int, default=500, help="of mixed lengths; 0 leaves them out")
    made.add_argument("--seconds", type=float, default=2.0, help="the longest of them; the shortest a twentieth")
    made.add_argument("--calls", type=int, default=8)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device(options.device)
    settings = model_settings(options.size)
    results = []
    with tempfile.TemporaryDirectory() as name:
        path = str(Path(name) / "model.safetensors")
        write_model(path, options.size)
        for precision in options.precision:
            rate = MatrixRate(device, DTYPES[precision])
            model = load(path, device=device).to(DTYPES[precision])
            for clips in options.batch:
                filterbank = torch.randn(clips, 1, 1024, 128, device=device)

                work = encoder_work(settings, 513)  # also where only CLS is wanted of the last block
                for tokens, only_cls in (("all tokens", False), ("utterance", True)):

                    def forward(
                        model: EATModel = model, filterbank: torch.Tensor = filterbank, only_cls: bool = only_cls
                    ) -> None:
                        with torch.inference_mode():
                            model(filterbank, only_cls=only_cls)

                    results.append(
                        measure(
                            f"{options.size}, batch of {clips}, {precision}, {tokens}", forward, clips, device,
                            repeats=options.repeats, warmup=2, work_per_clip=work, rate=rate,
                        )
                    )  # fmt: skip
        if options.clips:
            manifest = make_clips(Path(name) / "clips", options.clips, seconds=options.seconds, mixed=True)
            for precision in options.precision:
                results += call_results(path, manifest, precision, options)
            results += command_results(Path(name), path, manifest, options)
    report("extract", results, options, device)


if __name__ == "__main__":
    main()
