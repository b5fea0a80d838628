"""Fine-tuning through the real command: where it starts, what it measures, and how it resumes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from fairseq.dataclass.initialize import add_defaults
from fairseq.tasks import FairseqTask, setup_task
from sklearn.metrics import average_precision_score, roc_auc_score

import EAT
from EAT.checkpoint import eat, read_checkpoint
from EAT.checkpoint.contents import Contents
from EAT.data.clips import batch_filterbank
from EAT.data.labelled import LabelledClips
from EAT.data.labels import read_descriptors, read_lbl
from EAT.data.manifest import Manifest
from EAT.network.classifier import Classifier
from EAT.network.front_end import FrontEnd
from EAT.network.settings import ClassifierSettings
from EAT.pictures.run_logs import read_log
from EAT.tasks import classification  # noqa: F401, registers the task, the model and the criterion

from ..conftest import CONFORMANCE, ROOT
from ..fairseq_runs import Run, train, train_distributed
from ..labelled_clips import families, write_multi_label, write_single_label
from ..published import our_name
from ..tiny import ENCODER, ON_A_CPU, model

SMALL = (
    *ON_A_CPU, "common.log_format=json", "dataset.validate_interval=1", "checkpoint.save_interval=1",
    "task.target_length=64", "task.norm_mean=null", "task.norm_std=null", "lr_scheduler.warmup_updates=0",
)  # fmt: skip
TINY = (*SMALL, *model(ENCODER))


@pytest.fixture
def multi(tmp_path: Path) -> Path:
    write_multi_label(tmp_path / "data")
    return tmp_path / "data"


def validations(run: Run, split: str = "eval") -> list[dict[str, float]]:
    """What was logged after each validation."""
    found = re.findall(rf"\[{split}\]\[INFO\] - (\{{.*\}})", run.output)
    return [{key: float(value) for key, value in json.loads(line).items()} for line in found]


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def scores_of(checkpoint: Path, data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets of a whole split, one clip after the other, without fairseq."""
    state = load(checkpoint)
    settings, task = state["cfg"]["model"], state["cfg"]["task"]
    sizes = {name: settings[name] for name in ("embed_dim", "depth", "num_heads", "mlp_ratio", "norm_eps")}
    model = Classifier(ClassifierSettings(num_classes=settings["num_classes"], **sizes)).eval()
    model.load_state_dict(state["model"])
    labels = read_descriptors(data / "label_descriptors.csv")
    manifest = Manifest(data / f"{split}.tsv")
    front_end = FrontEnd(task["target_length"], task["norm_mean"], task["norm_std"])
    classes = read_lbl(data / f"{split}.lbl", manifest, labels)
    clips = LabelledClips(manifest, front_end, labels=classes, classes=len(labels), multi_label=True)
    with torch.no_grad():
        rows = [model(batch_filterbank(clips.collate([clips[index]]), front_end)) for index in range(len(clips))]
    return torch.cat(rows).numpy(), clips.targets(range(len(clips)))


