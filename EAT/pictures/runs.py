"""The drawings themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio.recordings import read_audio
from ..errors import ConfigError
from ..files import replacing
from ..network.front_end import FrontEnd, filterbank, sample_count
from ..network.masking import MASKINGS, mask_map
from ..network.patches import Grid
from ..network.random import clone_keys
from ..network.settings import FREQUENCY_PATCHES, PATCH_SIZE, MaskSettings, check_target_length
from .prediction import fill_empty_bands

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLOURS = ("#2f6fde", "#e8743b", "#2a9d8f", "#b5179e", "#e9b200", "#6c757d")
STYLE = {
    "font.size": 10,
    "svg.fonttype": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
}
PANELS = (
    ("Loss", ("loss",), "log"),
    ("Frame and utterance loss", ("frame_loss", "utterance_loss"), "log"),
    ("Standard deviation", ("prediction_std", "target_std"), "linear"),
    ("Learning rate", ("lr",), "linear"),
    ("Gradient norm", ("gnorm",), "log"),
    ("Clips per second", ("clips_per_s",), "linear"),
)
"""What a picture of a run shows: title, statistics, scale."""


def new_figure(width: float, height: float) -> Any:
    """An empty figure in this package's style, sizes in inches. Raises ConfigError where matplotlib is missing."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("pictures need matplotlib: pip install 'eat-audio[plot]'.") from None
    matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]
    return Figure(figsize=(width, height), layout="constrained")


def check_kind(output: str | Path) -> str:
    """The format that a picture's ending asks for, png or svg. Raises ConfigError for another ending."""
    kind = Path(output).suffix.lstrip(".").lower()
    if kind not in ("png", "svg"):
        raise ConfigError(f"{output} ends in neither .png nor .svg.")
    return kind


def save(figure: Any, output: str | Path) -> None:
    """Write a picture whole; its format is the ending of ``output``: png or svg.

    Raises:
        ConfigError: for another ending.
        DataError: where it cannot be written.
    """
    kind = check_kind(output)
    with replacing(output, "wb") as handle:
        figure.savefig(handle, format=kind, dpi=140)


def draw_runs(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> Any:
    """Curves of one or several runs over each other, a panel for each kind of statistic.

    Args:
        runs: by name, what :func:`EAT.pictures.run_logs.read_run` read.
    """
    logged = set().union(*runs.values())
    panels = [panel for panel in PANELS if logged & set(panel[1])]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(4.2 * columns, 2.9 * rows)
    for axes, (title, names, scale) in zip(
        figure.subplots(rows, columns, squeeze=False).flat[: len(panels)], panels, strict=True
    ):
        for colour, (run, statistics) in zip(COLOURS * len(runs), runs.items(), strict=False):
            for style, name in zip(("-", "--"), names, strict=False):
                if name not in statistics:
                    continue
                parts = [run] if len(runs) > 1 else []
                parts += [name.split("_")[0]] if len(names) > 1 else []
                own = colour if len(runs) > 1 or style == "-" else COLOURS[1]
                axes.plot(
                    statistics["num_updates"], statistics[name], style if len(runs) > 1 else "-", color=own,
                    linewidth=1.6, label=", ".join(parts),
                )  # fmt: skip
        axes.set(title=title, xlabel="update", yscale=scale)
        axes.grid(True)
        if scale == "log":
            _label_decades(axes)
        if any(line.get_label() and not line.get_label().startswith("_") for line in axes.lines):
            axes.legend(frameon=False)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    return figure


def _label_decades(axes: Any) -> None:
    """Number a logarithmic axis where it has room, so that numbers never overlap."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_ylim()
    decades = np.log10(high / low)
    narrow = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
    few = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    steps = narrow if decades < 0.5 else few if decades < 1 else (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(low, high)


def draw_masks(
    source: str, target_length: int, mask: MaskSettings, clones: int = 3, seed: int = 1, epoch: int = 1
) -> Any:
    """A clip's spectrogram, and beneath it what each clone's mask leaves of it for the student to see.

    Args:
        source: the clip.
        target_length: frames, a multiple of 16.
        mask: the masking.
        clones: masked copies shown.
        seed: of the masks.
        epoch: of the masks.
    """
    time_patches = check_target_length(target_length)
    waveform = read_audio(source, FrontEnd(target_length).samples)
    padded = torch.nn.functional.pad(waveform, (0, max(0, sample_count(target_length) - len(waveform))))
    mel = fill_empty_bands(filterbank(padded)[:target_length].T.numpy().copy())  # (bins, frames)
    keys = clone_keys(seed, epoch, torch.tensor([0]), clones)
    drawn = MASKINGS[mask.masking](mask, Grid(time_patches, FREQUENCY_PATCHES), keys, None)
    hidden = mask_map(drawn)[0].view(clones, time_patches, FREQUENCY_PATCHES).numpy()

    figure = new_figure(max(6.0, time_patches * 0.16 + 2.5), 1.75 * (clones + 1))
    extent = (0, target_length / 100, 0, mel.shape[0])
    levels = {"vmin": np.percentile(mel, 2), "vmax": np.percentile(mel, 99.8)}
    for index, axes in enumerate(figure.subplots(clones + 1, 1, sharex=True)):
        image = mel
        if index:
            cells = np.kron(hidden[index - 1].T, np.ones((PATCH_SIZE, PATCH_SIZE)))
            image = np.where(cells > 0, np.nan, mel)
            axes.set_facecolor("#d9dde3")
        axes.imshow(
            image, origin="lower", aspect="auto", extent=extent, cmap="magma", interpolation="nearest", **levels
        )
        share = 1.0 - hidden[index - 1].mean() if index else 1.0
        name = Path(source).name
        axes.set_title(
            f"clone {index}: {share:.0%} of the patches visible" if index else f"{name}, the whole spectrogram"
        )
        axes.set_ylabel("mel bin")
        axes.set_yticks([0, 64, 128])
    figure.axes[-1].set_xlabel("seconds")
    return figure
