"""Scores of 10 s waveforms by PyTorch and by onnxruntime, in float32 and in 8 bits: time, size, and how they differ.

    python benchmarks/onnx_runtime.py
    python benchmarks/onnx_runtime.py --checkpoint finetuned.pt --source recordings/    differences on real clips

Without a checkpoint the network is EAT-base with random weights and 527 classes.
"""

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from common import measure, model_settings, parser, report

from EAT.audio.recordings import read_audio
from EAT.checkpoint.contents import Checkpoint
from EAT.inference.model import EATModel, load
from EAT.inference.sources import find_sources
from EAT.interfaces.onnx_graph import export_onnx
from EAT.network.classifier import Classifier
from EAT.network.settings import ClassifierSettings
from EAT.system import keep_freed_memory

GRAPHS = {"float32": False, "int8": True}


def random_classifier(size: str) -> EATModel:
    torch.manual_seed(1)
    settings = ClassifierSettings.take({**vars(model_settings(size)), "num_classes": 527})
    state = Classifier(settings).state_dict()
    encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    head = {name: value for name, value in state.items() if not name.startswith("encoder.")}
    return EATModel(Checkpoint("", "eat", "classification", settings, encoder, head, None, None, None, {})).eval()


def main() -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("--size", default="base")
    made.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    made.add_argument("--checkpoint", help="a fine-tuned one")
    made.add_argument("--source", nargs="+", default=["data/clips"], help="recordings that the scores are compared on")
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    model = load(options.checkpoint) if options.checkpoint else random_classifier(options.size)
    sources, _ = find_sources(options.source)
    clips = [read_audio(source.address) for source in sources]
    device, results, differences = torch.device("cpu"), [], {}
    expected = model.scores(clips).numpy()
    samples = model.front_end.samples_for(model.front_end.target_length)
    waves = {batch: 0.1 * torch.randn(batch, samples) for batch in options.batch}
    for batch, wave in waves.items():
        results.append(
            measure(
                f"PyTorch, batch of {batch}",
                functools.partial(model.scores, wave),
                batch,
                device,
                repeats=options.repeats,
            )
        )
    with tempfile.TemporaryDirectory() as folder:
        for name, int8 in GRAPHS.items():
            path = Path(folder) / f"{name}.onnx"
            export_onnx(model, path, check=False, start="waveform", int8=int8)
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = options.threads
            session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
            for batch, wave in waves.items():
                fed = {"waveform": wave.numpy(), "lengths": np.full(batch, samples)}
                results.append(
                    measure(
                        f"onnxruntime {name}, batch of {batch}",
                        functools.partial(session.run, None, fed),
                        batch,
                        device,
                        repeats=options.repeats,
                    )
                )
                results[-1].more["MB"] = path.stat().st_size / 1e6
            found = np.concatenate(
                [session.run(None, {"waveform": c[None].numpy(), "lengths": np.array([len(c)])})[0] for c in clips]
            )
            differences[name] = {
                "largest": float(np.abs(found - expected).max()),
                "mean": float(np.abs(found - expected).mean()),
                "same best class": float((found.argmax(1) == expected.argmax(1)).mean()),
                "clips": len(clips),
            }
    report("onnx_runtime", results, options, device, differences=differences)


if __name__ == "__main__":
    main()
