"""X-ARES itself: its check of an encoder, then one task from tar files to scores, on the clips in ``data/``."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import soundfile
import torch

from tests.conftest import CLIPS, import_torchaudio
from tests.labelled_clips import families

torchaudio = import_torchaudio()

from xares.audio_encoder_checker import check_audio_encoder  # noqa: E402
from xares.task import TaskConfig, XaresTask  # noqa: E402

from EAT.interfaces.xares import EATEncoder  # noqa: E402

FOLDS = (1, 2, 3)


def load(path: str) -> tuple[torch.Tensor, int]:
    """As ``torchaudio.load``, which needs torchcodec and FFmpeg since release 2.9."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T), rate


torchaudio.load = load


class ClipsEncoder(EATEncoder):
    def __init__(self) -> None:
        super().__init__(sys.argv[1], readout="rows")


def write_tars(folder: Path, labels: list[str]) -> None:
    """The clips with their families as X-ARES keeps its data sets: shards of flac and JSON, one a fold."""
    folder.mkdir(parents=True)
    for fold in FOLDS:
        with tarfile.open(folder / f"wds-audio-fold-{fold}-000000.tar", "w") as tar:
            for number, (name, family) in enumerate(sorted(families().items())):
                if number % len(FOLDS) + 1 != fold:
                    continue
                for ending, content in (
                    ("flac", (CLIPS / name).read_bytes()),
                    ("json", json.dumps({"label": labels.index(family)}).encode()),
                ):
                    info = tarfile.TarInfo(f"{Path(name).stem}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    (folder / ".audio_tar_ready").touch()


def main() -> None:
    encoder = ClipsEncoder()
    assert check_audio_encoder(encoder), "X-ARES refuses the encoder"
    print("check_audio_encoder: accepted")
    labels = sorted(set(families().values()))
    with tempfile.TemporaryDirectory() as root:
        write_tars(Path(root) / "clips", labels)
        config = TaskConfig(
            name="clips",
            encoder=encoder,
            env_root=root,
            private=True,  # nothing is downloaded
            k_fold_splits=list(FOLDS),
            label_processor=lambda record: record["label"],
            output_dim=len(labels),
            eval_weight=len(families()),
            num_encoder_workers=1,
            epochs=30,
        )
        config.audio_tar_name_of_split = {fold: f"wds-audio-fold-{fold}-*.tar" for fold in FOLDS}
        (mlp, clips), (knn, _) = XaresTask(config).run()
    most = Counter(families().values()).most_common(1)[0][1] / len(families())
    print(f"accuracy over {len(FOLDS)} folds of {clips} clips, {len(labels)} classes: MLP {mlp:.3f}, KNN {knn:.3f}")
    print(f"always saying the most frequent class: {most:.3f}")


if __name__ == "__main__":
    main()
