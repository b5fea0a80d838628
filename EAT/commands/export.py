"""``python -m EAT.export CKPT OUT.onnx``: a trained model as ONNX, for runtimes without PyTorch.

The graph begins at the filterbank, (batch, 1, frames, 128) normalised float32, and both its axes ``batch`` and
``frames`` are dynamic (frames in multiples of 16). What precedes it is described in the file's metadata:
``norm_mean``, ``norm_std``, ``sample_rate``, ``activation``, and ``classes``, a list of [name, display name] in JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from ..checkpoint.classes import to_notes
from ..errors import ConfigError
from ..files import replacing
from ..inference.model import EATModel, check_model, load
from ..network.classifier import Classifier
from ..progress import waiting
from .command_line import described, exit_status
from .options import add_flags

OPSET = 18


class _Outputs(nn.Module):
    """(B, 1, frames, 128) to what the file offers: features, and logits of a fine-tuned model."""

    def __init__(self, model: EATModel) -> None:
        super().__init__()
        self.network = model.network

    def forward(self, filterbank: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the outputs."""
        if isinstance(self.network, Classifier):
            tokens = self.network.encoder(filterbank).tokens
            return tokens, self.network.classify(tokens)
        return self.network(filterbank).tokens


def _onnx() -> ModuleType:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError("ONNX export needs onnx and onnxscript: pip install 'eat-audio[onnx]'.") from None
    return onnx


def export_onnx(model: EATModel, path: str | os.PathLike[str], check: bool = True) -> None:
    """Write a model as ONNX.

    Outputs: ``features`` (batch, 1 + N, D), CLS first; for a fine-tuned model also ``logits`` (batch, classes).

    Args:
        model: a loaded model, in float32.
        path: the file to write.
        check: run it in onnxruntime and compare, at two lengths and batch sizes.

    Raises:
        ConfigError: where onnx, onnxscript or (for the check) onnxruntime is not installed, the model is in half
            precision, or the check fails.
        DataError: where the file cannot be written.
    """
    check_model(model)
    onnx = _onnx()
    if model.encoder.cls_token.dtype != torch.float32:
        raise ConfigError("export a model in float32; call .float() first.")
    outputs = _Outputs(model).eval()
    names = ["features", "logits"] if model.num_classes is not None else ["features"]
    size, bins = model.patch_size, model.front_end.bins
    example = torch.zeros(2, 1, 10 * size, bins, device=model.device)
    batch = torch.export.Dim("batch", min=1, max=4096)
    steps = torch.export.Dim("steps", min=1, max=model.encoder.max_frames // size)
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "model.onnx")
        torch.onnx.export(
            outputs,
            (example,),
            target,
            input_names=["filterbank"],
            output_names=names,
            dynamic_shapes=({0: batch, 2: size * steps},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        content = onnx.load(target)
    front_end = model.front_end
    onnx.helper.set_model_props(
        content,
        {
            "sample_rate": str(model.front_end.sample_rate),
            "norm_mean": repr(front_end.norm_mean),
            "norm_std": repr(front_end.norm_std),
            "target_length": str(front_end.target_length),
            "activation": model.activation if model.num_classes is not None else "",
            "classes": json.dumps(to_notes(model.classes or ())["classes"]),
        },
    )
    serialised = content.SerializeToString()
    if check:
        _check(serialised, outputs, model)
    with replacing(path, "wb") as handle:
        handle.write(serialised)


@torch.inference_mode()
def _check(serialised: bytes, outputs: nn.Module, model: EATModel) -> None:
    """Raise ConfigError unless onnxruntime computes what PyTorch does."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(
            "checking the export needs onnxruntime: pip install 'eat-audio[onnx]', or use --no-check."
        ) from None
    session = onnxruntime.InferenceSession(serialised, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for clips, steps in ((1, 3), (3, 20)):
        filterbank = torch.randn(clips, 1, steps * model.patch_size, model.front_end.bins, generator=generator)
        expected = outputs(filterbank.to(model.device))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for ours, theirs in zip(expected, session.run(None, {"filterbank": filterbank.numpy()}), strict=True):
            difference = float((ours.cpu() - torch.from_numpy(theirs)).abs().max())
            if not difference < 1e-3:
                raise ConfigError(
                    f"the exported graph differs from the model by {difference:g} for {clips} clips of "
                    f"{steps * model.frequency_patches} patches; try another version of onnxscript or onnxruntime."
                )


EXAMPLES = """
python -m EAT.export finetuned.pt eat.onnx
python -m EAT.export EAT-base-hf eat.onnx --no-check
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.export"),
        "A trained model as ONNX, from the filterbank on, for any batch and length.",
        EXAMPLES,
    )
    top.add_argument("checkpoint", metavar="CKPT", help="a checkpoint of any format")
    top.add_argument("output", metavar="OUT", help="the .onnx file to write")
    add_flags(top, "--weights")
    top.add_argument("--no-check", action="store_true", help="do not compare with PyTorch in onnxruntime")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 0 or 2."""
    options = parser().parse_args(arguments)
    # The exporter talks of packages that are not installed and of its own deprecations.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    return exit_status(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Export and say what was written; returns 0. Raises EATError."""
    model = load(options.checkpoint, weights=options.weights)
    with waiting("exporting"):
        export_onnx(model, options.output, check=not options.no_check)
    size = Path(options.output).stat().st_size / 1e6
    outputs = "features, logits" if model.num_classes is not None else "features"
    shape = f"(batch, 1, frames, {model.front_end.bins})"
    print(f"{options.output}: {size:.1f} MB; input filterbank {shape}; outputs {outputs}")
    return 0
