"""Figures of events: worked out by hand, and the frame-wise average precision by scikit-learn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

import EAT
from EAT.checkpoint import eat
from EAT.checkpoint.contents import Contents
from EAT.data.events import Event
from EAT.data.labels import Label
from EAT.errors import CheckpointError, ConfigError
from EAT.inference.event_metrics import Finding, ScoredClip, found_events, measure_events, scored_clip, step_edges
from EAT.network.classifier import Classifier
from EAT.network.front_end import Decibels, FrontEnd
from EAT.network.settings import ClassifierSettings

LABELS = [Label(0, "dog", "Dog"), Label(1, "bell", "Bell"), Label(2, "never", "Never")]


def clip(active: dict[int, list[tuple[int, int, float]]], events: list[Event], steps: int = 20) -> ScoredClip:
    """A clip of steps of 0.5 s, with scores from one step to before another, 0.1 elsewhere."""
    scores = np.full((steps, 3), 0.1)
    for label, runs in active.items():
        for first, end, score in runs:
            scores[first:end, label] = score
    return ScoredClip(scores, steps * 0.5, events)


CLIPS = [
    # Found from 0.75 s to 2.75 s: half a second too long at its end, for segments 0, 1 and 2 as it is.
    clip({0: [(2, 6, 0.9)], 1: [(10, 12, 0.8)]}, [Event(0.75, 2.25, 0), Event(4.75, 5.75, 1)]),
    # A dog where there is none, from 7.75 s to 8.75 s; a bell that is missed.
    clip({0: [(16, 18, 0.7)]}, [Event(1.0, 2.0, 1)]),
]


def test_edges_lie_half_a_step_around_a_step_s_moment() -> None:
    assert step_edges(4, 0.5, 2.0).tolist() == [0.0, 0.25, 0.75, 1.25, 2.0]
    assert step_edges(1, 0.5, 0.1).tolist() == [0.0, 0.25]


def test_events_are_found_where_smoothed_scores_pass_the_threshold() -> None:
    scores = CLIPS[0].scores.copy()
    scores[14, 0] = 0.9  # a lone step
    edges = step_edges(20, 0.5, 10.0)
    assert found_events(scores, edges, Finding(0.5, 3)) == [Event(0.75, 2.75, 0), Event(4.75, 5.75, 1)]
    assert Event(6.75, 7.25, 0) in found_events(scores, edges, Finding(0.5, 1))
    assert found_events(scores, edges, Finding(0.85, 3)) == [Event(0.75, 2.75, 0)]


def test_figures_by_hand() -> None:
    pytest.importorskip("sed_scores_eval")
    found = measure_events(CLIPS, LABELS, 0.5, Finding(0.5, 3))
    # Segments of 1 s. Dog: truth {0, 1, 2}, found {0, 1, 2} and in the second clip {7, 8}. Bell: truth {4, 5} and {1},
    # found {4, 5}. Right 5, found 7, true 6: F1 = 10 / 13.
    assert found.segment_f1 == pytest.approx(10 / 13)
    assert found.per_class["segment F1"][:2] == pytest.approx([6 / 8, 4 / 5])
    # Onsets within 200 ms: dog 1 of 1 true and 2 found, bell 1 of 2 true and 1 found: 2 right of 3 found, 3 true.
    assert found.onset_f1 == pytest.approx(2 / 3)
    # PSDS1, intersections of 0.7: the dog is found for 2 s, 1.5 of them it, and wholly. Its true positive rate is 1
    # without false positives (threshold above 0.7), the bell's 1/2 up to where all is found. In two clips of 10 s
    # one false positive is 180 an hour, beyond 100. So 1 and 1/2: their mean less their deviation, 3/4 - 1/4.
    assert found.psds["PSDS1"] == pytest.approx(0.75 - 0.25)
    assert found.per_class["PSDS1"][:2] == pytest.approx([1.0, 0.5])
    # PSDS2, intersections of 0.1: where everything is found, the missed bell is 1 s of a detection of 10 s.
    assert found.psds["PSDS2"] == pytest.approx(1.0)
    # Steps of 0.5 s, true at their beginning: dog 2, 3, 4 of the first clip; bell 10, 11 of the first, 2, 3, 4 of the
    # second.
    truth = np.zeros((40, 2), int)
    truth[[2, 3, 4], 0], truth[[10, 11, 22, 23, 24], 1] = 1, 1
    scores = np.concatenate([c.scores for c in CLIPS])[:, :2]
    assert found.per_class["AP"][:2] == pytest.approx(average_precision_score(truth, scores, average=None))
    assert found.mAP == pytest.approx(average_precision_score(truth, scores))
    assert found.without_positives == [2] and np.isnan([values[2] for values in found.per_class.values()]).all()


def test_perfect_scores_are_found_perfectly_and_none_not_at_all() -> None:
    pytest.importorskip("sed_scores_eval")
    truth = [Event(0.75, 2.75, 0), Event(4.75, 5.75, 1)]
    perfect = clip({0: [(2, 6, 0.9)], 1: [(10, 12, 0.8)]}, truth)
    found = measure_events([perfect], LABELS, 0.5, Finding())
    assert (found.segment_f1, found.onset_f1, found.psds["PSDS1"], found.psds["PSDS2"]) == (1.0, 1.0, 1.0, 1.0)
    nothing = measure_events([clip({}, truth)], LABELS, 0.5, Finding())
    assert (nothing.segment_f1, nothing.onset_f1, nothing.psds["PSDS1"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("front_end", "steps"), [(FrontEnd(96), 3), (Decibels(96), 4)])
def test_a_clip_s_own_steps_and_events_are_kept(front_end: FrontEnd, steps: int) -> None:
    """8000 samples: 48 frames of 25 ms, or 51 centred ones; of 96. An event that outlasts the clip is cut."""
    found = scored_clip(np.zeros((6, 2)), 8000, front_end, 16, [Event(0.25, 3.0, 0), Event(0.5, 0.75, 1)])
    assert (len(found.scores), found.duration, found.events) == (steps, 0.5, [Event(0.25, 0.5, 0)])
    longer = scored_clip(np.zeros((6, 2)), 32000, front_end, 16, [Event(0.9, 3.0, 0), Event(0.96, 1.0, 1)])
    assert (len(longer.scores), longer.duration, longer.events) == (6, 0.96, [Event(0.9, 0.96, 0)])


@pytest.mark.parametrize(("threshold", "median"), [(1.5, 3), (-0.1, 3), (0.5, 2), (0.5, 0)])
def test_numbers_that_cannot_be(threshold: float, median: int) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Finding(threshold, median)


def test_without_the_library_a_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sed_scores_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'eat-audio\[events\]'"):
        measure_events(CLIPS, LABELS, 0.5, Finding())


def test_classifier_of_steps_pools_by_the_greatest() -> None:
    torch.manual_seed(0)
    for head in ("linear", "cgp", "lcgp", "attentive"):
        settings = ClassifierSettings(num_classes=3, embed_dim=32, depth=2, num_heads=4, head=head, pooling="steps",
                                      head_prototypes=8)  # fmt: skip
        model = Classifier(settings).eval()
        filterbank = torch.randn(2, 1, 64, 128)
        with torch.no_grad():
            steps, clips = model(filterbank, steps=True), model(filterbank)
            assert steps.shape == (2, 4, 3)
            torch.testing.assert_close(clips, steps.amax(dim=1))
            mask = torch.ones(2, 33, dtype=torch.bool)
            mask[0, 17:] = False  # the first clip ends after two steps
            masked = model.loudest(steps, mask)
            torch.testing.assert_close(masked, torch.stack([steps[0, :2].amax(dim=0), steps[1].amax(dim=0)]))


def test_step_scores_of_a_loaded_model(tmp_path: Path, conformance: Path) -> None:
    """Of a clip of half a second: the steps that begin with audio, in its own length; padding is no event."""
    settings = ClassifierSettings(num_classes=3, embed_dim=32, depth=2, num_heads=4, pooling="steps")
    torch.manual_seed(0)
    network = Classifier(settings).eval()
    labels = tuple(LABELS)
    eat.write(Contents("eat", network.state_dict(), settings, FrontEnd(96), "sigmoid", labels), str(tmp_path / "m.pt"))
    model = EAT.load(tmp_path / "m.pt")
    wave = 0.1 * torch.randn(8000)
    found = model.step_scores([wave, wave[:4000]])
    assert [len(clip.embeddings) for clip in found] == [3, 2] and found[0].start.tolist() == pytest.approx(
        [0, 0.16, 0.32]
    )
    with torch.inference_mode():
        by_hand = network.frames(FrontEnd(48)(wave[None]))[0].sigmoid()
        torch.testing.assert_close(found[0].embeddings, by_hand)
        padded = network.frames(FrontEnd(96)(wave[None]))[0, :3].amax(dim=0)
    torch.testing.assert_close(model.logits(wave).detach(), padded)
    with pytest.raises(CheckpointError, match="does not classify time steps"):
        EAT.load(conformance / "official_finetune.pt").step_scores(wave)
