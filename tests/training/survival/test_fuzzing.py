"""Whatever stands in a file or a setting, the answer is a result or an EATError of one sentence."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from EAT.audio.recordings import read_audio
from EAT.audio.resampling import resample
from EAT.data.labels import read_descriptors, read_lbl
from EAT.data.manifest import Manifest
from EAT.errors import ConfigError, DataError, EATError
from EAT.network.front_end import FrontEnd
from EAT.network.masking import inverse_block
from EAT.network.patches import Grid
from EAT.network.settings import DecoderSettings, EncoderSettings, MaskSettings, TeacherSettings
from EAT.network.teacher import linear_decay

from ...conftest import ROOT
from ...fairseq_runs import environment
from .conftest import FIGURES

pytestmark = pytest.mark.faults

TRIED: Counter[str] = Counter()
FUZZED = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def figures() -> None:
    yield
    FIGURES.append(
        "hypothesis: " + ", ".join(f"{count} {kind}" for kind, count in TRIED.items()) + "; each a result or a sentence"
    )


def one_sentence(error: EATError) -> bool:
    return bool(str(error)) and "Traceback" not in str(error)


TEXT = st.text(st.characters(blacklist_categories=["Cs"]) | st.sampled_from("\t\n\r\0/,.:\"'|0123456789"), max_size=80)
CONTENT = st.one_of(st.binary(max_size=200), TEXT.map(str.encode), st.lists(TEXT).map(lambda x: "\n".join(x).encode()))


@FUZZED
@given(content=CONTENT, rooted=st.booleans())
def test_manifests(tmp_path: Path, content: bytes, rooted: bool) -> None:
    TRIED["manifests"] += 1
    path = tmp_path / "train.tsv"
    path.write_bytes(b".\n" + content if rooted else content)
    try:
        manifest = Manifest(path)
    except DataError as error:
        assert one_sentence(error)
        return
    for index in range(len(manifest)):
        assert "\n" not in manifest.name(index)
        for ask in (manifest.source, manifest.samples, lambda i: read_audio(manifest.source(i))):
            try:
                answer = ask(index)
            except DataError as error:
                assert one_sentence(error)
            else:
                assert not isinstance(answer, str) or Path(answer).is_relative_to(tmp_path)


@FUZZED
@given(content=CONTENT, labels=CONTENT)
def test_label_files(tmp_path: Path, content: bytes, labels: bytes) -> None:
    TRIED["label files"] += 1
    (tmp_path / "train.tsv").write_text(".\na.wav\t1\nb.wav\t1\n")
    (tmp_path / "labels.csv").write_bytes(content)
    (tmp_path / "train.lbl").write_bytes(labels)
    try:
        known = read_descriptors(tmp_path / "labels.csv")
        assert [label.index for label in known] == list(range(len(known)))
    except DataError as error:
        assert one_sentence(error)
        (tmp_path / "labels.csv").write_text("0,a\n1,b\n")
        known = read_descriptors(tmp_path / "labels.csv")
    try:
        rows = read_lbl(tmp_path / "train.lbl", Manifest(tmp_path / "train.tsv"), known)
    except DataError as error:
        assert one_sentence(error)
    else:
        assert len(rows) == 2 and all(0 <= index < len(known) for row in rows for index in row)


WHOLE = st.integers(-3, 70) | st.sampled_from([-(2**40), 2**20])
REAL = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, 0.5, 0.8])


@FUZZED
@given(data=st.data())
def test_configurations(data: st.DataObject) -> None:
    TRIED["configurations"] += 1
    sizes = ("embed_dim", "depth", "num_heads")
    decoder = ("decoder_layers", "decoder_width", "decoder_kernel", "decoder_groups")
    kinds = (
        (EncoderSettings, {**dict.fromkeys(sizes, WHOLE), "mlp_ratio": REAL, "drop_path": REAL}),
        (DecoderSettings, {**dict.fromkeys(decoder, WHOLE), "decoder_noise": REAL}),
        (MaskSettings, {"mask_prob": REAL, "mask_prob_adjust": REAL, "mask_length": WHOLE}),
        (TeacherSettings, {"ema_decay": REAL, "ema_end_decay": REAL, "ema_anneal_updates": WHOLE}),
    )
    kind, values = kinds[data.draw(st.integers(0, len(kinds) - 1))]
    try:
        made = kind(**{name: data.draw(value, label=name) for name, value in values.items()})
    except ConfigError as error:
        assert one_sentence(error)
        return
    if isinstance(made, MaskSettings):
        try:
            kept = made.kept(512)
        except ConfigError as error:
            assert one_sentence(error)
        else:
            assert 0 < kept < 512
            inverse_block(made, Grid(64, 8), torch.zeros(1, 1, dtype=torch.int32))
    if isinstance(made, TeacherSettings):
        assert all(0.0 <= linear_decay(made, update) <= 1.0 for update in (0, 1, 100, 10**9))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@FUZZED
@given(
    samples=st.integers(0, 3000),
    channels=st.integers(1, 5),
    rate=st.sampled_from([1000, 7999, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 767_999]),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30, math.inf, math.nan]),
    frames=st.sampled_from([16, 64, 1024]),
    position=st.floats(0, 1),
)
def test_waveforms(
    tmp_path: Path, samples: int, channels: int, rate: int, scale: float, frames: int, position: float
) -> None:
    TRIED["waveforms"] += 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = (np.random.default_rng(samples).normal(size=(samples, channels)) * scale).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", values, rate, subtype="FLOAT")
    front_end = FrontEnd(frames)
    try:
        waveform = read_audio(str(tmp_path / "a.wav"), front_end.samples, position)
    except DataError as error:
        assert one_sentence(error)
        return
    assert waveform.ndim == 1 and 160 <= len(waveform) <= front_end.samples and torch.isfinite(waveform).all()
    features = front_end(waveform[None], torch.tensor([len(waveform)]))
    assert features.shape == (1, 1, frames, 128)
    assert torch.isfinite(features).all() or abs(scale) > 1e20
    assert len(resample(waveform, 16000, 16000)) == len(waveform)


def test_coverage_guided_fuzzing_of_the_readers(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    clip = (ROOT / "tests" / "conformance" / "official_pretrain.pt").read_bytes()[:2000]
    rng = np.random.default_rng(0)
    for number, suffix in enumerate(("wav", "flac")):
        soundfile.write(tmp_path / f"a.{suffix}", rng.normal(size=400) * 0.1, 16000)
        (corpus / suffix).write_bytes(bytes([number]) + (tmp_path / f"a.{suffix}").read_bytes())
    torch.save({"model": {}, "optimizer_history": [], "extra_state": {}}, tmp_path / "a.pt")
    for number in (9, 10):
        (corpus / f"pt{number}").write_bytes(bytes([number]) + (tmp_path / "a.pt").read_bytes())
        (corpus / f"cut{number}").write_bytes(bytes([number]) + clip)
    texts = {4: ".\na.wav\t1\n", 5: "0,dog\n1,cat\n", 6: "a dog\nb cat\n", 7: '{"mean": 1, "std": 2}', 8: "1\n2\n"}
    for number, text in texts.items():
        (corpus / f"text{number}").write_bytes(bytes([number]) + text.encode())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.training.survival.fuzz_readers", str(corpus)),
            *("-max_total_time=20", "-runs=200000", "-max_len=4096", "-rss_limit_mb=2500", "-timeout=20", "-seed=1"),
            f"-artifact_prefix={tmp_path}/",
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    finished = re.search(r"Done (\d+) runs in (\d+) second", done.stderr)
    crashes = [path.name for path in tmp_path.iterdir() if re.match(r"(crash|leak|oom|timeout)-", path.name)]
    assert done.returncode == 0 and finished and not crashes, done.stdout[-2000:] + done.stderr[-3000:]
    FIGURES.append(f"atheris: {finished[1]} inputs to 11 readers in {finished[2]} s, {len(crashes)} crashes")
    assert int(finished[1]) > 1000
