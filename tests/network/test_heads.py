"""Heads and their losses against the outputs of BAT's published probes, on the features of its conformance model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from EAT.errors import ConfigError
from EAT.network.classification_losses import asymmetric, bce_mean, bce_sum
from EAT.network.classifier import Classifier
from EAT.network.heads import HEADS
from EAT.network.settings import ClassifierSettings

from ..published import BAT_SIZES, published_bat

PROBES = {
    "cgp_cls": {"head": "cgp"},
    "cgp_mean": {"head": "cgp", "pooling": "mean"},
    "cgp_frame": {"head": "cgp"},
    "linear": {},
    "linear_frame": {},
    "lcgp": {"head": "lcgp"},
}
OURS = {
    "prototype_vectors": "head.prototypes",
    "block_attention": "head.layers",
    "ln": "head.norm",
    "fc": "head.fc",
}
LINEAR = {"ln": "norm", "fc": "head"}


@pytest.fixture(scope="module")
def stored(conformance: Path) -> dict[str, Tensor]:
    with np.load(conformance / "bat_probe.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture(scope="module")
def mel(conformance: Path) -> Tensor:
    with np.load(conformance / "bat_pretrain_io.npz") as file:
        return torch.from_numpy(file["mel"])


@pytest.fixture(scope="module")
def losses(conformance: Path) -> dict:
    return json.loads((conformance / "bat_expected.json").read_text())["probe_losses"]


def our_name(probe: str, name: str) -> str:
    first, _, rest = name.partition(".")
    table = LINEAR if probe.startswith("linear") else OURS
    return table[first] + (f".{rest}" if rest else "")


def build(conformance: Path, **settings: object) -> Classifier:
    """A classifier whose frozen encoder is the conformance model's."""
    sizes = {name: value for name, value in BAT_SIZES.items() if name in ClassifierSettings.__dataclass_fields__}
    classifier = Classifier(ClassifierSettings(**sizes, num_classes=5, head_prototypes=24, **settings))
    classifier.encoder.load_state_dict(published_bat(conformance).encoder.state_dict())
    classifier.encoder.requires_grad_(False)
    return classifier


def tensors(stored: dict[str, Tensor], probe: str, prefix: str = "") -> dict[str, Tensor]:
    """A stored probe's tensors under our names."""
    start = f"{probe}.{prefix}"
    names = (name.removeprefix(start) for name in stored if name.startswith(start))
    own = [name for name in names if not name.startswith(("grad.", "after_", "logits"))]
    return {our_name(probe, name): stored[start + name].flatten(2).squeeze(-1) if stored[start + name].ndim == 4
            else stored[start + name] for name in own}  # fmt: skip


def published_probe(conformance: Path, stored: dict[str, Tensor], probe: str) -> Classifier:
    classifier = build(conformance, **PROBES[probe])
    missing, unexpected = classifier.load_state_dict(tensors(stored, probe), strict=False)
    assert not unexpected and all(name.startswith("encoder.") for name in missing)
    return classifier


def mean(loss: tuple[Tensor, Tensor | int]) -> Tensor:
    return loss[0] / loss[1]


@pytest.mark.parametrize("probe", PROBES)
def test_logits_losses_and_gradients(
    conformance: Path, stored: dict[str, Tensor], losses: dict, mel: Tensor, probe: str
) -> None:
    classifier = published_probe(conformance, stored, probe)
    frame_wise = probe.endswith("frame")
    logits = classifier.frames(mel) if frame_wise else classifier(mel)
    torch.testing.assert_close(logits.detach(), stored[f"{probe}.logits"], rtol=0, atol=1e-5)
    labels, soft = (
        stored[name][:, None].expand_as(logits) if frame_wise else stored[name] for name in ("labels", "labels_soft")
    )
    assert mean(bce_mean(logits, labels)).item() == pytest.approx(losses[probe]["bce"], rel=1e-5)
    assert mean(asymmetric(logits, labels)).item() == pytest.approx(losses[probe]["asymmetric"], rel=1e-5)
    loss = mean(asymmetric(logits, soft))
    assert loss.item() == pytest.approx(losses[probe]["asymmetric_soft"], rel=1e-5)
    loss.backward()
    gradients = {name: p.grad for name, p in classifier.named_parameters() if p.grad is not None}
    wanted = tensors(stored, probe, "grad.")
    assert gradients.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(gradients[name], value, rtol=0, atol=1e-4 * value.abs().max().item(), msg=name)


