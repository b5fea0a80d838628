"""A trained model as an ONNX graph, from the filterbank or from the waveform on, for any batch and length.

What precedes the graph, and what its logits mean, is described in the file's metadata: ``spectrogram``,
``sample_rate``, ``norm_mean``, ``norm_std``, ``target_length``, ``activation``, and ``classes``, a list of [name,
display name] in JSON.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoint.classes import to_notes
from ..errors import ConfigError
from ..files import replacing
from ..inference.model import EATModel, check_model
from ..network.classifier import Classifier
from ..network.front_end import FFT_SIZE, FrontEnd
from ..network.settings import choose

OPSET = 18
Integral.register(torch.SymInt)  # lengths that a graph leaves open pass where settings ask for whole numbers


class FromFilterbank(nn.Module):
    """Normalised filterbanks (batch, 1, frames, 128) to features, and to logits where there is a head.

    Frames come in multiples of 16, as far as positions reach.
    """

    inputs = ("filterbank",)
    tolerance = 1e-3

    def __init__(self, model: EATModel) -> None:
        super().__init__()
        self.model = model
        self.outputs = ["features", "logits"] if model.num_classes is not None else ["features"]

    def forward(self, filterbank: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the outputs."""
        network = self.model.network
        if isinstance(network, Classifier):
            return network.tokens_and_logits(filterbank)
        return network(filterbank).tokens

    def examples(self, clips: int, steps: int) -> tuple[Tensor, ...]:
        """Inputs of so many clips and time steps."""
        generator = torch.Generator().manual_seed(0)
        frames = steps * self.model.patch_size
        return (torch.randn(clips, 1, frames, self.model.front_end.bins, generator=generator),)

    def dimensions(self) -> tuple[dict[int, Any], ...]:
        """The axes that may have any length."""
        size = self.model.patch_size
        steps = torch.export.Dim("steps", min=1, max=self.model.encoder.chunk_frames // size)
        return ({0: _batch(), 2: size * steps},)


class FromWaveform(nn.Module):
    """Mono waveforms (batch, samples) at 16 kHz in [-1, 1] and their ``lengths`` in samples, (batch,), to one output.

    A classifier gives ``scores``, each clip padded or cut to the length it was trained with, as
    :meth:`EAT.inference.model.EATModel.scores` does; a pre-trained model ``features`` (batch, 1 + N, D), CLS first, of
    the longest clip's length rounded up to whole patches.
    """

    inputs = ("waveform", "lengths")
    tolerance = 1e-4

    def __init__(self, model: EATModel) -> None:
        super().__init__()
        self.model = model
        self.outputs = ["scores"] if model.num_classes is not None else ["features"]

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Compute the output."""
        front_end, network, size = self.model.front_end, self.model.network, self.model.patch_size
        room = front_end.target_length
        if not isinstance(network, Classifier):
            steps = 1 + torch.sym_max(0, waveform.shape[1] - front_end.window) // front_end.hop // size
            front_end, room = replace(front_end, target_length=steps * size), size + 1
        samples, more = front_end.samples_for(front_end.target_length), front_end.samples_for(room)
        # Padded beyond what is needed and then cut, so that no branch depends on the length.
        filled = torch.cat([waveform, waveform.new_zeros(waveform.shape[0], more)], dim=1)[:, :samples]
        filterbank = front_end(filled, lengths.clamp(max=samples))
        if not isinstance(network, Classifier):
            return network(filterbank).tokens
        logits = network(filterbank)
        return logits.softmax(dim=-1) if self.model.activation == "softmax" else logits.sigmoid()

    def examples(self, clips: int, steps: int) -> tuple[Tensor, ...]:
        """Inputs of so many clips and time steps; the first clip fills the row, the others end earlier."""
        samples = self.model.front_end.samples_for(steps * self.model.patch_size)
        waveform = 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))
        return waveform, samples - torch.arange(clips) * (samples // (2 * clips))

    def dimensions(self) -> tuple[dict[int, Any], ...]:
        """The axes that may have any length."""
        most = self.model.front_end.samples_for(self.model.encoder.chunk_frames)
        return ({0: _batch(), 1: torch.export.Dim("samples", min=1, max=most)}, {0: _batch()})


GRAPHS: dict[str, type[FromFilterbank] | type[FromWaveform]] = {"filterbank": FromFilterbank, "waveform": FromWaveform}
"""Where a graph may begin."""


def _batch() -> Any:
    return torch.export.Dim("batch", min=1, max=4096)


def _onnx() -> ModuleType:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError("ONNX export needs onnx and onnxscript: pip install 'eat-audio[onnx]'.") from None
    return onnx


def export_onnx(
    model: EATModel,
    path: str | os.PathLike[str],
    check: bool = True,
    start: str = "filterbank",
    int8: bool = False,
) -> None:
    """Write a model as ONNX.

    Args:
        model: a loaded model, in float32.
        path: the file to write.
        check: run it in onnxruntime and compare, at two lengths and batch sizes.
        start: where the graph begins, a name of :data:`GRAPHS`, whose classes say what goes in and comes out.
        int8: store the weights of the blocks' matrix products in 8 bits and compute those in integers. How far that
            is from the model is not checked.

    Raises:
        ConfigError: where onnx, onnxscript or (for the check, or 8 bits) onnxruntime is not installed, the model is in
            half precision, or the check fails.
        DataError: where the file cannot be written.
    """
    check_model(model)
    onnx = _onnx()
    if model.encoder.cls_token.dtype != torch.float32:
        raise ConfigError("export a model in float32; call .float() first.")
    if start == "waveform" and type(model.front_end) is not FrontEnd:
        raise ConfigError(
            f"the front end {model.front_end.name!r} has no graph from the waveform on; export from the filterbank."
        )
    graph = choose(GRAPHS, start, "start")(model).eval()
    examples = tuple(example.to(model.device) for example in graph.examples(2, 10))
    with torch.no_grad():
        graph(*examples)  # the front end keeps its constants from the first call on, which must be a real one
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "model.onnx")
        torch.onnx.export(
            graph,
            examples,
            target,
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            dynamic_shapes=graph.dimensions(),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        content = onnx.load(target)
        _describe(onnx, content, model)
        if check:
            _check(content.SerializeToString(), graph)
        if int8:
            content = _in_8_bits(onnx, content, Path(folder))
    with replacing(path, "wb") as handle:
        handle.write(content.SerializeToString())


def _describe(onnx: ModuleType, content: Any, model: EATModel) -> None:
    front_end = model.front_end
    properties = {
        "spectrogram": front_end.name,
        "sample_rate": str(front_end.sample_rate),
        "norm_mean": repr(front_end.norm_mean),
        "norm_std": repr(front_end.norm_std),
        "target_length": str(front_end.target_length),
        "activation": model.activation if model.num_classes is not None else "",
        "classes": json.dumps(to_notes(model.classes or ())["classes"]),
    }
    onnx.helper.set_model_props(content, properties)


def _runtime(why: str) -> ModuleType:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"{why} needs onnxruntime: pip install 'eat-audio[onnx]'.") from None
    return onnxruntime


def _in_8_bits(onnx: ModuleType, content: Any, folder: Path) -> Any:
    """The graph with the weights of its Linear layers in 8 bits; the front end's products stay in float32."""
    _runtime("8 bits")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    mel = [FFT_SIZE // 2 + 1, FrontEnd.bins]
    spectral = {tensor.name for tensor in content.graph.initializer if list(tensor.dims) == mel}
    kept = [node.name for node in content.graph.node if node.op_type == "MatMul" and spectral & set(node.input)]
    source, target = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(content, source)
    quantize_dynamic(
        source, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"], nodes_to_exclude=kept,
        per_channel=True,
    )  # fmt: skip
    quantised = onnx.load(target)
    onnx.helper.set_model_props(quantised, {entry.key: entry.value for entry in content.metadata_props})
    return quantised


@torch.inference_mode()
def _check(serialised: bytes, graph: FromFilterbank | FromWaveform) -> None:
    """Raise ConfigError unless onnxruntime computes what PyTorch does."""
    runtime = _runtime("checking the export, which --no-check leaves out,")
    session = runtime.InferenceSession(serialised, providers=["CPUExecutionProvider"])
    for clips, steps in ((1, 3), (3, 20)):
        inputs = graph.examples(clips, steps)
        expected = graph(*(value.to(graph.model.device) for value in inputs))
        expected = expected if isinstance(expected, tuple) else (expected,)
        fed: dict[str, NDArray[Any]] = dict(zip(graph.inputs, (value.numpy() for value in inputs), strict=True))
        for ours, theirs in zip(expected, session.run(None, fed), strict=True):
            difference = float(np.abs(ours.cpu().numpy() - theirs).max())
            if not difference < graph.tolerance:
                raise ConfigError(
                    f"the exported graph differs from the model by {difference:g} for {clips} clips of {steps} time "
                    "steps; try another version of onnxscript or onnxruntime."
                )