@pytest.mark.parametrize("batch", [4, 20])
def test_two_processes_measure_the_same_as_one_and_as_scikit_learn(multi: Path, tmp_path: Path, batch: int) -> None:
    """19 clips: of five batches of 4 one process gets three, the other two and an empty one; of 20 one gets all."""
    untrained = ("optimization.lr=[0]", "lr_scheduler.min_lr=0", "optimization.max_update=1")
    common = (*TINY, f"task.data={multi}", "dataset.batch_size=4", "model.num_classes=12", *untrained)
    common = (*common, f"dataset.batch_size_valid={batch}")
    one = train("finetuning_AS20K", *common, f"checkpoint.save_dir={tmp_path}/one")
    two = train_distributed("finetuning_AS20K", 2, *common, f"checkpoint.save_dir={tmp_path}/two")
    states = [load(tmp_path / name / "checkpoint_best.pt") for name in ("one", "two")]
    assert all(torch.equal(states[0]["model"][name], value) for name, value in states[1]["model"].items())
    mean_ap = [state["extra_state"]["val_loss"] for state in states]
    assert mean_ap[0] == pytest.approx(mean_ap[1], abs=1e-6)

    scores, targets = scores_of(tmp_path / "one" / "checkpoint_best.pt", multi, "eval")
    present = targets.any(axis=0)
    assert not present[-1]
    expected = np.mean([average_precision_score(targets[:, k], scores[:, k]) for k in np.flatnonzero(present)])
    auc = np.mean([roc_auc_score(targets[:, k], scores[:, k]) for k in np.flatnonzero(present)])
    assert mean_ap[0] == pytest.approx(expected, abs=1e-6)
    logged = [validations(run)[-1] for run in (one, two[0])]
    for line in logged:
        assert line["eval_mAP"] == pytest.approx(expected, abs=1e-5)
        assert line["eval_AUC"] == pytest.approx(auc, abs=1e-5)
        assert line["eval_loss"] == pytest.approx(logged[0]["eval_loss"], rel=1e-5)
        assert line["eval_clips_per_s"] > 0  # of a single batch, too
    drawn = read_log(tmp_path / "one")["eval"]  # what pictures of runs show
    assert drawn["mAP"][-1] == pytest.approx(expected, abs=1e-5) and drawn["num_updates"][-1] == 1
    for run in (one, two[0]):  # the others keep silent
        named = re.findall(r"eval: (\d+) of 12 classes have no clip and are left out of the means: (.*)", run.output)
        assert len(named) == 1 and int(named[0][0]) == (~present).sum() and "Nobody'S" in named[0][1]


@pytest.mark.slow
def test_two_devices_train_as_accumulation_on_one(multi: Path, tmp_path: Path) -> None:
    """Also where batches hold different numbers of positive labels, and the last one is smaller."""
    quiet = ("model.drop_path=0", "task.mixup_alpha=0", "optimization.lr=[1e-3]", "optimization.max_update=3")
    common = (*TINY, f"task.data={multi}", "dataset.batch_size=5", *quiet, "model.num_classes=12")
    one = train("finetuning_AS2M", *common, f"checkpoint.save_dir={tmp_path}/one", *weights(multi, 12),
                "optimization.update_freq=[2]")  # fmt: skip
    two = train_distributed("finetuning_AS2M", 2, *common, f"checkpoint.save_dir={tmp_path}/two", *weights(multi, 12))[
        0
    ]
    assert two.values("loss") == pytest.approx(one.values("loss"), rel=1e-4)
    states = [load(tmp_path / name / "checkpoint_last.pt")["model"] for name in ("one", "two")]
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=2e-5), name


def weights(data: Path, samples: int) -> tuple[str, ...]:
    clips = len((data / "train.tsv").read_text().splitlines()) - 1
    (data / "weights").write_text("".join(f"{1 + index}\n" for index in range(clips)))
    return (f"task.samples_per_epoch={samples}",)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 4])  # at the end of an epoch, and within one
def test_a_resumed_run_repeats_the_uninterrupted_one_without_the_file_it_started_from(
    multi: Path, tmp_path: Path, stop: int
) -> None:
    """Also the clips drawn by weight: 12 of 24 an epoch, in three batches."""
    start = tmp_path / "pretrained.pt"
    shutil.copy(CONFORMANCE / "official_pretrain.pt", start)
    common = (
        *SMALL,
        f"task.data={multi}",
        "dataset.batch_size=4",
        "model.num_classes=12",
        f"model.model_path={start}",
        "optimization.max_update=6",
        "checkpoint.save_interval_updates=1",
        *weights(multi, 12),
    )
    whole = train("finetuning_AS2M", *common, f"checkpoint.save_dir={tmp_path}/whole")
    assert "each epoch draws 12 of 24 clips by weight" in whole.output
    first = train(
        "finetuning_AS2M",
        *common,
        f"checkpoint.save_dir={tmp_path}/parts",
        f"optimization.max_update={stop}",
        "lr_scheduler.lr_period_updates=6",  # the whole run's
    )
    start.unlink()
    second = train("finetuning_AS2M", *common, f"checkpoint.save_dir={tmp_path}/parts")
    losses = whole.values("loss")
    assert first.values("loss") == pytest.approx(losses[:stop], rel=1e-6)
    assert second.values("loss") == pytest.approx(losses[stop:], rel=1e-6)

    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    (model,), _, _ = load_model_ensemble_and_task([str(tmp_path / "parts" / "checkpoint_last.pt")])
    assert model.settings.embed_dim == 64 and model.settings.num_classes == 12


