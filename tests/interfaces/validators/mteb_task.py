"""mteb itself: two tasks of its own kinds, from loader to scores, on the clips in ``data/``."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from typing import Any

import mteb
import soundfile
from datasets import Dataset, DatasetDict
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.models_protocols import EncoderProtocol

from EAT.interfaces.mteb import EATEncoder
from tests.conftest import CLIPS
from tests.labelled_clips import families

FOLDS = 2


def described(name: str, kind: str, category: str, score: str) -> TaskMetadata:
    """What mteb wants to know of a task."""
    return TaskMetadata(
        name=name,
        description="Families of the clips that come with EAT.",
        reference=None,
        dataset={"path": "data/clips", "revision": "local"},
        type=kind,
        category=category,
        modalities=["audio"],
        eval_splits=["test"],
        eval_langs=["zxx-Zxxx"],
        main_score=score,
        date=None,
        domains=["AudioScene"],
        task_subtypes=None,
        license="cc0-1.0",
        annotations_creators="human-annotated",
        dialect=[],
        sample_creation="found",
        bibtex_citation="",
    )


class FromClips:
    """Reads the clips in place of a data set of the hub."""

    input_column_name = "audio"
    label_column_name = "label"

    def load_data(self, *arguments: Any, **options: Any) -> None:
        """Every other clip of a family is of the test split."""
        labels = sorted(set(families().values()))
        splits: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
        seen: Counter[str] = Counter()
        for name, family in sorted(families().items()):
            samples, rate = soundfile.read(CLIPS / name, dtype="float32")
            split = ("train", "test")[seen[family] % FOLDS]
            seen[family] += 1
            splits[split].append({"audio": {"array": samples, "sampling_rate": rate}, "label": labels.index(family)})
        self.dataset = DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()})
        self.data_loaded = True


class ClipFamilies(FromClips, AbsTaskClassification):
    """A linear classifier on a few clips of each family."""

    metadata = described("EATClipFamilies", "AudioClassification", "a2c", "accuracy")
    samples_per_label = 2
    n_experiments = 10


class ClipClusters(FromClips, AbsTaskClustering):
    """Whether clusters are families."""

    metadata = described("EATClipClusters", "AudioClustering", "a2c", "v_measure")
    max_document_to_embed = None
    max_fraction_of_documents_to_embed = 1.0


def main() -> None:
    """Judge the checkpoint that is named."""
    encoder = EATEncoder(sys.argv[1], readout="rows")
    assert isinstance(encoder, EncoderProtocol), "mteb refuses the encoder"
    print("EncoderProtocol: accepted")
    meta = encoder.mteb_model_meta
    print(
        f"noted as {meta.name}: {meta.n_parameters:,} parameters, {meta.embed_dim} wide, {', '.join(meta.modalities)}"
    )
    tasks = [ClipFamilies(), ClipClusters()]
    with tempfile.TemporaryDirectory() as folder:
        options = {"cache": mteb.ResultCache(cache_path=folder), "co2_tracker": False}
        for task, result in zip(tasks, mteb.evaluate(encoder, tasks, **options).task_results, strict=True):
            print(f"{result.task_name}: {task.metadata.main_score} {result.get_score():.3f}")
        kept = mteb.evaluate(encoder, tasks[:1], overwrite_strategy="only-cache", **options)
        print(f"the first of them from mteb's cache: {kept.task_results[0].get_score():.3f}")
    most = Counter(families().values()).most_common(1)[0][1] / len(families())
    print(f"always saying the most frequent class: {most:.3f}")


if __name__ == "__main__":
    main()