def test_three_updates(conformance: Path, stored: dict[str, Tensor], losses: dict, mel: Tensor) -> None:
    classifier = published_probe(conformance, stored, "cgp_cls")
    trained = [p for name, p in classifier.named_parameters() if p.requires_grad and name != "head.fc.weight"]
    groups = [{"params": trained, "weight_decay": 0.0}, {"params": [classifier.head.fc.weight], "weight_decay": 0.05}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    for rate, wanted in losses["cgp_cls_updates"]["rows"]:
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = mean(asymmetric(classifier(mel), stored["labels"]))
        assert loss.item() == pytest.approx(wanted, rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = classifier.state_dict()
    for name, value in tensors(stored, "cgp_cls", "after_3.").items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-5, msg=name)


def test_asymmetric_by_hand() -> None:
    logits, targets = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    p = 1 / (1 + np.exp(-np.array([2.0, -1.0])))
    wanted = -(np.log(p[0]) + p[1] * np.log(1 - p[1]))  # a negative weighs as much as it is believed
    total, count = asymmetric(logits, targets)
    assert (total.item(), count) == (pytest.approx(wanted, rel=1e-6), 2)
    assert asymmetric(torch.tensor([[-200.0]]), torch.ones(1, 1))[0].item() == pytest.approx(-np.log(1e-8), rel=1e-6)
    assert mean(bce_mean(logits, targets)) == bce_sum(logits, targets)[0] / 2


@pytest.mark.parametrize(("head", "pooling"), [(h, p) for h in HEADS for p in ("cls", "mean")] + [("linear", "mean")])
def test_what_is_not_heard_does_not_count(conformance: Path, mel: Tensor, head: str, pooling: str) -> None:
    torch.manual_seed(0)
    classifier = build(conformance, head=head, pooling=pooling).eval()
    short = classifier(mel[:, :, :512])
    heard = torch.ones(2, 513, dtype=torch.bool)
    heard[:, 257:] = False
    assert torch.allclose(classifier(mel, heard), short, atol=1e-5)
    assert not torch.allclose(classifier(mel), short, atol=1e-3)


def test_an_attentive_head_by_hand(conformance: Path, mel: Tensor) -> None:
    torch.manual_seed(0)
    classifier = build(conformance, head="attentive").eval()
    head = classifier.head
    torch.nn.init.normal_(head.layers)
    torch.nn.init.normal_(head.query)
    blocks = classifier.encoder(mel, collect=True).blocks[1:]
    tokens = torch.stack([b[:, 1:] for b in blocks], dim=1)  # (B, L, N, D)
    tokens = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    key, value = (tokens @ head.kv.weight.t() + head.kv.bias).chunk(2, dim=-1)
    found = []
    for part in range(4):
        columns = slice(16 * part, 16 * part + 16)
        logits = (key[..., columns] * head.query[columns]).sum(-1) / 4 + head.layers[:, None]
        share = logits.flatten(1).softmax(dim=1)
        found.append((share[..., None] * value[..., columns].flatten(1, 2)).sum(dim=1))
    wanted = head.fc(head.norm(head.proj(torch.cat(found, dim=-1))))
    torch.testing.assert_close(classifier(mel), wanted, rtol=1e-4, atol=1e-5)
    one_step = classifier.frames(mel[:, :, :16])
    torch.testing.assert_close(one_step[:, 0], classifier(mel[:, :, :16]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["linear", *HEADS])
def test_dropout_acts_in_training_alone_and_heads_learn(conformance: Path, mel: Tensor, head: str) -> None:
    torch.manual_seed(0)
    classifier = build(conformance, head=head, head_dropout=0.5)
    assert not torch.equal(classifier(mel), classifier(mel))
    classifier.eval()
    assert torch.equal(classifier(mel), classifier(mel))
    optimizer = torch.optim.AdamW([p for p in classifier.parameters() if p.requires_grad], lr=0.01)
    labels = torch.eye(5)[:2]
    first = mean(asymmetric(classifier(mel), labels)).item()
    for _ in range(30):
        optimizer.zero_grad()
        loss = mean(asymmetric(classifier(mel), labels))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * first


def test_settings_that_make_no_head(conformance: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.head is 'gcp'; it must be one of linear, cgp, lcgp, attentive"):
        build(conformance, head="gcp")
    with pytest.raises(ConfigError, match="pools by 'cls', 'mean' or 'steps'"):
        build(conformance, head="cgp", pooling="linear_softmax")
    with pytest.raises(ConfigError, match=r"head_dropout is 1\.0"):
        build(conformance, head_dropout=1.0)
