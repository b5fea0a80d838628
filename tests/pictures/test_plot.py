"""Pictures hold what they should: curves with the logged numbers, masks with blocks."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import EAT
from EAT.commands.plot import main
from EAT.errors import DataError
from EAT.network.settings import MaskSettings
from EAT.pictures.components import principal_components
from EAT.pictures.embeddings_map import Embeddings, draw_map, read_embeddings
from EAT.pictures.features import as_colours, draw_features
from EAT.pictures.masks import draw_masks
from EAT.pictures.run_logs import read_run
from EAT.pictures.runs import draw_runs
from EAT.pictures.style import PALETTE, save

from ..conftest import CLIPS, CONFORMANCE, ROOT

LINES = [
    {"num_updates": str(u), "loss": 10.0 / u, "frame_loss": 5.0 / u, "lr": "0.001", "note": "text"} for u in (1, 2, 3)
]


def write_log(folder: Path, lines: list[str], start: int = 1) -> Path:
    log = folder / "hydra" / f"start_{start}" / "hydra_train.log"
    log.parent.mkdir(parents=True)
    log.write_text("\n".join(["[2026-01-01 00:00:00,000][EAT][INFO] - train: 3 clips listed", *lines]))
    return log


def as_json(line: dict) -> str:
    return f"[2026-01-01 00:00:00,000][train_inner][INFO] - {json.dumps(line)}"


def as_pairs(line: dict) -> str:
    pairs = ", ".join(f"{key}={value}" for key, value in line.items())
    return f"[2026-01-01 00:00:00,000][train_inner][INFO] - epoch 001:      1 / 3 {pairs}"


@pytest.mark.parametrize("form", [as_json, as_pairs])
def test_logs_are_read_in_both_forms(tmp_path: Path, form) -> None:
    write_log(tmp_path, [form(line) for line in LINES])
    run = read_run(tmp_path)
    assert run["num_updates"] == [1, 2, 3] and run["loss"] == [10.0, 5.0, 10 / 3] and "note" not in run


def test_a_resumed_run_is_joined(tmp_path: Path) -> None:
    write_log(tmp_path, [as_json(line) for line in LINES], start=1)
    write_log(
        tmp_path, [as_json({"num_updates": "3", "loss": 7.0}), as_json({"num_updates": "4", "loss": 6.0})], start=2
    )
    run = read_run(tmp_path)
    assert run["num_updates"] == [1, 2, 3, 4] and run["loss"] == [10.0, 5.0, 7.0, 6.0]


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no log of a run"):
        read_run(tmp_path)
    write_log(tmp_path, [])
    with pytest.raises(DataError, match="holds no statistics yet"):
        read_run(tmp_path)


def test_a_picture_of_runs_draws_their_numbers(tmp_path: Path) -> None:
    write_log(tmp_path, [as_json(line) for line in LINES])
    run = read_run(tmp_path)
    panels = {axes.get_title(loc="left"): axes for axes in draw_runs({"one": run, "two": run}).axes}
    assert set(panels) == {"Loss", "Loss terms", "Learning rate"}
    lines = panels["Loss"].lines
    assert [line.get_label() for line in lines] == ["one", "two"]
    assert lines[0].get_xdata().tolist() == [1, 2, 3] and lines[0].get_ydata().tolist() == run["loss"]
    assert panels["Loss"].get_xlabel() == "update" and panels["Loss"].get_yscale() == "log"


def test_what_is_logged_is_drawn_without_a_list_of_it(tmp_path: Path) -> None:
    line = {"num_updates": 1, "loss": 3.0, "frame_loss": 1.0, "contrast_loss": 2.0, "target_std": 0.9, "skill": 0.4,
            "prediction_std": 0.5, "wall": 7, "masked_fraction": 0.8}  # fmt: skip
    write_log(tmp_path, [as_json({**line, "num_updates": update}) for update in (1, 2)])
    drawn = {axes.get_title(loc="left"): axes for axes in draw_runs({"one": read_run(tmp_path)}).axes if axes.lines}
    assert list(drawn) == ["Loss", "Loss terms", "Standard deviation", "Skill"]
    assert [text.get_text() for text in drawn["Loss terms"].get_legend().get_texts()] == ["contrast", "frame"]
    assert drawn["Skill"].lines[0].get_ydata().tolist() == [0.4, 0.4]


def test_logs_of_the_first_release_are_read(tmp_path: Path) -> None:
    write_log(tmp_path, [as_pairs({"num_updates": 1, "prediction_deviation": 0.25, "target_deviation": 0.75})])
    run = read_run(tmp_path)
    assert run["prediction_std"] == [0.25] and run["target_std"] == [0.75]


def test_drawing_leaves_others_settings_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_log(tmp_path, [as_json(line) for line in LINES])
    save(draw_runs({"one": read_run(tmp_path)}), tmp_path / "run.svg")
    assert dict(matplotlib.rcParams) == before
    assert "<text" in (tmp_path / "run.svg").read_text()  # text stays text


def test_a_picture_of_masks_shows_blocks(tmp_path: Path) -> None:
    figure = draw_masks(str(CLIPS / "loop_garzul.flac"), 512, MaskSettings(), clones=2)
    assert len(figure.axes) == 3
    whole = figure.axes[0].images[0].get_array()
    assert whole.shape == (128, 512) and not np.ma.getmaskarray(whole).any()
    for axes in figure.axes[1:]:
        image = np.ma.getmaskarray(np.ma.masked_invalid(axes.images[0].get_array()))
        patches = ~image.reshape(8, 16, 32, 16).transpose(0, 2, 1, 3).reshape(8, 32, 256)
        assert (patches.all(axis=-1) == patches.any(axis=-1)).all()  # whole patches, visible or not
        visible = patches.all(axis=-1)
        assert visible.sum() == 51 == int(256 * (1 - 0.8))
        assert (visible[1:] & visible[:-1]).sum() > 20  # in blocks: at random, about 9 neighbouring pairs
        assert axes.get_ylabel() == "frequency (Hz)" and axes.get_yticklabels()[-1].get_text() == "8 k"
    assert figure.axes[-1].get_xlabel() == "time (s)"


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_command_writes_pictures(tmp_path: Path, ending: str) -> None:
    output = tmp_path / f"new folder/masks.{ending}"
    command = [sys.executable, "-m", "EAT.plot", "masks", str(CLIPS / "elec_bell.flac"), "--target-length", "128"]
    done = subprocess.run([*command, "--output", str(output)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_unusable_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["masks", str(CLIPS / "elec_bell.flac"), "--target-length", "128"]
    for bad in (["--output", str(tmp_path / "x.jpg")], ["--mask-length", "4"], ["--target-length", "100"]):
        assert main([*command, *bad]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_logarithmic_axes_have_room_for_their_numbers() -> None:
    run = {"num_updates": [1.0, 2.0, 3.0], "loss": [120.0, 11.0, 1.7]}
    figure = draw_runs({"one": run})
    figure.canvas.draw()
    boxes = sorted(
        (label.get_window_extent() for label in figure.axes[0].get_yticklabels(which="both") if label.get_text()),
        key=lambda box: box.y0,
    )
    low, high = figure.axes[0].get_window_extent().y0, figure.axes[0].get_window_extent().y1
    boxes = [box for box in boxes if low <= (box.y0 + box.y1) / 2 <= high]
    assert len(boxes) >= 4
    assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))


def test_principal_components_are_scikit_learns() -> None:
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(1).normal(size=(40, 7)).astype(np.float32) * np.arange(1, 8, dtype=np.float32)
    ours, theirs = principal_components(rows, 3), PCA(3)
    expected = theirs.fit_transform(rows.astype(np.float64))
    np.testing.assert_allclose(np.abs(ours.values), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(ours.fractions, theirs.explained_variance_ratio_, atol=1e-6)
    np.testing.assert_allclose(principal_components(rows[:2], 3).values[:, 1:], 0, atol=1e-4)  # two rows: one direction
    for bad in (np.ones((5, 3), np.float32), np.full((5, 3), np.nan, np.float32)):
        with pytest.raises(DataError):
            principal_components(bad, 2)


def test_colours_follow_ranks() -> None:
    colours = as_colours(np.array([[1.0, 9, 5], [2, 8, 5.5], [900, 7, 6]], np.float32))
    np.testing.assert_allclose(colours[:, 0], [0.08, 0.52, 0.96], atol=1e-6)
    np.testing.assert_allclose(colours[:, 1], [0.96, 0.52, 0.08], atol=1e-6)


def test_a_picture_of_features_shows_the_grid() -> None:
    model = EAT.load(CONFORMANCE / "official_pretrain.pt")
    figure = draw_features(model, str(CLIPS / "loop_garzul.flac"), target_length=128)
    upper, lower = figure.axes
    assert upper.images[0].get_array().shape == (128, 128)  # mel bins, frames
    colours = lower.images[0].get_array()
    assert colours.shape == (8, 8, 3) and 0 <= colours.min() < colours.max() <= 1
    assert upper.images[0].get_extent() == lower.images[0].get_extent() == [0, 1.28, 0, 128]
    assert lower.get_xlabel().startswith("time (s)") and upper.get_ylabel() == lower.get_ylabel() == "frequency (Hz)"
    assert "block 3 of 3" in lower.get_title(loc="left") and upper.get_title(loc="left") == "loop_garzul.flac"
    # patch (time 3, frequency 2) is at row 3 * 8 + 2 of the features
    waveform = EAT.audio.recordings.read_audio(str(CLIPS / "loop_garzul.flac"), 400 + 127 * 160)
    features = model.extract(waveform, granularity="frame").detach().numpy()
    expected = as_colours(principal_components(features, 3).values)[3 * 8 + 2]
    np.testing.assert_allclose(colours[2, 3], expected, atol=1e-6)


def test_a_map_shows_every_clip_in_its_labels_colour() -> None:
    vectors = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    labels = ["often"] * 18 + [f"rare {i}" for i in range(12)]
    axes = draw_map(Embeddings(vectors, labels, 0), title="30 clips").axes[0]
    assert sum(len(points.get_offsets()) for points in axes.collections) == 30
    names = [points.get_label() for points in axes.collections]
    assert names[0] == "others (3)" and names[1] == "often (18)" and len(names) == 1 + len(PALETTE)
    often = axes.collections[1].get_offsets()
    np.testing.assert_allclose(often, principal_components(vectors, 2).values[:18], atol=1e-5)
    assert axes.get_xlabel().startswith("first principal component (") and axes.get_ylabel().startswith("second (")
    assert axes.get_title(loc="left") == "30 clips by their two principal components"
    embedded = draw_map(Embeddings(vectors, [], 0), "tsne").axes[0]
    assert len(embedded.collections[0].get_offsets()) == 30 and list(embedded.get_xticks()) == []


def test_embeddings_are_read_with_labels(tmp_path: Path) -> None:
    for folder in ("dogs", "cats"):
        (tmp_path / "features" / folder).mkdir(parents=True)
        for index in range(2):
            np.save(tmp_path / "features" / folder / f"{index}.npy", np.full(4, index, np.float32))
    found = read_embeddings(tmp_path / "features")
    assert found.labels == ["cats", "cats", "dogs", "dogs"] and found.vectors.shape == (4, 4)
    (tmp_path / "audio").mkdir()
    (tmp_path / "eval.tsv").write_text("audio\ndogs/1.wav\t5\ncats/0.flac\t5\ncats/1.wav\t5\n")
    (tmp_path / "eval.lbl").write_text("1\tdog,pet\n0\tcat\n1\tcat\n")
    (tmp_path / "label_descriptors.csv").write_text("0,cat,Cat\n1,dog,Dog\n2,pet,Pet\n")
    found = read_embeddings(tmp_path / "features", tmp_path / "eval.tsv")
    assert found.labels == ["Dog", "Cat", "Cat"] and found.multi_label == 1 and found.vectors[0, 0] == 1
    np.save(tmp_path / "features" / "dogs" / "2.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(DataError, match="--granularity utterance"):
        read_embeddings(tmp_path / "features")


def test_commands_for_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(CONFORMANCE / "official_pretrain.pt")
    clip, output = str(CLIPS / "elec_bell.flac"), str(tmp_path / "features.svg")
    assert main(["features", clip, "--checkpoint", checkpoint, "--layer", "1", "--output", output]) == 0
    assert "block 1 of 3" in Path(output).read_text()
    for folder in ("a", "b"):
        (tmp_path / "f" / folder).mkdir(parents=True)
        for index in range(3):
            np.save(tmp_path / "f" / folder / f"{index}.npy", np.random.default_rng(index).normal(size=4))
    assert main(["map", str(tmp_path / "f"), "--output", str(tmp_path / "map.png")]) == 0
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    for bad in (["map", str(tmp_path / "none")], ["features", clip, "--checkpoint", checkpoint, "--layer", "9"]):
        assert main([*bad, "--output", str(tmp_path / "x.png")]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "x.png").exists()
