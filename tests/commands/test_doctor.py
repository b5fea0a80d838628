"""The doctor finds what is there, and what is wrong."""

from __future__ import annotations

import ast
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import EAT
from EAT.__main__ import COMMANDS
from EAT.audio.recordings import read_audio
from EAT.commands.doctor import main, self_check
from EAT.commands.doctor.machine import EXTRAS, matrix_rate, precisions
from EAT.inference.learning import open_pretraining
from EAT.network import front_end, masking
from EAT.network.learning import frame_figures, products
from EAT.network.patches import real_patches
from EAT.network.pretraining import Pretraining
from EAT.network.settings import MaskSettings

from ..conftest import CLIPS, CONFORMANCE, ROOT

CPU = torch.device("cpu")


def test_a_sound_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu"]) == 0
    out = capsys.readouterr().out
    for line in (
        rf"EAT +{re.escape(EAT.__version__)}",
        rf"torch +{re.escape(torch.__version__.split('+')[0])}",
        r"cores +\d+ usable",
        r"float32 +[\d.]+ TFLOP/s",
        r"bfloat16 +[\d.]+ TFLOP/s, [\d.]+ x float32",
        r"readable +wav, flac, ogg, opus, mp3, aiff",
        r"masks +ok +each of 48 keeps 102 of 512 patches",
        r"EAT works here\.",
    ):
        assert re.search(line, out), line
    assert "FAILED" not in out


@pytest.mark.parametrize("check", ["front end", "masks", "network"])
def test_faults_are_found(check: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if check == "front end":  # mel bins upside down
        weights = front_end._mel_weights(CPU).flip(1)
        monkeypatch.setattr(front_end, "_mel_weights", lambda device: weights)
    elif check == "masks":  # a few patches more than asked for
        monkeypatch.setattr(
            "EAT.commands.doctor.checks.inverse_block",
            lambda settings, *rest: masking.inverse_block(MaskSettings(mask_prob=0.79), *rest),
        )
    else:  # a parameter that nothing uses
        original = Pretraining.__init__

        def extended(self: Pretraining, config: object) -> None:
            original(self, config)  # type: ignore[arg-type]
            self.unused = torch.nn.Parameter(torch.zeros(1))

        monkeypatch.setattr(Pretraining, "__init__", extended)
    failed = self_check(CPU)
    assert check in failed and "audio" not in failed
    assert re.search(rf"{check} +FAILED +CheckError: ", capsys.readouterr().out)


def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "tpu9"]) == 2
    assert capsys.readouterr().err.startswith("error: --device tpu9 cannot be used")


def test_rates_are_those_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    with monkeypatch.context() as patch:  # every look at the clock takes 0.1 s
        patch.setattr("EAT.commands.doctor.machine.time.perf_counter", lambda: next(clock) / 10)
        rate = matrix_rate(CPU, torch.float32, size=64, seconds=0.25)
    assert rate == pytest.approx(2 * (2 * 64**3) / 0.4)  # two products of 2 n^3 operations, five looks
    assert [name for name, _ in precisions(CPU)] == ["float32", "bfloat16", "float16"]


def test_extras_are_those_of_the_installation() -> None:
    """setup.py must not import the package, so the list stands in both."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    assigned = next(n for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "EXTRAS")
    wanted = {
        extra: {re.match(r"[\w.-]+", need)[0] for need in needs}  # type: ignore[index]
        for extra, needs in ast.literal_eval(assigned.value).items()
    }
    assert {extra.name: set(extra.packages) for extra in EXTRAS} == wanted


def test_the_overview_names_every_command() -> None:
    done = subprocess.run([sys.executable, "-m", "EAT"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    mains = {f"EAT.{path.stem}" for path in (ROOT / "EAT").glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert set(COMMANDS) == mains - {"EAT.__main__"}
    assert all(f"eat {command.removeprefix('EAT.')} " in done.stdout for command in COMMANDS)
    done = subprocess.run([sys.executable, "-m", "EAT", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"EAT {EAT.__version__}\n"


def test_a_checkpoint_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures are those of one pass over the same clips, sums over batches; what it lacks is not judged."""
    published = str(CONFORMANCE / "official_pretrain.pt")
    assert main(["--checkpoint", published, "--source", str(CLIPS), "--json", str(tmp_path / "f.json")]) == 0
    printed = capsys.readouterr().out
    judged = json.loads((tmp_path / "f.json").read_text())
    assert judged["clips"] == 124 and judged["without"] == [] and judged["verdict"] in printed
    assert "frame_position_fraction      0.263" in printed and len(judged["figures"]) == 9

    model, front_end, _ = open_pretraining(published)
    waves = [read_audio(str(clip), front_end.samples) for clip in sorted(CLIPS.glob("*.flac"))]
    lengths = torch.tensor([len(wave) for wave in waves])
    filterbank = front_end(torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths)
    with torch.no_grad():
        targets = model.targets(model.teacher.encoder, filterbank)["frame"]
    real = real_patches(front_end.real_frames(lengths), model.encoder.grid(1024), 16)
    whole = frame_figures(
        torch.cat([products(targets, real), torch.ones(2)])
    )  # pairs of all clips, not of 16 at a time
    for name in ("frame_position_fraction", "frame_clip_fraction"):
        assert judged["figures"][name] == pytest.approx(whole[name].item(), rel=1e-3), name

    assert main(["--checkpoint", str(CONFORMANCE / "hf_pretrain"), "--source", str(CLIPS / "elec_bell.flac"),
                 str(CLIPS / "drum_bass_hard.flac"), str(tmp_path / "none.wav")]) == 0  # fmt: skip
    captured = capsys.readouterr()
    assert "2 clips" in captured.out and "without a decoder and a teacher of its own" in captured.out
    assert "skill" not in captured.out.split("without")[0] and "none.wav" in captured.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--source", "x.wav"], "--checkpoint and --source go together"),
        (["--checkpoint", "x.pt"], "--checkpoint and --source go together"),
        (["--checkpoint", str(CONFORMANCE / "official_finetune.pt"), "--source", str(CLIPS)], "is a fine-tuned model"),
        (
            ["--checkpoint", str(CONFORMANCE / "official_pretrain.pt"), "--source", str(CLIPS / "elec_bell.flac")],
            "1 of 1 recordings could be read; give two at least",
        ),
    ],
)
def test_what_cannot_be_judged(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
