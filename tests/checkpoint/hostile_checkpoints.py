"""Checkpoints mutated in names, shapes, types, strides, settings and bytes: each refused in a sentence or loaded right.

``python -m tests.checkpoint.hostile_checkpoints --count 200 --seed 1`` prints what became of each, in how long, and in
how much memory. Every one must be answered within ``SECONDS`` and ``MEMORY``, on top of what the process has at its
start; one that hangs ends the process with a traceback of where.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import EAT
from EAT.commands.convert import convert
from EAT.errors import EATError

from ..conftest import CONFORMANCE
from ..published import our_name

SECONDS, MEMORY = 5.0, 1 << 30

JUNK: list[Any] = [
    None, True, 0, -1, 3, 10**9, 10**400, 0.5, 1e300, float("nan"), float("inf"), "abc", "", "9" * 5000, b"x", [], [[]],
    [1, 2, 3], {}, {"a": {"b": {}}}, (), ("a",), {1, 2},
    torch.zeros(()), torch.zeros(3), torch.zeros(2, 2, dtype=torch.int32),
]  # fmt: skip


def deep(depth: int) -> list:
    """A list in a list in a list ..."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def doubled(times: int) -> list:
    """A list whose text would have 2^times parts, in a few bytes."""
    value: list = []
    for _ in range(times):
        value = [value, value]
    return value


def junk(rng: random.Random, written_out: bool = False) -> Any:
    """Anything; ``written_out`` for a format that has no references."""
    return (
        copy.deepcopy(rng.choice(JUNK))
        if rng.random() < 0.9
        else rng.choice([deep(200), doubled(60 - 50 * written_out)])
    )


def tensor_names(model: dict[str, Any]) -> list[str]:
    return [name for name, value in model.items() if isinstance(value, torch.Tensor)]


def change_tensor(rng: random.Random, value: torch.Tensor) -> Any:
    huge = 1 << rng.randint(20, 36)
    return rng.choice([
        lambda: torch.zeros(()),
        lambda: value[:0],
        lambda: value.unsqueeze(0),
        lambda: value.flatten(),
        lambda: value.movedim(0, -1),
        lambda: torch.cat([value, value]),
        lambda: value.to(rng.choice([torch.int64, torch.bool, torch.complex64, torch.uint8])),
        lambda: value.to(rng.choice([torch.float16, torch.bfloat16, torch.float64])),
        lambda: value.to_sparse(),
        lambda: value.to("meta"),
        lambda: torch.zeros(1).expand(huge),
        lambda: torch.zeros(1).expand(value.shape),
        lambda: value[:1].expand(huge, *value.shape[1:]),
        lambda: torch.full_like(value, float("nan")),
        lambda: torch.nn.Parameter(value) if value.is_floating_point() else value,
        lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        lambda: value.t() if value.ndim == 2 else value,
        lambda: value.clone(),
        lambda: junk(rng),
    ])()  # fmt: skip


def change_names(rng: random.Random, model: dict[Any, Any]) -> None:
    name = rng.choice(tensor_names(model))
    value = model[name]
    blocks = next((n for n in model if isinstance(n, str) and "blocks." in n and "decoder" not in n), name)
    start, _, rest = blocks.partition("blocks.")
    inner = rest.partition(".")[2]
    number = rng.choice(["1000000000", "9" * 5000, "-1", "²", "x", "", "20000", "300", "1.5"])
    action = rng.choice(["remove", "rename", "block", "key", "many", "double"])
    if action == "remove":
        del model[name]
    elif action == "rename":
        model[name + rng.choice([".x", "", "é", "\0"])] = model.pop(name)
    elif action == "block":
        model[f"{start}blocks.{number}.{inner}"] = model[blocks]
    elif action == "key":
        model[rng.choice([1, None, ("a",), b"x", 1.5])] = value
    elif action == "many":  # as many blocks as one likes, of tensors that cost nothing
        first = [key for key in tensor_names(model) if key.startswith(f"{start}blocks.0.")]
        for block in range(rng.choice([600, 20_000])):
            model |= {key.replace("blocks.0.", f"blocks.{block}.", 1): model[key] for key in first}
    else:
        model["again " * 3 + name] = value


