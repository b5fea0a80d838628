"""The feature extraction script as users run it: real files in, arrays out, bad files named, nothing half-written."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import torch
from safetensors.numpy import load_file

import EAT
from EAT.audio.recordings import read_audio
from EAT.commands.extract import main
from EAT.inference.batches import Batch, clips_per_batch
from EAT.inference.decoding import Decoded, by_length
from EAT.inference.sources import Source, find_sources, output_names

from ..conftest import CLIPS, CONFORMANCE, ROOT
from ..recordings import write_mixed_manifest

SCRIPT = ROOT / "feature_extract" / "feature_extract.py"
CHECKPOINT = str(CONFORMANCE / "official_pretrain.pt")


def run(*arguments, **options):
    command = [sys.executable, str(SCRIPT), "--checkpoint", CHECKPOINT, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def extract(*arguments):
    return main(["--checkpoint", CHECKPOINT, "--device", "cpu", *map(str, arguments)])


@pytest.fixture(scope="module")
def model():
    return EAT.load(CHECKPOINT)


@torch.inference_mode()
def features(model, clip, **options):
    return model.extract(read_audio(str(clip)), **options).numpy()


def test_one_file(tmp_path, model, clips):
    target = tmp_path / "deep" / "one.npy"
    done = run("--source", clips[0], "--output", target)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(np.load(target), features(model, clips[0]), atol=1e-5)
    for granularity, layer, length in (("frame", 1, 128), ("utterance", -2, 64), ("all", 0, 512)):
        options = ["--granularity", granularity, "--layer", layer, "--target-length", length, "--overwrite"]
        assert extract("--source", clips[0], "--output", target, *options) == 0
        wanted = features(model, clips[0], granularity=granularity, layer=layer, target_length=length)
        np.testing.assert_allclose(np.load(target), wanted, atol=1e-5)


def test_a_folder_is_mirrored_and_resumed(tmp_path, model, clips):
    source = tmp_path / "in"
    names = ["a.flac", "sub dir/b.flac", "sub dir/deeper/c.flac"]
    for name, clip in zip(names, clips, strict=False):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, source / name)
    out = tmp_path / "out"
    arguments = ["--source", source, "--output", out, "--granularity", "utterance"]
    assert extract(*arguments) == 0
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert found == [".features.json", "a.npy", "sub dir/b.npy", "sub dir/deeper/c.npy"]
    for name, clip in zip(names, clips, strict=False):
        array = np.load((out / name).with_suffix(".npy"))
        np.testing.assert_allclose(array, features(model, clip, granularity="utterance"), atol=1e-5)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    (out / "sub dir" / "b.npy").unlink()
    assert extract(*arguments) == 0
    changed = [p.name for p in out.rglob("*.npy") if p.stat().st_mtime_ns != before[p]]
    assert changed == ["b.npy"]
    assert extract(*arguments, "--overwrite") == 0
    assert all(p.stat().st_mtime_ns != before[p] for p in out.rglob("*.npy"))


def test_a_manifest_over_all_formats_with_workers(tmp_path, model, clips):
    count = write_mixed_manifest(tmp_path / "data", clips[:24])
    out = tmp_path / "out"
    done = run("--source", tmp_path / "data" / "train.tsv", "--output", out, "--num-workers", 2, "--storage", "float16")
    assert done.returncode == 0, done.stderr
    arrays = list(out.rglob("*.npy"))
    assert len(arrays) == count
    assert {np.load(path).dtype for path in arrays} == {np.dtype("float16")}
    packed = np.load(out / "pack.h5" / f"{clips[0].stem}.npy").astype(np.float32)
    root = tmp_path / "data" / "audio files"
    np.testing.assert_allclose(packed, features(model, root / f"pack.h5/{clips[0].stem}"), atol=5e-3)


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_one_file_for_all(tmp_path, model, clips, suffix):
    out = tmp_path / f"all{suffix}"
    assert extract("--source", *clips[:5], "--output", out, "--layer", 1, -1) == 0
    arrays = load_file(out) if suffix == ".safetensors" else {k: v[()] for k, v in h5py.File(out).items()}
    assert sorted(arrays) == sorted(clip.stem for clip in clips[:5])
    for clip in clips[:5]:
        np.testing.assert_allclose(arrays[clip.stem], features(model, clip, layer=[1, -1]), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def read_table(path):
    """Names to vectors, as those who use the file read it."""
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        assert table.schema.field("features").type.value_type == "float"
        return {row["name"]: np.array(row["features"], np.float32) for row in table.to_pylist()}
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        return {record["name"]: np.array(record["features"], np.float32) for record in records}
    with open(path, newline="") as handle:
        rows = list(csv.DictReader(handle))
    return {row.pop("name"): np.array(list(row.values()), np.float32) for row in rows}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_vectors_in_a_table(tmp_path, model, clips, suffix, capsys):
    out, arrays = tmp_path / f"all{suffix}", tmp_path / "arrays"
    options = ["--granularity", "rows", "--layer", 2]
    assert extract("--source", *clips[:5], "--output", arrays, *options) == 0
    assert extract("--source", *clips[:2], "--output", out, *options) == 0
    before = out.read_bytes()
    assert extract("--source", *clips[:2], "--output", out, *options) == 0
    assert "is there already" in capsys.readouterr().out and out.read_bytes() == before
    assert extract("--source", *clips[:5], "--output", out, *options) == 0
    assert "features of 3 recordings" in capsys.readouterr().out
    table = read_table(out)
    assert list(table) == [clip.stem for clip in clips[:5]]
    for clip in clips[:5]:
        assert np.array_equal(table[clip.stem], np.load(arrays / f"{clip.stem}.npy"))  # to the bit
    assert extract("--source", *clips[:6], "--output", out, "--granularity", "mean") == 2
    assert "vectors of 64 numbers" in capsys.readouterr().err
    for wrong in ([], ["--granularity", "frame"], ["--granularity", "mean", "--layer", 1, 2]):
        assert extract("--source", *clips[:2], "--output", tmp_path / f"no{suffix}", *wrong) == 2
        assert "one vector a recording" in capsys.readouterr().err
    (tmp_path / f"text{suffix}").write_text("no table\n")
    assert extract("--source", *clips[:2], "--output", tmp_path / f"text{suffix}", *options) == 2
    assert "no " + {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}[suffix] in capsys.readouterr().err


def test_a_few_unreadable_files_may_be_allowed(tmp_path, clips, capsys):
    (tmp_path / "bad.wav").write_text("no audio")
    sources = ["--source", clips[0], tmp_path / "bad.wav", "--output", tmp_path / "out", "--granularity", "mean"]
    assert extract(*sources) == 1
    assert extract(*sources, "--allow-unreadable", 0.4) == 1
    capsys.readouterr()
    assert extract(*sources, "--allow-unreadable", 0.5) == 0
    said = capsys.readouterr().err
    assert "bad.wav is not audio" in said and "1 of 2 recordings could not be used" in said


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_one_file_is_added_to(tmp_path, model, clips, suffix, capsys):
    out = tmp_path / f"all{suffix}"
    broken = tmp_path / "later.flac"
    broken.write_bytes(b"not yet")
    arguments = ["--output", out, "--granularity", "utterance"]
    assert extract("--source", clips[0], broken, *arguments) == 1
    shutil.copy(clips[1], broken)  # repaired
    capsys.readouterr()
    assert extract("--source", clips[0], broken, *arguments) == 0
    assert "features of 1 recordings" in capsys.readouterr().out  # the other was there
    assert extract("--source", clips[2], *arguments) == 0  # nothing that is there is lost
    before = out.stat().st_mtime_ns
    assert extract("--source", clips[0], broken, *arguments) == 0
    assert "is there already" in capsys.readouterr().out and out.stat().st_mtime_ns == before
    arrays = load_file(out) if suffix == ".safetensors" else {k: v[()] for k, v in h5py.File(out).items()}
    assert sorted(arrays) == sorted([clips[0].stem, "later", clips[2].stem])
    for name, clip in ((clips[0].stem, clips[0]), ("later", clips[1]), (clips[2].stem, clips[2])):
        np.testing.assert_allclose(arrays[name], features(model, clip, granularity="utterance"), atol=1e-5)
    assert extract("--source", clips[2], *arguments, "--overwrite") == 0
    assert "features of 1 recordings" in capsys.readouterr().out
    again = load_file(out) if suffix == ".safetensors" else {k: v[()] for k, v in h5py.File(out).items()}
    assert sorted(again) == sorted(arrays)
    out.unlink()
    out.write_bytes(b"something else")
    assert extract("--source", clips[0], *arguments) == 2
    assert f"no {'hdf5' if suffix == '.h5' else 'safetensors'} file of features" in capsys.readouterr().err
    assert out.read_bytes() == b"something else"
    assert extract("--source", clips[0], *arguments, "--overwrite") == 0
    assert out.read_bytes() != b"something else"


def test_bad_files_are_named_and_the_others_done(tmp_path, clips):
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(clips[0], source / "good.flac")
    (source / "text.wav").write_text("this is not audio")
    (source / "empty.wav").write_bytes(b"")
    soundfile.write(source / "nothing.wav", np.zeros(0, np.float32), 16000)
    (source / "cut.flac").write_bytes(clips[1].read_bytes()[:3000])
    soundfile.write(source / "nan.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    long = np.zeros(16000 * 130, np.float32)
    long[-1] = np.nan  # found only when the last window is read
    soundfile.write(source / "long_nan.wav", long, 16000, subtype="FLOAT")
    done = run("--source", source, tmp_path / "missing.wav", "--output", tmp_path / "out", "--granularity", "frame")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for name in ("text.wav", "empty.wav", "nothing.wav", "cut.flac", "nan.wav", "long_nan.wav", "missing.wav"):
        assert sum(f"/{name} " in line for line in done.stderr.splitlines()) == 1, name
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".features.json", "good.npy"]


def test_unusable_arguments(tmp_path, clips, capsys):
    evil = tmp_path / "evil.pt"
    evil.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    (tmp_path / "file").write_text("")
    cases = [
        (["--target-length", 100], "multiple of 16"),
        (["--layer", 9], "layer 9"),
        (["--norm-std", -1], "norm_std"),
        (["--batch-size", 0], "--batch-size"),
        (["--device", "warp"], "--device warp"),
        (["--window", 100], "window is 100"),
        (["--window", 512, "--hop", 1024], "hop is 1024"),
        (["--window", 512, "--target-length", 512], "one or the other"),
        (["--checkpoint", str(evil)], "evil.pt"),
        (["--checkpoint", str(tmp_path)], "model.safetensors"),
        (["--output", str(tmp_path / "file")], "is a file"),
        (["--output", str(tmp_path / "file" / "below")], "cannot be written"),
        (["--output", str(tmp_path / "two.npy"), "--source", str(clips[0]), str(clips[1])], "several sources"),
    ]
    for arguments, what in cases:
        assert extract("--source", clips[0], "--output", tmp_path / "out", *arguments) == 2, arguments
        assert what in capsys.readouterr().err
    assert not Path("ran").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pt", "file"]


def limit_file_size():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


def test_what_does_not_fit_on_disk_is_not_half_there(tmp_path, clips):
    """Writes beyond a limit fail as on a full disk; smaller results fit."""
    sizes = {clip: soundfile.info(clip).frames for clip in clips}
    short, long = min(clips, key=sizes.get), max(clips, key=sizes.get)
    done = run("--source", short, long, "--output", tmp_path, preexec_fn=limit_file_size)
    assert done.returncode == 1
    assert f"{long.stem}.npy cannot be written" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".features.json", f"{short.stem}.npy"]


def test_a_killed_run_leaves_whole_files_and_resumes(tmp_path):
    out = tmp_path / "out"
    arguments = ["--source", CLIPS, "--output", out, "--batch-size", "1", "--num-workers", "0"]
    command = [sys.executable, str(SCRIPT), "--checkpoint", CHECKPOINT, *map(str, arguments)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.glob("*.npy"))) < 10:
        time.sleep(0.005)
    process.kill()
    process.wait()
    there = sorted(out.glob("[!.]*.npy"))
    assert len(there) >= 10
    for path in there:
        assert np.isfinite(np.load(path)).all()
    before = {path: path.stat().st_mtime_ns for path in there}
    assert extract(*arguments) == 0
    assert len(list(out.glob("[!.]*.npy"))) == 124
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


def test_processes_split_the_list(tmp_path, clips, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        assert extract("--source", *clips[:7], "--output", tmp_path) == 0
        assert len(list(tmp_path.glob("*.npy"))) == (4 if rank == 0 else 7)
    assert sorted(path.stem for path in tmp_path.glob("*.npy")) == sorted(clip.stem for clip in clips[:7])
    assert extract("--source", *clips[:7], "--output", tmp_path / "a.h5") == 2


def test_many_clips_of_mixed_lengths_in_one_call(tmp_path, model, clips):
    """500 recordings through batches give what one by one gives."""
    source = tmp_path / "in"
    source.mkdir()
    rng = np.random.default_rng(0)
    audio = np.concatenate([soundfile.read(clip, dtype="float32")[0] for clip in clips[:20]])
    for number in range(500):
        start, length = rng.integers(len(audio) - 24000), rng.integers(200, 24000)
        soundfile.write(source / f"{number}.wav", audio[start : start + length], 16000, subtype="FLOAT")
    assert extract("--source", source, "--output", tmp_path / "out", "--num-workers", 2) == 0
    for number in range(500):
        array = np.load(tmp_path / "out" / f"{number}.npy")
        np.testing.assert_allclose(array, features(model, source / f"{number}.wav"), atol=1e-4)


def test_names_of_results(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/x.wav", "a/x.flac", "a/y.wav", "z.wav"):
        (tmp_path / name).write_bytes(b"")
    sources, problems = find_sources([str(tmp_path), str(tmp_path / "z.wav"), str(tmp_path / "a" / "no.tsv")])
    assert len(problems) == 1 and "no.tsv" in problems[0]
    assert output_names(sources) == ["a/x.flac.npy", "a/x.wav.npy", "a/y.npy", "z.npy"]
    with pytest.raises(EAT.errors.ConfigError, match=r"1/x\.wav and 2/x\.wav"):
        output_names([Source("1/x.wav", "x.wav"), Source("2/x.wav", "x.wav")])


def test_a_recording_that_is_called_like_a_folder(tmp_path, clips, capsys):
    source = tmp_path / "in"
    (source / "a").mkdir(parents=True)
    for name in ("a.flac", "a/b.flac", "c.flac"):
        shutil.copy(clips[0], source / name)
    for name in ("all.h5", "all.safetensors", "out"):
        assert extract("--source", source, "--output", tmp_path / name, "--granularity", "utterance") == 0
    with h5py.File(tmp_path / "all.h5") as file:
        assert sorted(file) == ["a", "a.flac", "c"] and sorted(file["a"]) == ["b"]
    assert sorted(load_file(tmp_path / "all.safetensors")) == ["a", "a/b", "c"]
    assert (tmp_path / "out" / "a.npy").exists() and (tmp_path / "out" / "a" / "b.npy").exists()
    alone = tmp_path / "alone.h5"
    assert extract("--source", source / "a.flac", "--output", alone, "--granularity", "utterance") == 0
    before = alone.read_bytes()
    assert extract("--source", source, "--output", alone, "--granularity", "utterance") == 2
    assert "alone.h5 cannot hold both a and a/b; give another --output" in capsys.readouterr().err
    assert alone.read_bytes() == before


@pytest.mark.parametrize("output", ["out", "all.h5", "all.safetensors", "long.npy", "x" * 250 + ".h5"])
def test_names_as_long_as_a_file_system_takes(tmp_path, clips, output, capsys):
    source = tmp_path / ("é" * 125 + ".flac")  # 255 bytes
    shutil.copy(clips[0], source)
    assert extract("--source", source, "--output", tmp_path / output, "--granularity", "utterance") == 0
    assert capsys.readouterr().err == "" and sorted(tmp_path.iterdir())
    assert len([path for path in tmp_path.iterdir() if path != source and path.suffix not in (".json",)]) == 1


def test_names_that_no_file_of_features_can_hold(tmp_path, clips, capsys):
    strange = tmp_path / os.fsdecode(b"latin\xe9.flac")
    shutil.copy(clips[0], strange)
    for name in ("all.h5", "all.safetensors"):
        assert extract("--source", clips[0], strange, "--output", tmp_path / name, "--granularity", "utterance") == 1
        assert f"latin\\udce9.flac' has a name that {tmp_path}/{name} cannot hold" in capsys.readouterr().err
    assert list(load_file(tmp_path / "all.safetensors")) == [clips[0].stem]


def test_batches_hold_one_padded_length(model):
    rng = np.random.default_rng(0)
    lengths = rng.integers(160, 30000, 300)
    items = [Decoded(i, np.zeros(n, np.float32), None) for i, n in enumerate(lengths)]
    items.insert(7, Decoded(999, None, "bad"))
    out = list(by_length(model, iter(items), 2, None))
    batches = [item for item in out if isinstance(item, Batch)]
    assert sorted(i for batch in batches for i in (item.index for item in batch.items)) == list(range(300))
    assert [item.index for item in out if isinstance(item, Decoded)] == [999]
    for batch in batches:
        assert {model.padded_frames(len(item.waveform)) for item in batch.items} == {batch.frames}
        assert len(batch.items) <= clips_per_batch(batch.frames, 2)
    assert len(batches) < 150
