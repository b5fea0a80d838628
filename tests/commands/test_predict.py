"""Predictions as users ask for them: the real command, on real clips and a real minute."""

import csv
import io
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import EAT
from EAT.audio.recordings import read_audio
from EAT.commands.predict import main
from EAT.commands.prediction_text import PAGE, Wanted, audacity, clock, csv_lines, rttm, table, table_of
from EAT.data.labels import read_descriptors
from EAT.inference.prediction import Prediction
from EAT.inference.segments import Merging
from EAT.inference.windows import ScoredWindow, score_recording
from EAT.pictures.prediction import draw_prediction
from EAT.pictures.spectrogram import recording_mel

from ..conftest import CONFORMANCE, ROOT

CHECKPOINT = str(CONFORMANCE / "official_finetune.pt")
NAMES = ["Ambience", "Bass", "Drum", "Electronic", "Tabla", "Loop, breakbeat"]


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "label_descriptors.csv"
    rows = [f'{index},/m/{index},"{name}"' for index, name in enumerate(NAMES)]
    path.write_text("\n".join(["index,mid,display_name", *rows]) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def minute(tmp_path_factory, clips):
    path = tmp_path_factory.mktemp("minute") / "minute.wav"
    wave = torch.cat([read_audio(str(clip)) for clip in clips])[: 60 * 16000]
    soundfile.write(path, wave.numpy(), 16000, subtype="FLOAT")
    return str(path)


def predict(labels, *arguments):
    return main(["--checkpoint", CHECKPOINT, "--labels", labels, "--device", "cpu", *map(str, arguments)])


@torch.inference_mode()
def expected_scores(clip):
    return EAT.load(CHECKPOINT).scores(read_audio(str(clip))).numpy()


def test_json_and_csv_agree_with_the_model(labels, clips, capsys):
    sources = ["--source", *clips[:5]]
    assert predict(labels, *sources, "--format", "json", "--top-k", 6) == 0
    records = json.loads(capsys.readouterr().out)
    assert predict(labels, *sources, "--format", "csv", "--top-k", 2) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [record["source"] for record in records] == [str(clip) for clip in clips[:5]]
    for number, (record, clip) in enumerate(zip(records, clips, strict=False)):
        scores = expected_scores(clip)
        assert [entry["index"] for entry in record["top"]] == list(np.argsort(-scores))
        for entry in record["top"]:
            assert entry["score"] == pytest.approx(scores[entry["index"]], abs=1e-5)
            assert (entry["label"], entry["name"]) == (f"/m/{entry['index']}", NAMES[entry["index"]])
        for rank in range(2):
            row = rows[2 * number + rank]
            assert (row["source"], row["rank"]) == (str(clip), str(rank + 1))
            assert (row["name"], float(row["score"])) == (record["top"][rank]["name"], record["top"][rank]["score"])


def test_a_table_for_people_and_a_bad_file(labels, clips, tmp_path):
    (tmp_path / "bad.wav").write_text("no audio")
    command = [sys.executable, "-m", "EAT.predict", "--checkpoint", CHECKPOINT, "--labels", labels, "--top-k", "2"]
    sources = ["--source", str(clips[0]), str(tmp_path / "bad.wav"), str(clips[1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command + sources, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1 and "bad.wav is not audio" in run.stderr
    blocks = run.stdout.strip().split("\n\n")
    assert [block.split("  ")[0] for block in blocks] == [str(clips[0]), str(clips[1])]
    best = int(expected_scores(clips[0]).argmax())
    assert blocks[0].splitlines()[1].split()[:3] == ["1", f"{expected_scores(clips[0])[best]:.3f}", NAMES[best]]


@torch.inference_mode()
def test_a_long_recording_gets_a_timeline(labels, minute, capsys):
    assert predict(labels, "--source", minute, "--format", "json", "--window", 512, "--hop", 512) == 0
    (record,) = json.loads(capsys.readouterr().out)
    windows = list(score_recording(EAT.load(CHECKPOINT), minute, 512, 512))
    assert [(part["start"], part["end"]) for part in record["timeline"]] == [(w.start, w.end) for w in windows]
    for part, window in zip(record["timeline"], windows, strict=True):
        assert part["top"][0]["index"] == int(window.scores.argmax())
        assert part["top"][0]["score"] == pytest.approx(float(window.scores.max()), abs=1e-5)
    mean = torch.stack([window.scores for window in windows]).mean(dim=0)
    assert record["top"][0]["score"] == pytest.approx(float(mean.max()), abs=1e-5)
    assert record["duration"] == 60.0
    assert predict(labels, "--source", minute, "--threshold", 0) == 0
    everything = [line for line in capsys.readouterr().out.splitlines() if " - " in line]
    assert everything[0].startswith(f"{clock(0):>12} - {clock(60):<10}") and len(everything) == len(NAMES)


def timeline(*scores):
    """Windows of 2 s every second, each standing for a second, with these scores of two classes."""
    windows = [ScoredWindow(k, k + 2, (k, k + 1), torch.tensor(row)) for k, row in enumerate(scores)]
    mean = torch.tensor(scores).mean(dim=0).numpy()
    return Prediction("x.wav", float(len(scores)), mean, tuple(windows))


def test_an_audacity_track_joins_neighbours():
    labels = read_descriptors_of("a", "b")
    prediction = timeline([0.9, 0.1], [0.8, 0.6], [0.2, 0.7], [0.55, 0.1])
    assert audacity(prediction, labels, Wanted(2)) == (
        "0.000000\t2.000000\ta 0.90\n1.000000\t3.000000\tb 0.70\n3.000000\t4.000000\ta 0.55\n"
    )
    assert audacity(prediction, labels, Wanted(1, Merging(0.95))) == ""


def test_rttm_and_segments_as_csv():
    labels = read_descriptors_of("a cat", "b")
    prediction = timeline([0.9, 0.1], [0.8, 0.6], [0.2, 0.7], [0.55, 0.1])
    assert rttm(prediction, labels, Wanted(2), "sub dir/x y") == (
        "SPEAKER sub_dir/x_y 1 0.000 2.000 <NA> <NA> a_cat 0.900000 <NA>\n"
        "SPEAKER sub_dir/x_y 1 1.000 2.000 <NA> <NA> b 0.700000 <NA>\n"
        "SPEAKER sub_dir/x_y 1 3.000 1.000 <NA> <NA> a_cat 0.550000 <NA>\n"
    )
    columns, rows = table_of(wanted := Wanted(2, Merging(max_gap=1.0), segments=True))
    assert ",".join(columns) + "\n" + csv_lines(columns, rows(prediction, labels, wanted)) == (
        "source,start,end,index,label,name,score\n"
        "x.wav,0.000,4.000,0,a cat,a cat,0.900000\n"
        "x.wav,1.000,3.000,1,b,b,0.700000\n"
    )


def test_a_long_timeline_prints_a_page():
    rng = np.random.default_rng(0)
    prediction = timeline(*rng.random((942, 2), dtype=np.float32).tolist())
    lines = table(prediction, read_descriptors_of("a", "b"), Wanted(2)).rstrip().splitlines()
    starts = [[float(part) for part in line.split(" - ")[0].split(":")] for line in lines[3:-1]]
    assert len(starts) == PAGE and starts == sorted(starts)
    assert " shorter ones; --max-gap joins them" in lines[-1]
    (none,) = table(timeline([0.3, 0.1]), read_descriptors_of("a", "b"), Wanted(2)).rstrip().splitlines()[3:]
    assert "no class reaches 0.5" in none


def read_descriptors_of(*names):
    from EAT.data.labels import Label

    return [Label(index, name, name) for index, name in enumerate(names)]


def test_names_cannot_steer_the_terminal():
    shown = table(timeline([0.9, 0.1]), read_descriptors_of("\x1b[2Jevil", "b"), Wanted(2))
    assert "\x1b" not in shown and "?[2Jevil" in shown


def test_clock():
    assert [clock(s) for s in (0, 59.96, 61.25, 3723.4)] == ["0:00.0", "1:00.0", "1:01.2", "1:02:03.4"]


def test_activation_follows_the_checkpoint_or_the_flag(labels, clips, capsys, tmp_path):
    state = torch.load(CHECKPOINT, weights_only=True)
    state["cfg"]["model"]["esc50_eval"] = True
    torch.save(state, tmp_path / "single.pt")
    totals = []
    for arguments in (["--checkpoint", tmp_path / "single.pt"], [], ["--activation", "softmax"]):
        assert predict(labels, "--source", clips[0], "--format", "json", *arguments) == 0
        totals.append(sum(entry["score"] for entry in json.loads(capsys.readouterr().out)[0]["top"]))
    assert totals[0] == pytest.approx(1, abs=1e-4) and totals[2] == pytest.approx(1, abs=1e-4)
    assert totals[1] > 1.5


def test_a_label_track_and_a_file(labels, minute, tmp_path):
    out = tmp_path / "track.txt"
    assert predict(labels, "--source", minute, "--format", "audacity", "--threshold", 0.3, "--output", out) == 0
    expected = []
    windows = list(score_recording(EAT.load(CHECKPOINT), str(minute)))
    for index, name in enumerate(NAMES):
        scores = [float(window.scores[index]) for window in windows]
        for active, run in itertools.groupby(range(len(windows)), key=lambda k: scores[k] >= 0.3):
            slots = list(run)
            if active:
                start, end = windows[slots[0]].slot[0], windows[slots[-1]].slot[1]
                best = max(scores[k] for k in slots)
                expected.append(f"{start:.6f}\t{end:.6f}\t{name} {best:.2f}")
    lines = out.read_text().splitlines()
    assert len(lines) >= 3 and sorted(lines) == sorted(expected)


def test_pictures(labels, minute, clips, tmp_path):
    import matplotlib.image

    assert predict(labels, "--source", minute, "--picture", tmp_path / "minute.png", "--hop", 128) == 0
    assert predict(labels, "--source", *clips[:2], "--picture", tmp_path / "both", "--output", tmp_path / "t.txt") == 0
    pictures = [tmp_path / "minute.png", *(tmp_path / "both" / f"{clip.stem}.png" for clip in clips[:2])]
    for picture in pictures:
        image = matplotlib.image.imread(picture)
        assert image.shape[0] > 500 and image.shape[1] > 1000
        assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100  # not a blank sheet
    bands, seconds = recording_mel(minute)
    assert bands.shape == (128, 1500) and seconds == pytest.approx(60)  # 5 998 frames, four to a column


def test_a_prediction_s_spectrogram_and_timeline_have_one_axis_of_time(labels, tmp_path):
    """What sounds at a second stands above the scores of that second, in the picture's own coordinates."""
    waveform = np.zeros(16_000 * 5, np.float32)
    waveform[32_000:32_400] = 0.5  # a click at 2 s
    soundfile.write(tmp_path / "click.wav", waveform, 16_000)
    bands, seconds = recording_mel(str(tmp_path / "click.wav"))
    assert seconds == pytest.approx(4.98)  # 498 frames; not the 5 s that they were stretched to
    assert bands.mean(axis=0).argmax() * seconds / bands.shape[1] == pytest.approx(2.0, abs=0.03)
    scores = list(score_recording(EAT.load(CHECKPOINT), str(tmp_path / "click.wav"), 128))
    found = Prediction(str(tmp_path / "click.wav"), 5.0, scores[0].scores.numpy(), tuple(scores))
    picture = draw_prediction(found, read_descriptors(labels))
    picture.draw_without_rendering()  # puts everything in its place
    upper, lower = (axes.transData.transform((2.0, 0))[0] for axes in picture.axes[:2])
    assert upper == pytest.approx(lower) and picture.axes[0].images[0].get_extent()[1] == pytest.approx(seconds)


def test_unusable_arguments(labels, clips, tmp_path, capsys):
    (tmp_path / "five.csv").write_text("\n".join(f"{i},c{i}" for i in range(5)))
    cases = [
        (["--labels", tmp_path / "five.csv"], "5 classes"),
        (["--labels", tmp_path / "none.csv"], "none.csv"),
        (["--checkpoint", CONFORMANCE / "official_pretrain.pt"], "knows no classes"),
        (["--top-k", 0], "--top-k"),
        (["--format", "audacity", "--source", clips[0], clips[1]], "one recording"),
        (["--format", "parquet"], "--output"),
        (["--threshold", 1.5], "threshold 1.5"),
        (["--threshold", 0.3, "--hold", 0.4], "holds a segment, 0.4"),
        (["--max-gap", -1], "gap is -1"),
        (["--picture", tmp_path / "none"], ".png"),
        (["--picture", tmp_path / "a.xyz"], ".png"),
        (["--window", 77], "window is 77"),
        (["--output", tmp_path / "five.csv" / "x"], "cannot be written"),
    ]
    for arguments, what in cases:
        assert predict(labels, "--source", clips[0], *arguments) == 2, arguments
        assert what in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["five.csv"]


def test_descriptors_are_read(labels):
    assert [label.display for label in read_descriptors(labels)] == NAMES


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "json"])
def test_the_name_s_ending_says_the_format(labels, minute, clips, tmp_path, ending):
    import pyarrow.parquet

    sources = ["--source", clips[0], minute]
    assert predict(labels, *sources, "--format", "csv", "--output", tmp_path / "plain", "--top-k", 3) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "plain").read_text())))
    assert predict(labels, *sources, "--output", tmp_path / f"out.{ending}", "--top-k", 3) == 0
    text = (tmp_path / f"out.{ending}").read_bytes()
    if ending == "csv":
        assert text == (tmp_path / "plain").read_bytes()
        return
    if ending == "parquet":
        found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    else:
        records = json.loads(text) if ending == "json" else [json.loads(line) for line in text.splitlines()]
        assert [record["source"] for record in records] == [str(clips[0]), minute]
        whole = [{"start": 0.0, "end": records[0]["duration"], "top": records[0]["top"]}]
        found = [
            {"source": record["source"], "start": window["start"], "end": window["end"], "rank": rank, **entry}
            for record in records
            for window in record.get("timeline", whole)
            for rank, entry in enumerate(window["top"], 1)
        ]
    assert [list(row) for row in found] == [list(rows[0])] * len(rows)
    for row, text_row in zip(found, rows, strict=True):
        for name, value in row.items():
            digits = {"start": ".3f", "end": ".3f", "score": ".6f"}.get(name, "")
            assert format(value, digits) == text_row[name]