@pytest.mark.parametrize("source", ["official_pretrain.pt", "hf_pretrain"])
def test_a_run_starts_with_the_encoder_of_a_published_checkpoint(multi: Path, tmp_path: Path, source: str) -> None:
    run = train(
        "finetuning_AS20K",
        *SMALL,
        f"task.data={multi}",
        "dataset.batch_size=8",
        "model.num_classes=12",
        f"model.model_path={CONFORMANCE / source}",
        "optimization.max_update=1",
        "optimization.lr=[0]",  # what is saved after update 1 is what it started with
        "lr_scheduler.min_lr=0",
        f"checkpoint.save_dir={tmp_path}/run",
    )
    state = load(tmp_path / "run" / "checkpoint_last.pt")
    if source == "hf_pretrain":
        from safetensors.torch import load_file

        published = load_file(CONFORMANCE / source / "model.safetensors")
        published = {huggingface_name(name): value for name, value in published.items()}
    else:
        published = load(CONFORMANCE / source)["model"]
        published = {our_name(name): value for name, value in published.items() if name != "_ema"}
        published = {name: value for name, value in published.items() if not name.startswith("decoder.")}
    table = published.pop("encoder.positions.table")
    assert torch.equal(state["model"].pop("encoder.positions.table")[:, : table.shape[1]], table)
    encoder = {name: value for name, value in state["model"].items() if name.startswith("encoder.")}
    assert set(encoder) == set(published) and len(encoder) == 5 + 3 * 12
    assert all(torch.equal(value, published[name]) for name, value in encoder.items())
    assert set(state["model"]) - set(encoder) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    described = state["cfg"]["model"]
    assert (described["embed_dim"], described["depth"], described["num_heads"]) == (64, 3, 4)
    assert (state["cfg"]["task"]["norm_mean"], state["cfg"]["task"]["norm_std"]) == (-7.5, 5.0)
    assert "the head starts new" in run.output
    ours = read_checkpoint(tmp_path / "run" / "checkpoint_last.pt")
    assert ours.kind == "classification" and ours.settings.num_classes == 12
    assert ours.front_end == FrontEnd(64, -7.5, 5.0)


def huggingface_name(name: str) -> str:
    """This package's name of a tensor in the published Hugging Face layout."""
    renamed = {
        "model.extra_tokens": "encoder.cls_token",
        "model.local_encoder.proj": "encoder.patches.projection",
        "model.fixed_positional_encoder.positions": "encoder.positions.table",
        "model.pre_norm": "encoder.norm",
    }
    for old, new in renamed.items():
        if name.startswith(old):
            return name.replace(old, new)
    return name.replace("model.blocks", "encoder.blocks")


def test_a_single_label_run_keeps_the_most_accurate_checkpoint(tmp_path: Path) -> None:
    """Two clips of the evaluation split cannot be read, one of them alone in the last batch."""
    write_single_label(tmp_path / "data", evaluation=17)
    manifest = tmp_path / "data" / "eval.tsv"
    lines = manifest.read_text().splitlines()
    order = np.random.default_rng((1, 1)).permutation(17)  # the order in which clips come into batches of 8
    lines[1 + order[2]], lines[1 + order[16]] = "gone.flac\t16000", "lost.flac\t16000"
    manifest.write_text("\n".join(lines) + "\n")
    run = train(
        "finetuning_ESC50",
        *TINY,
        f"task.data={tmp_path}/data",
        "model.num_classes=null",
        "model.pooling=mean",
        "dataset.batch_size=8",
        "task.max_skipped=0.2",
        "optimization.max_update=9",
        f"checkpoint.save_dir={tmp_path}/run",
    )
    lines = validations(run)
    assert len(lines) == 3
    assert "clip skipped (2 so far)" in run.output
    assert all(
        line["eval_accuracy"] * 15 == pytest.approx(round(line["eval_accuracy"] * 15), abs=1e-3) for line in lines
    )
    best = max(line["eval_accuracy"] for line in lines)
    state = load(tmp_path / "run" / "checkpoint_best.pt")
    assert state["extra_state"]["best"] == pytest.approx(best, abs=1e-6)
    assert state["cfg"]["model"]["num_classes"] == 10  # from the label descriptors
    assert 0 <= lines[-1]["eval_balanced_accuracy"] <= 1
    names = sorted(set(families().values()))
    model = EAT.load(tmp_path / "run" / "checkpoint_best.pt")
    assert [(label.name, label.display) for label in model.classes] == [(name, name.title()) for name in names]
    assert model.activation == "softmax"


