"""Features of 500 clips of mixed lengths: all in one call, in batches of like length, against one call a clip.

``python benchmarks/extraction.py [--size base|large|small] [--device cuda]``. Decoding is not part of it.
"""

from __future__ import annotations

import numpy as np
import torch
from common import SIZES, measure, parser, report, synchronize

from EAT.checkpoint import Checkpoint
from EAT.config import PretrainingSettings
from EAT.model import EATModel
from EAT.network.encoder import Encoder


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--size", choices=SIZES, default="base")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--clips", type=int, default=500)
    arguments.add_argument("--longest", type=float, default=5.0, help="seconds; lengths are uniform from 0.1 s on")
    options = arguments.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    encoder = Encoder(PretrainingSettings(**SIZES[options.size]).config().encoder)
    checkpoint = Checkpoint("", "eat", "pretraining", encoder.config, encoder.state_dict(), None, None, None, None, {})
    model = EATModel(checkpoint).eval().to(device)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1600, int(16000 * options.longest), options.clips)
    clips = [torch.from_numpy(rng.normal(size=length).astype(np.float32) / 10) for length in lengths]

    @torch.inference_mode()
    def together() -> None:
        model.extract(clips)
        synchronize(device)

    @torch.inference_mode()
    def one_by_one() -> None:
        for clip in clips:
            model.extract(clip)
        synchronize(device)

    results = [
        measure("in one call", together, options.clips, device, repeats=options.repeats),
        measure("one by one", one_by_one, options.clips, device, repeats=options.repeats),
    ]
    report("extraction", results, options, device)


if __name__ == "__main__":
    main()
