"""Invariants of the pre-training network that no conformance number covers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from EAT.network.acceleration import plain
from EAT.network.block import DropPath
from EAT.network.encoder import Encoder
from EAT.network.masking import Masks, inverse_block
from EAT.network.objective import Comparison, averaged_targets, mean_distance, utterance_loss
from EAT.network.patches import Grid
from EAT.network.pretraining import Pretraining
from EAT.network.random import clone_keys
from EAT.network.rows import put_rows, take_rows
from EAT.network.settings import MaskSettings, PretrainingSettings
from EAT.network.teacher import Teacher

from ..tiny import NETWORK

TINY = PretrainingSettings(
    **{**NETWORK, "ema_decay": 0.9, "ema_end_decay": 0.99, "ema_anneal_updates": 10, "clone_batch": 3}
)


def test_patches_are_time_major() -> None:
    encoder = Encoder(TINY)
    x = torch.randn(2, 1, 64, 128)
    kernel, bias = encoder.patches.projection.weight.flatten(1), encoder.patches.projection.bias
    for patch, (time, frequency) in ((0, (0, 0)), (3, (0, 3)), (8, (1, 0)), (29, (3, 5))):
        cut = x[:, 0, 16 * time : 16 * time + 16, 16 * frequency : 16 * frequency + 16].flatten(1)
        torch.testing.assert_close(encoder.patches(x)[:, patch], cut @ kernel.T + bias, rtol=1e-4, atol=1e-5)


def test_rows_are_taken_and_put_sequence_by_sequence() -> None:
    x = torch.arange(2 * 4).float().view(2, 4, 1)
    index = torch.tensor([[0, 3], [2, 1]])
    assert take_rows(x, index).squeeze(-1).tolist() == [[0, 3], [6, 5]]
    taken = x.clone().requires_grad_()
    take_rows(taken, torch.tensor([[0, 3], [1, 2]])).backward(torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]))
    assert taken.grad is not None and taken.grad.squeeze(-1).tolist() == [[1, 0, 0, 2], [0, 3, 4, 0]]
    put = put_rows(torch.zeros(2, 4, 1), index, torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]))
    assert put.squeeze(-1).tolist() == [[1, 0, 0, 2], [0, 4, 3, 0]]


def test_masked_tokens_do_not_reach_the_student() -> None:
    torch.manual_seed(0)
    encoder = Encoder(TINY).eval()
    x = torch.randn(1, 1, 128, 128)
    masks = inverse_block(MaskSettings(), Grid(8, 8), clone_keys(1, 1, torch.tensor([5]), 2))
    before = encoder(x, masks.visible).tokens
    changed = x.clone()
    for place in set(range(64)) - set(masks.visible[0, 0].tolist()):
        time, frequency = divmod(place, 8)
        changed[..., time * 16 : time * 16 + 16, frequency * 16 : frequency * 16 + 16] += 1.0
    after = encoder(changed, masks.visible).tokens
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_a_key_mask_hides_padding() -> None:
    encoder = Encoder(TINY).eval()
    short = torch.randn(1, 1, 64, 128)
    padded = torch.cat([short, torch.randn(1, 1, 64, 128)], dim=2)
    key_mask = torch.arange(1 + 64)[None] < 1 + 32
    torch.testing.assert_close(
        encoder(padded, key_mask=key_mask).tokens[:, :33], encoder(short).tokens, rtol=1e-4, atol=1e-5
    )


def test_targets_by_hand() -> None:
    # One block, two patches after CLS, two channels: instance norm gives -1 and 1 per channel, LayerNorm over
    # channels of equal values gives 0.
    output = torch.tensor([[[9.0, 9.0], [0.0, 10.0], [4.0, 20.0]]])
    targets = averaged_targets([output])
    torch.testing.assert_close(targets, torch.zeros(1, 2, 2), rtol=0, atol=1e-3)
    opposed = torch.tensor([[[9.0, 9.0], [0.0, 20.0], [4.0, 10.0]]])
    torch.testing.assert_close(
        averaged_targets([opposed]), torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]]), rtol=0, atol=1e-4
    )


def test_distances_by_hand() -> None:
    a, b = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.0, 0.0, 3.0, 1.0]])
    assert mean_distance(a, b, torch.ones(1).bool()).item() == (1 + 4 + 0 + 9) / 2
    clones = torch.tensor([[[2.0] * 4, [4.0] * 4]])
    masks = Masks(torch.zeros(1, 1, 0).long(), torch.zeros(1, 1, 1).long())
    comparison = Comparison(a, b, clones, {"utterance": torch.full((1, 4), 2.0)}, masks, *[torch.ones(1, 1).bool()] * 2)
    assert utterance_loss(comparison).item() == (0 + 4 * 4 / 2) / 2


def test_the_average_is_float32_and_exact_whatever_the_student_is() -> None:
    torch.manual_seed(0)
    model = Pretraining(TINY)
    wanted = {name: value.double() for name, value in model.teacher.average.items()}
    model.bfloat16()
    assert {p.dtype for p in model.teacher.encoder.parameters()} == {torch.bfloat16}
    assert {v.dtype for v in model.teacher.average.values()} == {torch.float32}
    assert model.encoder.positions.table.dtype == torch.float32
    for update in range(1, 15):
        masters = {f"encoder.{name}": torch.randn_like(value) for name, value in model.teacher.average.items()}
        decay = model.update_teacher(update, masters)
        assert decay == pytest.approx(0.99 - 0.09 * max(0.0, 1 - update / 10))
        for name in wanted:
            wanted[name] = decay * wanted[name] + (1 - decay) * masters[f"encoder.{name}"].double()
    for name, value in model.teacher.average.items():
        torch.testing.assert_close(value.double(), wanted[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(dict(model.teacher.encoder.named_parameters())[name], value.bfloat16())


def test_the_teacher_is_no_part_of_the_module_but_of_its_state() -> None:
    model = Pretraining(TINY)
    model.update_teacher(1, {f"encoder.{n}": v + 1 for n, v in model.teacher.average.items()})
    assert not [name for name, _ in model.named_parameters() if "teacher" in name]
    state = copy.deepcopy(model.state_dict())
    other = Pretraining(TINY)
    other.load_state_dict(state)
    for name, value in model.teacher.average.items():
        assert torch.equal(other.teacher.average[name], value)
        assert torch.equal(dict(other.teacher.encoder.named_parameters())[name], value)
    del state["teacher.cls_token"]
    with pytest.raises(RuntimeError, match=r"teacher\.cls_token"):
        other.load_state_dict(state)


def test_teacher_does_not_share_memory_with_the_student() -> None:
    encoder = Encoder(TINY)
    teacher = Teacher(encoder, TINY)
    before = teacher.average["cls_token"].clone()
    with torch.no_grad():
        encoder.cls_token.add_(1)
    assert torch.equal(teacher.average["cls_token"], before)


def test_losses_follow_from_seed_epoch_and_clips_alone() -> None:
    torch.manual_seed(0)
    model = Pretraining(TINY)
    x = torch.randn(2, 1, 128, 128)

    def losses(clips: list[int], seed: int, epoch: int) -> tuple[float, float]:
        terms = model(model.draw(x, clips, seed=seed, epoch=epoch)).terms
        return terms["frame"].item(), terms["utterance"].item()

    first = losses([3, 9], 1, 1)
    torch.rand(100)  # whatever else drew random numbers
    assert losses([3, 9], 1, 1) == first
    for other in (losses([3, 8], 1, 1), losses([3, 9], 2, 1), losses([3, 9], 1, 2)):
        assert other[0] != first[0] and other[1] != first[1]


def test_drop_path_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    out = layer(torch.ones(20000, 3))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (out[:, :1] == out).all()
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(layer.eval()(torch.ones(2, 3)), torch.ones(2, 3))


ATOMIC = ("index_add", "scatter_add", "index_put", "embedding_dense_backward", "put_", "cumsum", "scatter_reduce")
"""Operations whose sums a GPU adds up in no fixed order."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_of_a_step_is_added_up_in_an_order_left_to_chance(dtype: torch.dtype) -> None:
    """Counted on the CPU's plain network, whose operations are a GPU's."""
    names = set()

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.add(function.__name__)
            return function(*args, **(kwargs or {}))

    model = Pretraining(TINY).to(dtype)
    batch = model.draw(torch.randn(2, 1, 128, 128), [3, 9], seed=1, epoch=1)
    with plain(), Names():
        sum(model(batch).terms.values(), torch.zeros(())).backward()
    assert "index_select.default" in names and "index_copy_.default" in names
    assert not [name for name in names if name.startswith(ATOMIC)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_teacher_stays_where_the_device_says_that_an_update_is_bad(dtype: torch.dtype) -> None:
    """And moves as ever, bit by bit, where it says that the update is none."""
    averages = []
    for bad in (None, torch.zeros(()), torch.ones(())):
        torch.manual_seed(0)
        model = Pretraining(TINY).to(dtype)
        averages.append([{name: value.clone() for name, value in model.teacher.average.items()}])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        model.update_teacher(1, None, bad)
        averages[-1].append(model.teacher.average)
    (_, ever), (_, good), (before, after) = averages
    for name, value in ever.items():
        assert torch.equal(good[name], value) and torch.equal(after[name], before[name])
        assert not torch.equal(value, before[name])