def test_a_data_set_of_ones_own_is_a_yaml(tmp_path: Path) -> None:
    write_single_label(tmp_path / "data")
    run = train(
        "finetuning_AS20K",
        "+data_set=demo_clips",
        *(key for key in TINY if "norm_" not in key and "target_length" not in key),
        f"task.data={tmp_path}/data",
        "dataset.batch_size=8",
        "optimization.max_update=2",
        f"checkpoint.save_dir={tmp_path}/run",
    )
    cfg = load(tmp_path / "run" / "checkpoint_last.pt")["cfg"]
    assert len(run.lines) == 2 and cfg["model"]["num_classes"] == 10
    assert cfg["criterion"]["loss"] == "cross_entropy" and cfg["task"]["labels"] == "single"
    assert (cfg["task"]["target_length"], cfg["task"]["norm_mean"], cfg["task"]["mixup_alpha"]) == (128, -7.5, 0.8)
    assert cfg["checkpoint"]["best_checkpoint_metric"] == "accuracy"


def check(data: Path, tmp_path: Path, *overrides: str) -> FairseqTask:
    """Everything that fairseq's training does with the recipe before its first update, in its order."""
    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        cfg = hydra.compose(
            "finetuning_AS20K",
            [
                *TINY,
                f"task.data={data}",
                f"checkpoint.save_dir={tmp_path}/run",
                "dataset.batch_size=8",
                "model.num_classes=12",
                *overrides,
            ],
        )
    add_defaults(cfg)
    task = setup_task(cfg.task)
    task.build_model(cfg.model)
    task.build_criterion(cfg.criterion)
    task.load_dataset("eval")
    task.load_dataset("train")
    return task


def refused(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, *overrides: str) -> str:
    """The sentence with which that stops, with exit status 1."""
    with pytest.raises(SystemExit) as ended:
        check(data, tmp_path, *overrides)
    assert ended.value.code == 1
    return caplog.records[-1].getMessage()


