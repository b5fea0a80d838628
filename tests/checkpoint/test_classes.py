"""What classes are called goes into checkpoints and through conversions, and is compared with what is given beside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import EAT
from EAT.checkpoint import huggingface
from EAT.checkpoint.classes import check_same
from EAT.checkpoint.formats import read_contents, write_checkpoint
from EAT.commands import evaluate, predict
from EAT.data.labels import Label, write_descriptors
from EAT.errors import CheckpointError

from ..conftest import CLIPS, CONFORMANCE

CLASSES = tuple(
    Label(index, f"/m/{index}", name) for index, name in enumerate(("Dog", "Cat", "日本", "Rain", "Bell", "A, b"))
)


def named() -> object:
    return replace(read_contents(str(CONFORMANCE / "official_finetune.pt")), classes=CLASSES, activation="softmax")


@pytest.mark.parametrize(
    "way", [("eat",), ("published",), ("huggingface",), ("huggingface", "published", "eat", "huggingface")]
)
def test_names_and_activation_go_through_every_format(tmp_path: Path, way: tuple[str, ...]) -> None:
    contents = named()
    for number, file_format in enumerate(way):
        path = tmp_path / (f"{number}" if file_format == "huggingface" else f"{number}.pt")
        write_checkpoint(contents, str(path), file_format)
        contents = read_contents(str(path))
        assert (contents.classes, contents.activation) == (CLASSES, "softmax")
        model = EAT.load(path)
        assert (model.classes, model.activation) == (CLASSES, "softmax")


def test_hugging_face_s_own_names(tmp_path: Path) -> None:
    huggingface.write(named(), str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"] == {str(label.index): label.display for label in CLASSES}
    assert config["label2id"] == {label.display: label.index for label in CLASSES}

    def read_with(id2label: object, notes: bool = False) -> tuple[Label, ...] | None:
        changed = {**config, "id2label": id2label}
        if not notes:
            del changed["eat"]
        (tmp_path / "config.json").write_text(json.dumps(changed))
        return read_contents(str(tmp_path)).classes

    others = {str(index): f"sound {index}" for index in range(6)}
    assert read_with(others) == tuple(Label(index, name, name) for index, name in enumerate(others.values()))
    assert read_with(others, notes=True) == tuple(Label(i, f"/m/{i}", f"sound {i}") for i in range(6))
    assert read_with({str(index): f"LABEL_{index}" for index in range(6)}) is None
    for wrong in ({"0": "Dog"}, {**others, "5": 3}, ["Dog"] * 6, {str(i + 1): "x" for i in range(6)}):
        with pytest.raises(CheckpointError, match=r"id2label in its config\.json does not name them from 0 to 5"):
            read_with(wrong)


def test_names_that_repeat_are_told_apart_in_hugging_face_s_table(tmp_path: Path) -> None:
    twice = tuple(label._replace(display="Sound") for label in CLASSES)
    huggingface.write(replace(named(), classes=twice), str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["label2id"] == {label.name: label.index for label in CLASSES}


@pytest.mark.parametrize("noted", [3, "names", [["a", "b"]], [["a"] * 2] * 6, [[1, 2]] * 6, [None] * 6])
def test_notes_that_name_no_classes_are_refused(tmp_path: Path, noted: object) -> None:
    path = tmp_path / "model.pt"
    write_checkpoint(named(), str(path), "eat")
    state = torch.load(path)
    state["extra_state"]["eat"]["classes"] = noted
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="has 6 classes, but its notes do not hold as many different names"):
        EAT.load(path)


def test_given_labels_must_be_the_model_s() -> None:
    check_same(CLASSES, [label._replace(display="x") for label in CLASSES], 6, "it", "file")
    check_same(None, CLASSES, 6, "it", "file")
    shown_alone = tuple(label._replace(name=label.display) for label in CLASSES)
    check_same(shown_alone, CLASSES, 6, "it", "file")
    for given, said in (
        (CLASSES[:5], "it has 6 classes, but file has 5"),
        (
            (CLASSES[1], CLASSES[0], *CLASSES[2:]),
            "class 0 of it is '/m/0', but '/m/1' in file, which has the same classes",
        ),
        ((Label(0, "/m/9", "Dog"), *CLASSES[1:]), "class 0 of it is '/m/0', but '/m/9' in file; give"),
    ):
        given = [label._replace(index=index) for index, label in enumerate(given)]
        with pytest.raises(CheckpointError, match=said):
            check_same(CLASSES, given, 6, "it", "file")


def test_commands_name_classes_as_the_checkpoint_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, model = CLIPS / "tabla_na.flac", tmp_path / "model.pt"
    write_checkpoint(named(), str(model), "eat")
    asked = ["--source", str(clip), "--checkpoint", str(model), "--format", "json", "--top-k", "6", "--device", "cpu"]

    def shown(*labels: str) -> dict[int, str]:
        assert predict.main([*asked, *labels]) == 0
        return {entry["index"]: entry["name"] for entry in json.loads(capsys.readouterr().out)[0]["top"]}

    file = str(tmp_path / "label_descriptors.csv")
    assert shown() == {label.index: label.display for label in CLASSES}
    write_descriptors(file, [label._replace(display=f"ein {label.index}") for label in CLASSES])
    assert shown("--labels", file) == {index: f"ein {index}" for index in range(6)}
    swapped = (CLASSES[1]._replace(index=0), CLASSES[0]._replace(index=1), *CLASSES[2:])
    write_descriptors(file, swapped)
    assert predict.main([*asked, "--labels", file]) == 2
    said = f"class 0 of {model} is '/m/0', but '/m/1' in {file}, which has the same classes in another order"
    assert said in capsys.readouterr().err

    (tmp_path / "eval.tsv").write_text(f"{CLIPS}\n{clip.name}\t16000\n")
    (tmp_path / "eval.lbl").write_text(f"{clip.stem}\t/m/1\n")
    asked = ["--data", str(tmp_path), "--checkpoint", str(model), "--num-workers", "0", "--device", "cpu"]
    assert evaluate.main(asked) == 2
    assert "class 0 of the checkpoint is '/m/0'" in capsys.readouterr().err
    write_descriptors(file, CLASSES)
    assert evaluate.main(asked) == 0

    asked = ["--source", str(clip), "--checkpoint", str(CONFORMANCE / "official_finetune.pt"), "--device", "cpu"]
    assert predict.main(asked) == 2
    assert "does not say what its classes are called; give --labels" in capsys.readouterr().err
