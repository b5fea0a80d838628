"""Normalisation constants: against all values at once, drawn clips, processes, and what cannot be normalised."""

import json

import numpy as np
import pytest
import soundfile

from EAT.audio.recordings import read_audio
from EAT.commands.prepare import main
from EAT.data.prepare.measure import clip_length, for_each
from EAT.data.prepare.statistics import collect_statistics, normalization
from EAT.errors import DataError
from EAT.network.front_end import FrontEnd, filterbank


def test_the_front_end_makes_the_training_split_standard(clips):
    sources = [str(clip) for clip in clips[:20]]
    constants = normalization(list(collect_statistics(sources, 100, 10.0, 1, 1).values()))
    values = np.concatenate(
        [filterbank((w := read_audio(source)) - w.mean()).double().numpy().ravel() for source in sources]
    )
    assert constants.mean == pytest.approx(values.mean(), rel=1e-9)
    assert constants.std == pytest.approx(values.std(), rel=1e-9)
    # (x - mean) / (2 std) has mean 0 and standard deviation 1/2.
    waveform = read_audio(sources[0])
    out = FrontEnd(128, constants.mean, constants.std)(waveform[None, :20000])[0, 0, :120]
    direct = filterbank((waveform[:20000] - waveform[:20000].mean())[: 400 + 119 * 160])
    assert np.allclose(out, (direct - values.mean()) / (2 * values.std()), atol=1e-4)


def test_processes_give_what_one_process_gives(clips):
    sources = [str(clip) for clip in clips[:20]]
    alone = list(for_each(clip_length, sources, "lengths", 1, 4))
    assert alone == [soundfile.info(source).frames for source in sources]
    assert list(for_each(clip_length, sources, "lengths", 2, 4)) == alone


def test_only_the_start_of_clips_is_read_and_as_many_as_wanted(clips):
    longest = max(clips, key=lambda clip: soundfile.info(clip).frames)
    statistics = collect_statistics([str(longest)] * 10, 3, 0.5, 1, 1)
    assert len(statistics) == 3 and list(statistics) != [0, 1, 2]
    assert list(collect_statistics([str(longest)] * 10, 3, 0.5, 1, 1)) == list(statistics)
    frames = 1 + (8000 - 400) // 160
    assert all(values[0] == frames * 128 for values in statistics.values())


def test_silence_cannot_be_normalised(tmp_path, capsys):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "silence.wav", np.zeros(16000), 16000)
    assert main(["folder", str(tmp_path / "audio"), str(tmp_path / "data")]) == 2
    assert "as silence does" in capsys.readouterr().err
    with pytest.raises(DataError, match="could be read"):
        normalization([])


@pytest.mark.parametrize("flags", [["--num-workers", "-1"], ["--seed", "-1"], ["--normalization-seconds", "nan"]])
def test_unusable_flags(clips, tmp_path, flags, capsys):
    assert main(["folder", str(clips[0].parent), str(tmp_path), *flags]) == 2
    assert "error: --normalization" in capsys.readouterr().err


def test_rate_and_channels_do_not_matter(tmp_path):
    noise = np.random.default_rng(0).normal(size=44100) * 0.1
    soundfile.write(tmp_path / "a.wav", np.stack([noise, noise], axis=1), 44100)
    soundfile.write(tmp_path / "b.wav", noise, 44100)
    statistics = collect_statistics([str(tmp_path / "a.wav"), str(tmp_path / "b.wav")], 2, 10.0, 1, 1)
    assert statistics[0] == pytest.approx(statistics[1], rel=1e-4)
    assert json.dumps(normalization(list(statistics.values()))._asdict())