def test_a_mistake_ends_the_command_with_status_1_before_training(multi: Path, tmp_path: Path) -> None:
    run = train("finetuning_AS20K", *TINY, f"task.data={multi}", f"checkpoint.save_dir={tmp_path}/run", expect=1)
    assert f"[ERROR] - model.num_classes is 527, but {multi}/label_descriptors.csv has 12 labels; set" in run.output
    assert "Traceback" not in run.output and not run.lines


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("eval.lbl", "\ttabla", "\ttabl", "eval.lbl has the label 'tabl', which is not in the label descriptors"),
        ("train.lbl", "\ttabla,percussive\n", "\t\n", "no label; each must be clip_id<TAB>label"),
        ("eval.tsv", "\n", "\ntabla_na.flac\t5\n", "eval.lbl has 19 clips, but the manifest"),
        ("label_descriptors.csv", "0,", "7,", "label descriptors"),
        ("normalization.json", "-7.5", "null", 'normalization.json must hold {"mean": number, "std": number}'),
    ],
)
def test_bad_data(multi: Path, tmp_path: Path, caplog, file: str, old: str, new: str, sentence: str) -> None:
    check(multi, tmp_path)
    content = (multi / file).read_text()
    assert old in content
    (multi / file).write_text(content.replace(old, new, 1))
    assert sentence in refused(multi, tmp_path, caplog)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.num_classes=527"], "model.num_classes is 527, but"),
        ([f"model.model_path={CONFORMANCE}/official_pretrain.pt"], "model.embed_dim is 32, but"),
        (["model.model_path=nothing.pt"], "nothing.pt"),
        (["model.weights=best", f"model.model_path={CONFORMANCE}/official_pretrain.pt"], "weights is 'best'"),
        (["task.weights=weights"], "task.weights=null to take every clip"),
        (["task.labels=both"], "task.labels is 'both'; it must be one of multi, single"),
        (["criterion.loss=hinge"], "criterion.loss is 'hinge'; it must be one of bce_per_positive"),
        (["criterion.loss=cross_entropy"], "criterion.loss=cross_entropy needs clips with one label each"),
        (["task.labels=single"], "2 labels; one label a clip is what task.labels=single asks for"),
        (["task.labels=events", "task.roll=false"], "task.labels=events does not go with model.pooling=cls"),
        (["model.pooling=steps"], "task.labels=multi does not go with model.pooling=steps"),
        (["task.labels=events", "model.pooling=steps"], "the augmentation roll moves sounds in time"),
        (["task.norm_mean=1"], "only one of task.norm_mean and task.norm_std is set"),
        (["task.time_mask=2"], "task.time_mask is 2.0; it is a fraction"),
    ],
)
def test_settings_that_cannot_work(multi: Path, tmp_path: Path, caplog, overrides: list[str], sentence: str) -> None:
    assert sentence in refused(multi, tmp_path, caplog, *overrides)


def test_a_folder_of_another_run_is_not_resumed(multi: Path, tmp_path: Path, caplog) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(CONFORMANCE / "official_pretrain.pt", tmp_path / "run" / "checkpoint_last.pt")
    assert "checkpoint_last.pt cannot be resumed by fine-tuning, it is a published pretraining" in refused(
        multi, tmp_path, caplog
    )


def test_a_run_is_not_resumed_with_its_classes_in_another_order(multi: Path, tmp_path: Path, caplog) -> None:
    last = tmp_path / "run" / "checkpoint_last.pt"
    last.parent.mkdir()
    classes = read_descriptors(multi / "label_descriptors.csv")
    with torch.random.fork_rng():
        model = Classifier(ClassifierSettings(embed_dim=32, depth=2, num_heads=4, num_classes=len(classes)))
    contents = Contents("eat", model.state_dict(), model.settings, FrontEnd(128), "sigmoid", tuple(classes[::-1]))
    eat.write(contents, str(last))
    said = refused(multi, tmp_path, caplog)
    assert f"class 0 of {last}, which is resumed, is {classes[-1].name!r}, but {classes[0].name!r} in " in said
    assert "which has the same classes in another order" in said


def test_every_epoch_draws_others_by_weight_and_every_process_the_same(multi: Path, tmp_path: Path) -> None:
    (multi / "weights").write_text("".join(f"{1 + index}\n" for index in range(24)))
    overrides = ("task.weights=weights", "task.samples_per_epoch=6")
    train_clips, other = (check(multi, tmp_path, *overrides).dataset("train") for _ in range(2))
    drawn = np.zeros(24)
    orders = set()
    for epoch in range(1, 201):
        train_clips.set_epoch(epoch)
        other.set_epoch(epoch)
        order = train_clips.ordered_indices()
        assert np.array_equal(order, other.ordered_indices()) and len(set(order)) == 6
        drawn[order] += 1
        orders.add(tuple(order))
    assert len(orders) == 200
    assert drawn[12:].sum() > 2 * drawn[:12].sum()  # 222 to 78 by weight


def test_only_the_training_split_is_augmented(multi: Path, tmp_path: Path) -> None:
    task = check(multi, tmp_path, "task.crop=random", "task.gain=10")
    assert task.dataset("train").crop == "random"
    assert task.dataset("train").augmentations is task.augmentations is not None
    assert task.dataset("eval").augmentations is None and task.dataset("eval").crop == "start"
