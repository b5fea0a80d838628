"""The guides do not rot: what they tell a reader to type is typed here, and what they point at exists."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fairseq.dataclass.configs import CheckpointConfig, CommonConfig
from omegaconf import OmegaConf

from EAT.__main__ import SUBCOMMANDS
from EAT.audio.recordings import read_audio
from EAT.commands.convert import convert
from EAT.commands.doctor.machine import EXTRAS
from EAT.training.clip_task import ClipTaskConfig

from .conftest import CLIPS, CONFORMANCE, ROOT
from .published import SIZES
from .tiny import NETWORK, ON_A_CPU, model

GUIDES = (
    "README.md",
    "docs/first-hour.md",
    "docs/method.md",
    "docs/bat.md",
    "docs/recipes.md",
    "docs/coming-from-the-published-code.md",
    "docs/stability.md",
    "docs/learning.md",
    "docs/looking.md",
    "docs/science.md",
    "docs/family.md",
    "docs/further-pretraining.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/data.md",
    "docs/scaling.md",
    "docs/gpu.md",
    "docs/troubleshooting.md",
    "docs/dependencies.md",
    "docs/weights.md",
    "docs/python.md",
    "docs/interfaces.md",
    "docs/uses.md",
    "docs/lines.md",
    "feature_extract/README.md",
    "config/run_config/README.md",
    "CONTRIBUTING.md",
)

NOT_RUN = {
    "bash scripts/demo.sh": "takes minutes; tests/test_demo.py runs it",
    "bash scripts/test.sh": "runs this very test",
    "python -m EAT.weights fetch": "needs a network; tests/checkpoint/test_hub.py runs it against a Hub of its own",
    "python -m EAT.serve": "serves until it is stopped; tests/commands/test_serve.py runs it",
    "python -m EAT.extract --ray": "needs Ray and a store; tests/commands/cluster/run.sh runs both",
    "python -m EAT.predict --ray": "needs Ray; tests/commands/cluster/run.sh runs it",
    "pip install": "would change the environment that the tests run in; scripts/demo.sh installs",
}
"""Beginnings of commands that a test cannot run, and why. Every other command of a shell block is run."""

MADE = {
    "README.md": [
        "features/drum/drum_bass_hard.npy",
        "prepared/normalization.json",
        "report/report.html",
        "map.png",
        "checkpoints/finetuning_folder/checkpoint_best.pt",
        "checkpoints/mine/checkpoint_last.pt",
        "checkpoints/pretraining_AS2M/checkpoint_last.pt",
        "checkpoints/sslam/checkpoint_last.pt",
        "checkpoints/two/checkpoint_last.pt",
    ],
    "docs/weights.md": ["sounds/model.safetensors", "sounds/README.md"],
    "docs/family.md": ["checkpoints/eat_goes_on/checkpoint_last.pt"],
    "docs/further-pretraining.md": ["checkpoints/further/checkpoint_last.pt"],
    "feature_extract/README.md": ["features/drum", "street.png", "EAT-base-hf/model.safetensors", "eat.onnx"],
}
"""Some of what the commands must leave behind."""

TINY = {
    "": f"{' '.join(ON_A_CPU)} task.target_length=128 "
    "dataset.batch_size=4 lr_scheduler.warmup_updates=1 optimization.max_update=3 optimization.update_freq=[1]",
    "pretraining": " ".join(model(NETWORK)),
    "further": " ".join(model(SIZES)),
    "finetuning": "",
}
"""Overrides, by the start of a recipe's name, that make a run of seconds out of it."""

SHIMS = {
    # Training as it stands, only small; on one device unless the command starts its processes itself.
    "fairseq-hydra-train": """
size="{common}"
case "$*" in
    *"config-name pretraining"*model.model_path=*) size="$size {further}" ;;
    *"config-name pretraining"*) size="$size {pretraining}" ;;
esac
case "$*" in *distributed_no_spawn=true*) ;; *) size="$size distributed_training.distributed_world_size=1" ;; esac
exec "{bin}/fairseq-hydra-train" "$@" $size
""",
    "python": """
size=""
case "$*" in "-m EAT.train --config-name"*) size="{common}" ;; esac
exec "{bin}/python" "$@" $size
""",
    # Two processes in place of eight.
    "torchrun": """
exec "{bin}/torchrun" "${{@/#8/2}}"
""",
}


