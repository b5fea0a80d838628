"""From a 10 s wav file of 32 kHz to normalised filterbank and masks, on one thread."""

import tempfile
from pathlib import Path

import torch
from clips import make_clips
from common import measure, parser, report

from EAT.audio.recordings import read_audio
from EAT.audio.resampling import resample
from EAT.network.front_end import FrontEnd
from EAT.network.masking import inverse_block
from EAT.network.patches import Grid
from EAT.network.random import clone_keys
from EAT.network.settings import MaskSettings
from EAT.system import keep_freed_memory


def main() -> None:
    made = parser(__doc__, threads=1, repeats=30)
    made.add_argument("--rate", type=int, default=32_000)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as processes that train, and their workers, do
    device, front_end = torch.device("cpu"), FrontEnd(1024)
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_clips(Path(folder), 8, rate=options.rate)
        sources = [manifest.source(index) for index in range(8)]
        waves = [read_audio(source, front_end.samples) for source in sources]
        raw = torch.randn(options.rate * 10)

        def masks() -> None:  # by the batch, as in training
            inverse_block(MaskSettings(), Grid(64, 8), clone_keys(1, 1, torch.arange(len(sources)), 16))

        def whole() -> None:
            for source in sources:
                front_end(read_audio(source, front_end.samples)[None])
            masks()

        calls = {
            "wav to filterbank and masks": whole,
            "of it: reading and resampling": lambda: [read_audio(source, front_end.samples) for source in sources],
            "of that: resampling": lambda: [resample(raw, options.rate, 16_000) for _ in sources],
            "of it: filterbank": lambda: [front_end(wave[None]) for wave in waves],
            "of it: masks": masks,
        }
        results = [
            measure(name, call, len(sources), device, repeats=options.repeats, warmup=3) for name, call in calls.items()
        ]
    report("front_end", results, options, device)


if __name__ == "__main__":
    main()
