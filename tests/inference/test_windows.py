"""Long recordings: blocks without seams, windows as clips of their own, and memory that does not grow."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import EAT
from EAT.audio import AudioStream
from EAT.audio.recordings import read_audio
from EAT.commands.extract import main
from EAT.errors import ConfigError, DataError
from EAT.inference.windows import extract_recording, plan_windows, score_recording
from EAT.network.front_end import FrontEnd

from ..conftest import CONFORMANCE, ROOT
from ..recordings import hanging

CHECKPOINT = str(CONFORMANCE / "official_pretrain.pt")


@pytest.fixture(scope="module")
def model():
    return EAT.load(CHECKPOINT)


@pytest.fixture(scope="module")
def minute(clips):
    """A minute of real clips, one after the other."""
    return torch.cat([read_audio(str(clip)) for clip in clips])[: 60 * 16000]


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000, 96000, 15999])
@pytest.mark.parametrize("block", [0.05, 2.345])
def test_blocks_leave_no_seam(tmp_path, rate, block):
    noise = np.random.default_rng(0).normal(size=(7 * rate + 123, 2)).astype(np.float32) / 10
    soundfile.write(tmp_path / "n.wav", noise, rate, subtype="FLOAT")
    whole = read_audio(str(tmp_path / "n.wav"))
    with AudioStream(str(tmp_path / "n.wav"), block) as stream:
        assert stream.samples == len(whole)
        parts = [stream.read(start, 5000) for start in range(0, stream.samples, 5000)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)


@pytest.mark.parametrize("kind", [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("FLAC", "PCM_16")])
def test_blocks_of_compressed_formats(tmp_path, minute, kind):
    soundfile.write(tmp_path / "c", minute[: 20 * 16000].numpy(), 16000, format=kind[0], subtype=kind[1])
    whole = read_audio(str(tmp_path / "c"))
    with AudioStream(str(tmp_path / "c"), 1.7) as stream:
        parts = [stream.read(start, 16000) for start in range(0, stream.samples, 16000)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)


@pytest.mark.parametrize("samples", [1000, 163_920, 163_921, 16000 * 30, 16000 * 1000 + 7])
@pytest.mark.parametrize("window, hop", [(1024, 512), (1024, 1024), (512, 16), (16, 16), (1024, 1008)])
def test_plans_cover_the_timeline_once(model, samples, window, hop):
    plan = plan_windows(model, samples, window, hop)
    end = model.padded_frames(samples)
    assert plan[0].keep_from == 0 and plan[-1].keep_to == end
    for before, after in itertools.pairwise(plan):
        assert before.keep_to == after.keep_from
        assert 0 < after.start - before.start <= hop
        # The seam lies in the middle of the overlap.
        assert abs((before.end - before.keep_to) - (after.keep_from - after.start)) <= 16
    for place in plan:
        assert place.start <= place.keep_from < place.keep_to <= place.end <= max(end, place.start + 16)
        assert all(frame % 16 == 0 for frame in place)


def test_impossible_windows(model):
    for window, hop in ((100, 16), (1024, 8), (1024, 1040), (1024, 0), (12304, 16)):
        with pytest.raises(ConfigError):
            plan_windows(model, 10**6, window, hop)


@torch.inference_mode()
def test_the_timeline_is_that_of_the_windows_as_clips(tmp_path, model, minute):
    path = str(tmp_path / "minute.flac")
    soundfile.write(path, minute.numpy(), 16000, subtype="PCM_16")
    wave = read_audio(path)
    timeline = extract_recording(model, path, window=512, hop=256)
    layers = extract_recording(model, path, window=512, hop=256, layer=[1, -1], granularity="frame")
    cls = []
    for place in plan_windows(model, len(wave), 512, 256):
        clip = wave[place.start * 160 :][: FrontEnd.samples_for(512)]
        alone = model.extract(clip, target_length=512)
        cls.append(alone[0])
        rows = slice((place.keep_from - place.start) // 2 + 1, (place.keep_to - place.start) // 2 + 1)
        here = slice(place.keep_from // 2, place.keep_to // 2)
        assert torch.allclose(timeline[1:][here], alone[rows], atol=1e-4)
        assert torch.allclose(layers[1][here], alone[rows], atol=1e-4)
    assert len(timeline) == 1 + model.patch_count(len(wave))
    assert torch.allclose(timeline[0], torch.stack(cls).mean(dim=0), atol=1e-4)
    assert torch.equal(extract_recording(model, path, window=512, hop=256, granularity="utterance"), timeline[0])


def steps(timeline):
    """Cosine similarity of each time step's patches with the next one's, (T - 1,)."""
    grid = timeline.unflatten(0, (-1, 8))
    return torch.cosine_similarity(grid[1:], grid[:-1], dim=-1).mean(dim=1)


@torch.inference_mode()
def test_no_seam_beyond_tolerance(tmp_path, model):
    """On a sound that does not change, the step across a seam is within 0.05 of the steps inside windows."""
    noise = np.random.default_rng(0).normal(size=16000 * 60).astype(np.float32) / 10
    soundfile.write(tmp_path / "noise.wav", noise, 16000, subtype="FLOAT")
    timeline = extract_recording(model, str(tmp_path / "noise.wav"), granularity="frame")
    similarity = steps(timeline)
    seams = [place.keep_from // 16 - 1 for place in plan_windows(model, len(noise))[1:]]
    inside = np.setdiff1d(np.arange(len(similarity)), seams)
    print(f"\nacross seams {similarity[seams].mean():.4f}, inside windows {similarity[inside].mean():.4f}")
    assert similarity[seams].mean() > similarity[inside].mean() - 0.05


@torch.inference_mode()
def test_two_windows_agree_best_about_the_same_moment(tmp_path, model):
    """Where a window overlaps what its neighbour was kept for, its time steps resemble the timeline's at that moment
    more than those before or after: steps that are shuffled, doubled or shifted at a seam would not."""
    rng = np.random.default_rng(0)  # noise whose level changes with every time step of 160 ms
    wave = (rng.normal(size=(375, 2560)) * 10 ** rng.uniform(-3, -0.5, size=(375, 1))).astype(np.float32).ravel()
    soundfile.write(tmp_path / "steps.wav", wave, 16000, subtype="FLOAT")
    timeline = extract_recording(model, str(tmp_path / "steps.wav"), granularity="frame").unflatten(0, (-1, 8))
    plan = plan_windows(model, len(wave))
    assert len(plan) > 8
    for place in plan[1:-1]:
        clip = wave[place.start * 160 :][: FrontEnd.samples_for(place.end - place.start)]
        alone = model.extract(clip, granularity="frame").unflatten(0, (-1, 8))
        start, first = place.start // 16, place.keep_from // 16
        steps = torch.arange(start + 4, first)  # kept from the window before
        assert len(steps) > 8
        own = alone[steps - start] - alone.mean(dim=0)
        shifted = [timeline[steps + shift] - timeline.mean(dim=0) for shift in (-2, -1, 0, 1, 2)]
        alike = torch.stack([torch.cosine_similarity(own, other, dim=-1).mean() for other in shifted])
        assert int(alike.argmax()) == 2, (place, alike)


def test_a_recording_that_breaks_off(tmp_path, minute):
    soundfile.write(tmp_path / "whole.flac", minute.numpy(), 16000)
    content = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut\.flac breaks off"), AudioStream(str(tmp_path / "cut.flac")) as stream:
        for start in range(0, stream.samples, 16000):
            stream.read(start, 16000)


def test_a_long_recording_that_hangs_is_given_up(tmp_path, minute):
    """Where it is opened, and while it is read: as if another thread never came back from the library."""
    import h5py

    with hanging(tmp_path / "hangs.wav"), pytest.raises(DataError, match=r"hangs\.wav could not be read within 0\.3 s"):
        AudioStream(str(tmp_path / "hangs.wav"), read_timeout=0.3)
    with h5py.File(tmp_path / "pack.h5", "w") as file:
        file["long"] = minute.numpy()
    with AudioStream(f"{tmp_path}/pack.h5/long", 1.0, read_timeout=0.3) as stream:
        assert len(stream.read(0, 16000)) == 16000
        with h5py._hl.base.phil, pytest.raises(DataError, match=r"long could not be read within 0\.3 s"):
            stream.read(16000, 160_000)
    with AudioStream(f"{tmp_path}/pack.h5/long", read_timeout=0.3) as stream:
        assert len(stream.read(0, 16000 * 60)) == 16000 * 30


@torch.inference_mode()
def test_scores_of_a_long_recording(tmp_path, minute):
    classifier = EAT.load(CONFORMANCE / "official_finetune.pt")
    soundfile.write(tmp_path / "m.wav", minute.numpy(), 16000, subtype="FLOAT")
    windows = list(score_recording(classifier, str(tmp_path / "m.wav")))
    assert windows[0].start == 0 and windows[-1].end == 60.0
    assert windows[0].slot[0] == 0 and windows[-1].slot[1] == 60.0
    for before, after in itertools.pairwise(windows):
        assert before.slot[1] == after.slot[0]
    for window in windows:
        clip = minute[round(window.start * 16000) :][: FrontEnd.samples_for(1024)]
        assert torch.allclose(window.scores, classifier.scores(clip), atol=1e-5)


MEASURE = """
import resource, sys
from EAT.commands.extract import main
from EAT.inference.model import load
model = load(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert main(["--checkpoint", *sys.argv[1:]]) == 0
print("grown", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_three_hours_in_constant_memory(tmp_path, minute):
    """Peak memory stays put, the picked windows of the timeline are those of the clips, and so is the whole mean."""
    hours = tmp_path / "hours.wav"
    with soundfile.SoundFile(hours, "w", 16000, 1, "PCM_16") as file:
        for number in range(180):  # no two minutes alike
            file.write(minute.roll(number * 4999).numpy() * (1 - number / 360))
    command = [sys.executable, "-c", MEASURE, CHECKPOINT, "--source", str(hours), "--output", str(tmp_path / "h.npy")]
    options = ["--hop", "1024", "--window", "1024", "--layer", "1", "--granularity", "frame", "--batch-size", "4"]
    run = subprocess.run(
        command + options, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stderr
    grown = float(run.stdout.split("grown")[1])
    print(f"\npeak memory above the model's: {grown:.0f} MB")
    assert grown < 300  # the audio alone is 346 MB, or 691 MB in float32, and the features are 138 MB
    timeline = np.load(tmp_path / "h.npy", mmap_mode="r")
    model = EAT.load(CHECKPOINT)
    plan = plan_windows(model, 180 * 60 * 16000, 1024, 1024)
    assert timeline.shape == (plan[-1].keep_to // 2, 64)
    for place in [*plan[:: len(plan) // 20], plan[-1]]:
        clip, _ = soundfile.read(hours, start=place.start * 160, frames=FrontEnd.samples_for(1024), dtype="float32")
        with torch.inference_mode():
            alone = model.extract(clip, layer=1, granularity="frame", target_length=1024).numpy()
        rows = slice((place.keep_from - place.start) // 2, (place.keep_to - place.start) // 2)
        here = timeline[place.keep_from // 2 : place.keep_to // 2]
        np.testing.assert_allclose(here, alone[rows], atol=1e-4)


def test_the_command_goes_window_by_window(tmp_path, model, minute):
    soundfile.write(tmp_path / "m.wav", minute.numpy(), 16000, subtype="FLOAT")
    arguments = ["--checkpoint", CHECKPOINT, "--source", str(tmp_path / "m.wav"), "--window", "512", "--hop", "384"]
    for granularity in ("all", "frame", "utterance"):
        for layers in (["2"], ["1", "2"]):
            options = ["--output", str(tmp_path / "m.npy"), "--granularity", granularity, "--overwrite"]
            assert main([*arguments, *options, "--layer", *layers]) == 0
            chosen = int(layers[0]) if len(layers) == 1 else [1, 2]
            expected = extract_recording(
                model, str(tmp_path / "m.wav"), layer=chosen, granularity=granularity, window=512, hop=384
            )
            np.testing.assert_allclose(np.load(tmp_path / "m.npy"), expected.numpy(), atol=1e-5)