def code_blocks(guide: str, language: str) -> list[str]:
    """A guide's fenced blocks in one language."""
    text = (ROOT / guide).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    """A shell block's commands: lines that end in a backslash go on, loops stay in one piece, comments go."""
    found, depth = [], 0
    for line in block.replace("\\\n", " ").splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if depth:
            found[-1] += "\n" + line
        else:
            found.append(line)
        depth += len(re.findall(r"\b(?:do|then)\b", stripped)) - len(re.findall(r"\b(?:done|fi)\b", stripped))
    return found


def is_run(command: str) -> bool:
    return not any(command.lstrip().startswith(start) for start in NOT_RUN)


def inline_code(guide: str) -> list[str]:
    """What stands between backticks outside blocks; of tables that translate, their last columns alone."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / guide).read_text(), flags=re.MULTILINE | re.DOTALL)
    if "| there | here" in text:
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """A checkout as a reader has it, with stand-ins under the names that the guides give to recordings and models."""
    for name in ("EAT", "config", "data", "feature_extract", "scripts", "setup.py", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    families = {"drum": "drum_*", "electronic": "elec_*", "bass": "bass_*"}
    for family, pattern in families.items():
        for folder in ("recordings", "my_sounds"):
            (tmp_path / folder / family).mkdir(parents=True)
        for clip in sorted(CLIPS.glob(pattern))[:6]:
            shutil.copy(clip, tmp_path / "recordings" / family)
        shutil.copy(clip, tmp_path / "my_sounds" / family)
    # the published formats at a small width
    for name in ("EAT-base_epoch30_pt.pt", "EAT-base.pt", "CKPT"):
        shutil.copy(CONFORMANCE / "official_pretrain.pt", tmp_path / name)
    shutil.copy(CONFORMANCE / "official_finetune.pt", tmp_path / "finetuned.pt")
    convert(str(tmp_path / "finetuned.pt"), str(tmp_path / "finetuned-hf"))
    (tmp_path / "class_labels_indices.csv").write_text(
        "index,mid,display_name\n" + "".join(f'{i},/m/{i},"Sound, number {i}"\n' for i in range(6))
    )
    waveform = read_audio(str(CLIPS / "loop_garzul.flac")).numpy()
    for name in ("clip.wav", "clip.flac", "street.mp3"):
        soundfile.write(tmp_path / name, waveform, 16_000)
    clips = sorted(CLIPS.glob("perc_*"))
    (tmp_path / "list.tsv").write_text(
        "\n".join([str(CLIPS), *(f"{clip.name}\t{soundfile.info(clip).frames}" for clip in clips)]) + "\n"
    )
    return tmp_path


def environment(sandbox: Path) -> dict[str, str]:
    """The tests' environment, with commands made small in front of its own."""
    folder, shims = Path(sys.executable).parent, sandbox / ".shims"
    shims.mkdir(exist_ok=True)
    for name, text in SHIMS.items():
        (shims / name).write_text(
            "#!/usr/bin/env bash"
            + text.format(bin=folder, common=TINY[""], pretraining=TINY["pretraining"], further=TINY["further"])
        )
        (shims / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(shims), str(folder), os.environ["PATH"]]),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "MPLCONFIGDIR": str(sandbox / ".matplotlib"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("guide", [guide for guide in GUIDES if code_blocks(guide, "bash")])
def test_shell_blocks_run(guide: str, sandbox: Path) -> None:
    """One after the other, as a reader goes through the page."""
    for command in (command for block in code_blocks(guide, "bash") for command in commands(block) if is_run(command)):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=sandbox,
            env=environment(sandbox),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        print(f"$ {command}\n{done.stdout}")  # with pytest -s: what a reader sees, from the first command to the last
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
        assert "Traceback" not in done.stdout, f"{command}\n{done.stdout[-3000:]}"
    missing = [made for made in MADE.get(guide, []) if not (sandbox / made).exists()]
    assert not missing, missing


def test_what_is_not_run_is_there_and_has_a_reason() -> None:
    every = [command for guide in GUIDES for block in code_blocks(guide, "bash") for command in commands(block)]
    assert len(every) >= 15
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in every) or start in " ".join(
            code for guide in GUIDES for code in inline_code(guide)
        ), f"{start} stands in no guide any more"


