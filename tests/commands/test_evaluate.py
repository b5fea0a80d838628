"""Evaluation as users run it: published and Hugging Face checkpoints on real clips, the report, and bad input."""

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet
import pytest
import sklearn.metrics
import soundfile
import torch

import EAT
from EAT.audio.recordings import read_audio
from EAT.commands.evaluate import main
from EAT.data.labels import Label, write_descriptors
from EAT.pictures.evaluation import bars, confusion_picture, interpolated_precision
from EAT.pictures.style import shorten

NAMES = [
    "Speech",
    'Male "speech", man speaking',
    "<script>alert(1)</script>",
    "$x$_{1}^ =cmd|'/C calc'!A0",
    "日本語\nnew line \x07",
    "nobody",
]


@pytest.fixture
def data(tmp_path, clips):
    """30 real clips with six classes of hostile names, one of them without clips; several labels in ``eval``."""
    write_descriptors(tmp_path / "label_descriptors.csv", [Label(i, f"/m/{i}", name) for i, name in enumerate(NAMES)])
    chosen = clips[::4][:30]
    rows = [str(chosen[0].parent), *(f"{clip.name}\t16000" for clip in chosen)]
    for split in ("eval", "single"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    single = [f"{clip.stem}\t/m/{index % 5}" for index, clip in enumerate(chosen)]
    (tmp_path / "single.lbl").write_text("\n".join(single) + "\n")
    several = [line + (f",/m/{index % 3}" if index % 2 else "") for index, line in enumerate(single)]
    (tmp_path / "eval.lbl").write_text("\n".join(several) + "\n")
    return tmp_path


def run(data, checkpoint, *more):
    command = ["--data", str(data), "--checkpoint", str(checkpoint), "--target-length", "256", "--num-workers", "0"]
    return main([*command, *more])


def scores_one_by_one(checkpoint, data, split="eval"):
    """Logits of each clip on its own, and the truth as the files have it."""
    model = EAT.load(checkpoint)
    root, *rows = (data / f"{split}.tsv").read_text().splitlines()
    with torch.inference_mode():
        logits = [model.logits(read_audio(f"{root}/{r.split(chr(9))[0]}"), target_length=256).numpy() for r in rows]
    truth = np.zeros((len(rows), 6), dtype=int)
    for row, line in zip(truth, (data / f"{split}.lbl").read_text().splitlines(), strict=True):
        row[[int(name.removeprefix("/m/")) for name in line.split("\t")[1].split(",")]] = 1
    return np.stack(logits), truth


def test_several_labels_equal_scikit_learn_on_clips_scored_one_by_one(data, conformance, capsys):
    checkpoint = conformance / "official_finetune.pt"
    assert run(data, checkpoint, "--report", str(data / "report"), "--batch-size", "7") == 0
    logits, truth = scores_one_by_one(checkpoint, data)
    reference = sklearn.metrics.average_precision_score(truth[:, :5], logits[:, :5], average=None)
    values = json.loads((data / "report" / "metrics.json").read_text())
    assert values["mAP"] == pytest.approx(reference.mean(), abs=1e-6)
    assert values["AUC"] == pytest.approx(sklearn.metrics.roc_auc_score(truth[:, :5], logits[:, :5]), abs=1e-6)
    assert values["task"] == "multi-label" and values["clips"] == 30 and values["without_positives"] == ["/m/5"]
    printed = capsys.readouterr().out
    assert f"mAP               {reference.mean():.4f}" in printed
    assert "left out of means, because no clip has them (1): nobody" in printed
    with open(data / "report" / "classes.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["display"] for row in rows] == NAMES
    assert [float(row["AP"]) for row in rows[:5]] == pytest.approx(reference, abs=1e-6) and rows[5]["AP"] == ""
    with open(data / "report" / "clips.csv", newline="", encoding="utf-8") as handle:
        clip = list(csv.DictReader(handle))[1]
    right, score = truth[1].astype(bool), 1 / (1 + np.exp(-logits[1]))
    assert clip["truth"] == "/m/1" and clip["prediction"] == f"/m/{score.argmax()}"
    assert float(clip["mistake"]) == pytest.approx(score[~right].max() - score[right].min(), abs=1e-5)


def test_one_label_a_clip(data, conformance):
    checkpoint = conformance / "hf_finetune"
    assert run(data, checkpoint, "--split", "single", "--report", str(data / "report")) == 0
    logits, truth = scores_one_by_one(checkpoint, data, "single")
    values = json.loads((data / "report" / "metrics.json").read_text())
    assert values["task"] == "single-label"
    assert values["accuracy"] == pytest.approx((logits.argmax(1) == truth.argmax(1)).mean())
    with open(data / "report" / "confusion.csv", newline="") as handle:
        confusion = np.array([row[1:] for row in csv.reader(handle)][1:], dtype=int)
    assert (
        confusion.tolist()
        == sklearn.metrics.confusion_matrix(truth.argmax(1), logits.argmax(1), labels=range(6)).tolist()
    )
    assert run(data, checkpoint, "--split", "single", "--task", "multi-label", "--report", str(data / "both")) == 0
    assert "mAP" in json.loads((data / "both" / "metrics.json").read_text())


class Elements(HTMLParser):
    """Collects a page's elements, its visible text, and the files embedded in it."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_report_is_one_file_with_every_name_escaped(data, conformance, clips):
    (data / "eval.tsv").write_text((data / "eval.tsv").read_text().replace(str(clips[0].parent), str(data / "c")))
    (data / "c").mkdir()
    (data / "c" / "<img src=x>").mkdir()
    lines = (data / "eval.tsv").read_text().splitlines()
    for row, clip in enumerate(line.split("\t")[0] for line in lines[1:]):
        shutil.copy(clips[0].parent / clip, data / "c" / "<img src=x>" / clip)
        lines[row + 1] = f"<img src=x>/{clip}\t16000"
    (data / "eval.tsv").write_text("\n".join(lines))
    assert run(data, conformance / "official_finetune.pt", "--report", str(data / "report")) == 0
    page = Elements((data / "report" / "report.html").read_text(encoding="utf-8"))
    assert "link" not in page.tags and page.tags.count("script") == 2 + 30  # data, its own script, each clip's sound
    assert all(source.startswith("data:") for source in page.sources)
    assert "<script>alert(1)</script>" in page.text and "<img src=x>/" in page.text and "日本語" in page.text
    pictures = [base64.b64decode(s.partition(",")[2]) for s in page.sources if s.startswith("data:image/svg")]
    assert len(pictures) == 2
    for picture in pictures:
        text = " ".join(ElementTree.fromstring(picture).itertext())
        assert "<script>alert(1)</script>" in text and "$x$_{1}^" in text
    sounds = [s for s in page.sources if s.startswith("data:audio/mpeg")]
    assert 1 <= len(sounds) <= 12 == page.tags.count("audio")
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[0].partition(",")[2])))
    assert rate == 16_000 and 0 < len(sound) / rate < 2.7  # 256 frames at most, and what MP3 pads


def test_reports_of_the_same_run_are_equal(data, conformance):
    for name in ("one", "two"):
        assert run(data, conformance / "official_finetune.pt", "--report", str(data / name)) == 0
    for name in os.listdir(data / "one"):
        assert (data / "one" / name).read_bytes() == (data / "two" / name).read_bytes()


def test_unreadable_clips_are_named_and_the_rest_is_done(data, conformance, clips, capsys):
    lines = (data / "eval.tsv").read_text().splitlines()
    lines[3] = "no such clip.flac\t16000"
    (data / "eval.tsv").write_text("\n".join(lines))
    command = [sys.executable, "-m", "EAT.evaluate", "--data", str(data), "--target-length", "256"]
    command += ["--checkpoint", str(conformance / "official_finetune.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no such clip.flac does not exist" in done.stderr and "1 clips could not be read" in done.stderr
    assert "eval: 29 of 30 clips" in done.stdout and "Traceback" not in done.stderr
    allowed = ["--target-length", "64", "--allow-unreadable"]
    assert run(data, conformance / "official_finetune.pt", *allowed, "0.04") == 0
    assert "1 of 30 recordings could not be used, as --allow-unreadable 0.04 allows" in capsys.readouterr().err
    assert run(data, conformance / "official_finetune.pt", *allowed, "0.03") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--checkpoint", "CONFORMANCE/official_pretrain.pt"], "knows no classes"),
        (["--checkpoint", "nothing.pt"], "nothing.pt"),
        (["--split", "none"], "none.tsv cannot be read"),
        (["--labels", "none.csv"], "none.csv cannot be read"),
        (["--labels", "DATA/five.csv"], "has 6 classes, but .*five.csv has 5"),
        (["--target-length", "100"], "--target-length is 100"),
        (["--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        (["--device", "nonsense"], "--device nonsense cannot be used"),
        (["--norm-std", "0"], "cannot normalise"),
        (["--task", "single-label"], "clip 4 has 2 labels; use --task multi-label"),
    ],
)
def test_unusable_arguments(data, conformance, capsys, change, words):
    (data / "five.csv").write_text("".join(f"{i},/m/{i}\n" for i in range(5)))
    change = [text.replace("CONFORMANCE", str(conformance)).replace("DATA", str(data)) for text in change]
    assert run(data, conformance / "official_finetune.pt", *change) == 2
    assert re.search(words, capsys.readouterr().err)


def test_interpolated_precision_worked_out_by_hand():
    # Ranked: right, wrong, right, wrong. Precision is 1 up to recall 1/2, then 2/3.
    recall = np.array([0.0, 0.25, 0.5, 0.51, 1.0])
    precision = interpolated_precision(np.array([4.0, 3, 2, 1]), np.array([1, 0, 1, 0]), recall)
    assert precision == pytest.approx([1, 1, 1, 2 / 3, 2 / 3])


def test_pictures_of_audioset_s_size():
    names = [f"class {index}" for index in range(527)]
    values = np.random.default_rng(0).random(527)
    values[[3, 5]] = np.nan
    text = " ".join(ElementTree.fromstring(bars(names, values, "AP")).itertext())
    best, worst = int(np.nanargmax(values)), int(np.nanargmin(values))
    assert f"class {best} " in text and f"class {worst} " in text and "class 3 " not in text
    assert len(confusion_picture(names, np.eye(527, dtype=int))) < 2_000_000
    assert shorten("a\nb" + "x" * 50) == "a\N{REPLACEMENT CHARACTER}b" + "x" * 30 + "…"


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_table_has_a_row_a_clip_with_path_truth_and_scores(data, conformance, ending, tmp_path):
    finetuned = conformance / "official_finetune.pt"
    table = tmp_path / "out" / f"scores.{ending}"
    assert run(data, finetuned, "--table", str(table)) == 0
    if ending == "csv":
        rows = list(csv.DictReader(table.open(newline="")))
    elif ending == "jsonl":
        rows = [json.loads(line) for line in table.read_text().splitlines()]
    else:
        rows = pyarrow.parquet.read_table(table).to_pylist()
    logits, truth = scores_one_by_one(finetuned, data)
    root, *listed = (data / "eval.tsv").read_text().splitlines()
    assert [row["path"] for row in rows] == [os.path.join(root, line.split("\t")[0]) for line in listed]
    assert [row["truth"] for row in rows] == [",".join(f"/m/{k}" for k in np.flatnonzero(clip)) for clip in truth]
    scores = np.array([[float(row[f"score_/m/{k}"]) for k in range(6)] for row in rows])
    assert np.abs(scores - 1 / (1 + np.exp(-np.asarray(logits)))).max() < 1e-5
    assert [row["prediction"] for row in rows] == [f"/m/{k}" for k in scores.argmax(axis=1)]


def test_a_table_of_no_known_ending_is_refused_before_anything_is_computed(data, capsys):
    assert run(data, "any.pt", "--table", "scores.xls") == 2
    assert "scores.xls has no ending of a table; give one of .csv, .jsonl, .parquet" in capsys.readouterr().err