def test_segments_in_every_format_are_the_label_track_s(labels, minute, clips, tmp_path):
    import pyarrow.parquet

    sources = ["--source", clips[0], minute, "--threshold", 0.3, "--hold", 0.2, "--max-gap", 1, "--min-seconds", 0.1]
    for output in ("tracks", "s.csv", "s.jsonl", "s.parquet", "s.rttm"):
        style = ["--format", "audacity"] if output == "tracks" else ["--segments"]
        assert predict(labels, *sources, "--output", tmp_path / output, *style) == 0
    table = pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pylist()
    assert {row["source"] for row in table} == {str(clips[0]), minute}
    records = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [{"source": r["source"], **s} for r in records for s in r["segments"]] == table
    with open(tmp_path / "s.csv") as handle:
        assert [float(row["score"]) for row in csv.DictReader(handle)] == [row["score"] for row in table]
    assert {path.name for path in (tmp_path / "tracks").iterdir()} == {f"{clips[0].stem}.txt", "minute.txt"}
    tracks = [line for name in (clips[0].stem, "minute")
              for line in (tmp_path / "tracks" / f"{name}.txt").read_text().splitlines()]  # fmt: skip
    lines = (tmp_path / "s.rttm").read_text().splitlines()
    assert len(tracks) == len(lines) == len(table) > 5
    for row, track, line in zip(table, tracks, lines, strict=True):
        start, end, text = track.split("\t")
        assert (float(start), float(end)) == pytest.approx((row["start"], row["end"]), abs=6e-4)
        assert text == f"{row['name']} {row['score']:.2f}"
        fields = line.split(" ")
        assert len(fields) == 10 and fields[:3:2] == ["SPEAKER", "1"]
        assert fields[1] == ("minute" if row["source"] == minute else clips[0].stem)
        assert float(fields[3]) + float(fields[4]) == pytest.approx(row["end"], abs=2e-3)
        assert (fields[7], float(fields[8])) == (row["name"].replace(" ", "_"), row["score"])


def test_a_few_unreadable_files_may_be_allowed(labels, clips, tmp_path, capsys):
    (tmp_path / "bad.wav").write_text("no audio")
    sources = ["--source", *clips[:3], tmp_path / "bad.wav", "--output", tmp_path / "out.csv"]
    for allowed, status, verdict in (("0.25", 0, "as"), ("0.2", 1, "more than"), ("0", 1, None)):
        assert predict(labels, *sources, "--allow-unreadable", allowed) == status
        said = capsys.readouterr().err
        assert "bad.wav is not audio" in said
        expected = f"1 of 4 recordings could not be used, {verdict} --allow-unreadable {allowed} allows"
        assert (expected in said) == (verdict is not None)
        with open(tmp_path / "out.csv") as handle:
            assert {row["source"] for row in csv.DictReader(handle)} == set(map(str, clips[:3]))
    for nonsense in ("1", "-0.1", "nan", "few"):
        with pytest.raises(SystemExit) as end:
            predict(labels, *sources, "--allow-unreadable", nonsense)
        assert end.value.code == 2