@pytest.mark.parametrize("guide", [guide for guide in GUIDES if code_blocks(guide, "python")])
@pytest.mark.usefixtures("modules_of_its_own")
def test_python_blocks_run(guide: str, sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sandbox)
    clips = sorted(CLIPS.glob("loop_*"))
    short, long = (read_audio(str(clip), 160_000) for clip in clips[:2])
    # what the pages say that the reader has
    names = {"waveform": short[:30_000], "waveforms": np.stack([short[:30_000], short[:30_000]])}
    names |= {"short": short[:20_000], "long": long[:40_000], "path": str(clips[0])}
    for block in code_blocks(guide, "python"):
        # the stand-in has two blocks, and the machine perhaps no GPU
        block = block.replace('device="cuda"', 'device="cpu"').replace("layer=[6, -1]", "layer=[1, -1]")
        exec(compile(block, guide, "exec"), names)
    if guide == "README.md":
        assert names["vectors"].shape == (2, 64)  # the stand-in's width
    if guide == "docs/interfaces.md":
        assert names["scores"].shape == (1, 6) and names["steps"].shape[2] == 8 * 64


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_in_the_text_are_understood(guide: str) -> None:
    for code in inline_code(guide):
        words = shlex.split(code.split(" | ")[0], comments=True) if re.match(r"[\w./=-]+ ", code) else [code]
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words[:2] == ["python", "-m"] and words[2].startswith("EAT"):
            check_module(words[2], words[3:])
        elif words[:1] == ["bash"] and len(words) > 1:
            assert (ROOT / words[1]).is_file(), code
        elif words[:1] == ["fairseq-hydra-train"] and len(words) > 1:
            check_training(words[1:], code)
        elif words[:2] == ["eat", "train"] and len(words) > 2:
            check_training(words[2:], code)
        elif words[:1] == ["eat"] and len(words) > 1 and words[1] not in ("X", "train"):
            check_module(SUBCOMMANDS[words[1]], words[2:])
        elif words[:2] == ["pip", "install"]:
            for extra in re.findall(r"\[([\w,]+)\]", code):
                assert f'"{extra}": [' in (ROOT / "setup.py").read_text() or extra in ("all", "NAME"), code


def check_module(module: str, arguments: list[str]) -> None:
    name = module.strip(",.")
    if name == "EAT.X":  # any of them
        return
    found = importlib.util.find_spec(name)
    assert found is not None, f"python -m {name} does not exist"
    if arguments:
        command = importlib.import_module(f"{name}.__main__" if found.submodule_search_locations else name)
        if len(arguments) == 1 and arguments[0].isidentifier() and name != "EAT.commands.completion":
            arguments = [*arguments, "--help"]  # a sub-command that is only mentioned
        try:
            command.parser().parse_args(arguments)
        except SystemExit as end:
            assert end.code == 0, f"{name} {arguments}"


def check_training(arguments: list[str], code: str) -> None:
    name = arguments[arguments.index("--config-name") + 1]
    config = recipe(name)
    for override in arguments[arguments.index("--config-name") + 2 :]:
        key, _, value = override.partition("=")
        if key in ("+run_config", "+data_set"):
            value = "demo_clips" if value == "NAME" else value
            assert (ROOT / "config" / key[1:] / f"{value}.yaml").is_file(), code
        else:
            assert _has(config, key), f"{key} in {code}"


def recipe(name: str) -> dict:
    merged = OmegaConf.merge(*(OmegaConf.load(ROOT / "config" / f"{part}.yaml") for part in (name, "base/technical")))
    config = OmegaConf.to_container(merged)
    assert isinstance(config, dict)
    return config