def change_settings(rng: random.Random, state: dict[str, Any]) -> None:
    holders: list[dict[str, Any]] = []
    waiting: list[Any] = [state.get("cfg"), state.get("extra_state"), state.get("config"), state.get("args")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            holders.append(value)
            waiting += list(value.values())
    known = ["num_heads", "norm_eps", "embed_dim", "depth", "patch_size", "mel_bins", "attention", "positions", "loss",
             "mlp_ratio", "decoder_layers", "decoder_width", "decoder_kernel", "target_length", "norm_mean", "norm_std",
             "prediction_mode", "spectrogram", "img_size", "modalities", "decoder", "eat", "initialised",
             "position_rows",
             "head_norm_eps", "pooling", "activation", "front_end", "clone_batch", "model", "task", "criterion",
             "model_variant", "pretrained_model_args", "time_patches", "drop_path", "n_mels", "sr", "dim",
             "input_shape", "use_gate",
             "hidden_size", "id2label", "classes", "pretraining", "chunk_time_patches"]  # fmt: skip
    for _ in range(rng.randint(1, 3)):
        holder = rng.choice(holders)
        names = [name for name in known if name in holder]
        name = rng.choice(names) if names and rng.random() < 0.8 else rng.choice(known)
        holder[name] = junk(rng, "config" in state)


def change_top(rng: random.Random, state: dict[Any, Any]) -> None:
    state[rng.choice([*state, "last_optimizer_state", "model", "cfg", "extra_state"])] = rng.choice([
        lambda: junk(rng),
        lambda: {"float32_parameters": junk(rng)},
        lambda: {"float32_parameters": [torch.zeros(1).expand(1 << 34)]},
        lambda: {"eat": junk(rng)},
    ])()  # fmt: skip


class Case:
    """A mutated checkpoint: its path, how it was made, and the tensors that it must give where it is loaded."""

    def __init__(self, folder: Path, number: int, seed: int, sources: dict[str, Path]) -> None:
        self.rng = random.Random(f"{seed} {number}")
        self.source = self.rng.choice(list(sources))
        self.kind = self.rng.choice(["tensor", "names", "settings", "settings", "top", "bytes", "zip"])
        self.path = folder / f"case{number}"
        source = sources[self.source]
        self.model: dict[str, Any] | None = None
        if source.is_dir():
            self._mutate_folder(source)
        elif self.kind in ("bytes", "zip"):
            self.path.write_bytes(self._mutate_bytes(source.read_bytes()))
            if self.kind == "zip":
                self._compress(source)
        else:
            state = torch.load(source)
            self._mutate(state, state["model"] if "model" in state else state["encoder"])
            torch.save(state, self.path)
            self.model = state.get("model") if isinstance(state.get("model"), dict) else None

    def _mutate(self, state: dict[str, Any], model: dict[str, Any]) -> None:
        if self.kind == "tensor":
            name = self.rng.choice(tensor_names(model))
            model[name] = change_tensor(self.rng, model[name])
        elif self.kind == "names":
            change_names(self.rng, model)
        elif self.kind == "settings":
            change_settings(self.rng, state)
        else:
            change_top(self.rng, state)

    def _mutate_folder(self, source: Path) -> None:
        shutil.copytree(source, self.path)
        config, weights = self.path / "config.json", self.path / "model.safetensors"
        action = self.rng.choice(
            ["settings", "settings", "nested", "bytes", "cut", "pipe", "zero", "missing", "tensor"]
        )
        if action == "settings":
            state = {"config": json.loads(config.read_text())}
            change_settings(self.rng, state)
            config.write_text(json.dumps(state["config"], default=str))
        elif action == "nested":
            config.write_text(
                self.rng.choice(["[" * 10**5, '{"a":' * 10**5, '{"eat":' + "[" * 1000 + "]" * 1000 + "}", "[]"])
            )
        elif action == "bytes":
            weights.write_bytes(self._mutate_bytes(weights.read_bytes()))
        elif action == "tensor":
            from safetensors.torch import load_file, save_file

            tensors = load_file(weights)
            name = self.rng.choice(list(tensors))
            changed = change_tensor(self.rng, tensors.pop(name))
            if isinstance(changed, torch.Tensor) and changed.numel() < 1 << 20 and changed.layout is torch.strided:
                try:
                    tensors[name] = changed.detach().clone().contiguous()
                    save_file(tensors, weights)
                except (
                    RuntimeError,
                    NotImplementedError,
                    ValueError,
                    KeyError,
                ):  # no numbers, or no type of that format
                    save_file({k: v for k, v in tensors.items() if k != name}, weights)
        elif action == "cut":
            weights.write_bytes(weights.read_bytes()[: self.rng.randint(0, 5000)])
        else:
            target = self.rng.choice([config, weights])
            target.unlink()
            if action == "pipe":
                os.mkfifo(target)
            elif action == "zero":
                target.symlink_to("/dev/zero")

    def _mutate_bytes(self, content: bytes) -> bytes:
        action = self.rng.choice(["flip", "flip", "cut", "pickle"])
        if action == "cut":
            return content[: self.rng.randint(0, len(content) - 1)]
        if action == "pickle":
            return b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR." + content[:100]
        changed = bytearray(content)
        for _ in range(self.rng.choice([1, 10, 1000])):
            changed[self.rng.randrange(len(changed))] ^= self.rng.randint(1, 255)
        return bytes(changed)

    def _compress(self, source: Path) -> None:
        """Compressed members, a pickle of many megabytes, or one that makes memory from a number."""
        action = self.rng.choice(["compressed", "long", "memory", "pipe", "zero"])
        if action in ("pipe", "zero"):
            self.path.unlink()
            os.mkfifo(self.path) if action == "pipe" else self.path.symlink_to("/dev/zero")
            return
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(self.path, "w") as new:
            for member in old.infolist():
                content = old.read(member)
                if member.filename.endswith("data.pkl") and action != "compressed":
                    long = b"\x80\x02" + b"N0" * (1 << 24) + b"}."
                    content = long if action == "long" else b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
                new.writestr(member, content, zipfile.ZIP_DEFLATED if action == "compressed" else zipfile.ZIP_STORED)


def check_loaded(case: Case, model: EAT.EATModel) -> None:
    """Weights are those that the file holds under their names, and features of them are numbers."""
    features = model.extract(torch.linspace(-1, 1, 4000).sin(), granularity="utterance", target_length=32)
    if case.model is None:  # of changed bytes, what the file holds may be anything
        return
    assert torch.isfinite(features).all(), "features that are not finite"
    named = {}
    for name, value in case.model.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            named[name if case.source.startswith("ours") else our_name(name.removeprefix("model."))] = value
    for name, value in model.encoder.state_dict().items():
        if name != "positions.table":
            stored = named[f"encoder.{name}"]
            assert torch.equal(value, stored.detach().float()), f"other numbers in {name}"


def sources(folder: Path) -> dict[str, Path]:
    """A checkpoint of every format, pre-trained and fine-tuned."""
    names = ("official_pretrain.pt", "official_finetune.pt", "hf_pretrain", "hf_finetune", "bat_pretrain.pt")
    found = {name: CONFORMANCE / name for name in names}
    found["bat folder"] = folder / "bat"
    convert(str(found["bat_pretrain.pt"]), str(found["bat folder"]), "bat_huggingface")
    for name in ("official_pretrain.pt", "official_finetune.pt"):
        found[f"ours {name}"] = folder / f"ours_{name}"
        convert(str(found[name]), str(found[f"ours {name}"]), "eat")
    return found


def answer(case: Case) -> str:
    """``loaded``, or the sentence of its refusal. Raises whatever else happens."""
    try:
        model = EAT.load(case.path)
    except EATError as error:
        text = str(error)
        assert text and "Traceback" not in text and "\n" not in text and len(text) < 2000, text[:3000]
        return text
    check_loaded(case, model)
    return "loaded"


def limit_memory() -> None:
    """Leave this process ``MEMORY`` bytes on top of what it has mapped."""
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutated checkpoints: refused in a sentence, or loaded right.")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one case, with its traceback")
    args = parser.parse_args()
    torch.set_num_threads(1)
    faults, slowest, loaded = 0, 0.0, 0
    say: Callable[[str], None] = lambda text: print(text, flush=True)  # noqa: E731
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = sources(folder)
        EAT.load(kinds["hf_finetune"]).extract(torch.zeros(4000), target_length=32)  # all that is imported late
        limited = False
        for number in range(args.count) if args.only is None else [args.only]:
            faulthandler.dump_traceback_later(60, exit=True)
            case = Case(folder, number, args.seed, kinds)
            if not limited:
                limit_memory()
                limited = True
            before, began = time.process_time(), time.perf_counter()
            try:
                result = answer(case)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # what a hostile file makes of a reader has no limits
                if args.only is not None:
                    raise
                result, faults = f"FAULT {type(error).__name__}: {str(error)[:300]}", faults + 1
            seconds = time.process_time() - before
            if seconds > SECONDS:
                result, faults = f"FAULT took {seconds:.1f} s: {result[:200]}", faults + 1
            slowest, loaded = max(slowest, seconds), loaded + (result == "loaded")
            wall, said = time.perf_counter() - began, result.replace(name, "")[:150]
            say(f"{number:4d} {case.source:28s} {case.kind:9s} {seconds:6.2f} s ({wall:.2f}) {said}")
            shutil.rmtree(case.path) if case.path.is_dir() else case.path.unlink(missing_ok=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(f"{args.count} checkpoints: {loaded} loaded, {args.count - loaded - faults} refused, {faults} faults; "
        f"slowest {slowest:.2f} s, peak {peak:.0f} MB")  # fmt: skip
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
