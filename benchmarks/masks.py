"""Masks for a batch: ``python benchmarks/masks.py`` (one thread)."""

import torch
from common import measure, parser, report

from EAT.network.masking import inverse_block
from EAT.network.patches import Grid
from EAT.network.random import clone_keys
from EAT.network.settings import MaskSettings


def main() -> None:
    made = parser(__doc__, threads=1, repeats=50)
    made.add_argument("--clips", type=int, nargs="+", default=[1, 12, 64])
    made.add_argument("--clones", type=int, default=16)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    results = []
    for clips in options.clips:
        numbers = torch.arange(clips)

        def draw(numbers: torch.Tensor = numbers) -> None:
            inverse_block(MaskSettings(), Grid(64, 8), clone_keys(1, 1, numbers, options.clones))

        name = f"masks, {options.clones} clones a clip, batch of {clips}"
        results.append(measure(name, draw, clips, device, repeats=options.repeats, warmup=5))
    report("masks", results, options, device)


if __name__ == "__main__":
    main()