def _has(config: object, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True


@pytest.mark.parametrize("guide", GUIDES)
def test_settings_exist(guide: str) -> None:
    """Every ``group.key`` that a guide names stands in a recipe, or is a setting of both tasks, or of fairseq's
    own sections, that no recipe has.
    """
    recipes = [recipe(path.stem) for path in (ROOT / "config").glob("*.yaml")]
    recipes.append({"task": {field.name: None for field in fields(ClipTaskConfig)}})
    for section, known in (("checkpoint", CheckpointConfig), ("common", CommonConfig)):
        recipes.append({section: {field.name: None for field in fields(known)}})
    groups = "common|task|dataset|distributed_training|criterion|optimizer|lr_scheduler|optimization|checkpoint|model"
    for code in inline_code(guide):
        found = re.match(rf"((?:{groups})\.[a-z_0-9.]+)(?:=|$)", code)
        if found and found[1] not in ("model.safetensors", "model.dept") and not found[1].endswith("()"):
            python = re.match(r"model\.(extract|frames|predict|labels|scores|logits|half|compile|train)", found[1])
            assert python or any(_has(config, found[1]) for config in recipes), f"{found[1]} is no setting"


FOREIGN = ("Could not override", "world size is", "Key 'dept' not in", "DistributedDataParallel")
"""Messages of other programs that the page quotes."""


def test_troubleshooting_quotes_what_is_said() -> None:
    """Some of each message, two words and ten letters at least, stands in a string of the code."""
    said = []
    for path in (ROOT / "EAT").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                said.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    rows = re.findall(r"^\| (`.+?`) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"`(.+?)`", row)]
    assert len(messages) > 40
    for message in messages:
        words = re.sub(r"\b[\d.]+\b", "\0", message).split()
        parts = [" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 2, len(words) + 1)]
        parts = [part for part in parts if len(part) >= 10]
        foreign = any(text in message for text in FOREIGN)
        assert foreign or any(part in text for text in said for part in parts), f"nothing says {message!r}"


@pytest.mark.parametrize("guide", [*GUIDES, "docs/extending.md"])
def test_links_lead_somewhere(guide: str) -> None:
    text = (ROOT / guide).read_text()
    folder = (ROOT / guide).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            headings = [re.sub(r"[^\w\- ]", "", line.lstrip("# ")).replace(" ", "-").lower()
                        for line in text.splitlines() if line.startswith("#")]  # fmt: skip
            assert target[1:] in headings, target
        elif not target.startswith(("http://", "https://")):
            assert (folder / target.split("#")[0]).exists(), target
    for path in re.findall(r"`((?:tests|EAT|config|scripts|docs|benchmarks|data)/[\w./-]+)`", text):
        name = path.split("::")[0].replace("/NAME.", "/demo_clips.").replace("EAT/X.", "EAT/doctor.")
        assert (ROOT / name).exists(), path


def test_the_readme_can_be_read_in_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 300


def test_every_dependency_is_accounted_for() -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "dependencies.md").read_text(), flags=re.MULTILINE)
    # a package stands in the first column, or in the second where the first names an extra
    cells = [[line.split("|")[1:3] for line in part.splitlines() if line.startswith("|")] for part in sections[1:]]
    base, extras, tests = ({cell.strip() for row in rows for cell in row} for rows in cells[:3])

    def names(requirements: list[str]) -> set[str]:
        return {re.match(r"[\w.-]+", line)[0] for line in requirements if line[:1].isalpha()}

    setup = (ROOT / "setup.py").read_text()
    wanted = names(re.findall(r'"([^"]+)"', re.search(r"install_requires=\[(.*?)\]", setup)[1]))
    assert {name for name in base if re.fullmatch(r"[\w-]+", name)} - {"package", "why"} - {"---"} == wanted
    assert extras >= {package for extra in EXTRAS for package in extra.packages}
    pinned = names((ROOT / "requirements.txt").read_text().splitlines())
    tested = names((ROOT / "requirements-test.txt").read_text().splitlines())
    assert pinned - {"setuptools"} <= base | extras
    assert tested <= extras | tests
    assert not wanted & tests
