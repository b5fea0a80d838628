"""The evaluation report and the map as pages in a real browser, from disk and without a network."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import EAT
from EAT.commands import plot
from EAT.commands.evaluate import main as evaluate
from EAT.inference.evaluation import evaluate as evaluate_split
from EAT.pictures.pages import page as made_page
from EAT.pictures.report_clips import clip_data, confusions

from ..browser import focused, until, violations
from ..conftest import CLIPS, CONFORMANCE
from ..labelled_clips import families, write_descriptors, write_split

CHECKPOINT = CONFORMANCE / "official_finetune.pt"
LABELS = ["ambience", "bass", "drum_kit", "electronic", "loop", "</script><b>tabla"]
AUDIO = "document.querySelector('#chosen audio')"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Real clips of six families, one of a hostile name, with one label each in ``eval`` and more in ``several``."""
    folder = tmp_path_factory.mktemp("data")
    known = {family: label for label in LABELS for family in families().values() if label.endswith(family)}
    chosen = {name: known[family] for name, family in families().items() if family in known}
    names = sorted(chosen)[::3]
    write_descriptors(folder, LABELS)
    write_split(folder, "eval", {name: [chosen[name]] for name in names})
    write_split(folder, "several", {name: sorted({chosen[name], LABELS[i % 6]}) for i, name in enumerate(names)})
    return folder


@pytest.fixture(scope="module")
def report(data: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    checkpoint = folder / "a_checkpoint_in_a_folder_whose_name_is_wider_than_a_telephone" / CHECKPOINT.name
    checkpoint.parent.mkdir()
    shutil.copy(CHECKPOINT, checkpoint)
    command = ["--data", str(data), "--checkpoint", str(checkpoint), "--target-length", "128", "--num-workers", "0"]
    assert evaluate([*command, "--report", str(folder), "--sounds", "12"]) == 0
    return folder / "report.html"


def open_offline(page, path: Path) -> None:
    page.context.set_offline(True)
    page.goto(path.as_uri())


def evaluated(data: Path, split: str):
    return evaluate_split(EAT.load(CHECKPOINT), data, split, target_length=128, workers=0)


@pytest.mark.parametrize("split", ["eval", "several"])
def test_points_are_the_scores_and_pairs_the_confusions(data: Path, split: str) -> None:
    found = evaluated(data, split)
    told, counts = clip_data(found, ""), confusions(found)[1]
    mistaken = 0
    for row, clip in enumerate(told["clips"]):
        own = [found.scores[row, index] for index in np.flatnonzero(found.targets[row])]
        others = [found.scores[row, index] for index in np.flatnonzero(found.targets[row] == 0)]
        assert clip["at"] == pytest.approx([min(own), max(others)], abs=1e-4)
        assert clip["group"] == int(max(others) > min(own)) and ("pair" in clip) == bool(clip["group"])
        mistaken += clip["group"]
    assert sum(counts.values()) == mistaken > 0 and list(counts.values()) == sorted(counts.values(), reverse=True)
    if split == "eval":
        confusion = found.metrics.confusion.copy()
        np.fill_diagonal(confusion, 0)
        assert {
            pair: confusion[pair] for pair in zip(*map(np.ndarray.tolist, np.nonzero(confusion)), strict=True)
        } == counts


def test_nothing_in_the_data_ends_its_element() -> None:
    text = made_page("a & b", "", (), "listen.js", {"name": "</script><!-- &amp; \u2028"})
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert "<" not in block and json.loads(block) == {"name": "</script><!-- &amp; \u2028"}
    assert "<title>a &amp; b</title>" in text and "src=" not in text and "href=" not in text


def test_a_clip_is_heard_by_clicking_its_point(page, report: Path) -> None:
    open_offline(page, report)
    page.locator('#plot path[data-clip="2"]').click(force=True)
    until(page, f"{AUDIO} && {AUDIO}.currentTime > 0.05")
    assert page.evaluate(f"!{AUDIO}.paused && {AUDIO}.duration > 0.1 && {AUDIO}.error === null")
    name = page.inner_text("#chosen .name")
    assert name == told(page)["clips"][2]["cells"][0]
    assert page.inner_text("#clips tr[aria-current=true]").startswith(name)


def told(page) -> dict:
    """What the page's script was given."""
    return json.loads(page.locator("#data").evaluate("element => element.textContent"))


def column(page, table: str, number: int) -> list[str]:
    return page.locator(f"{table} tbody tr td:nth-child({number})").all_inner_texts()


def test_everything_is_done_with_the_keyboard_alone(page, report: Path) -> None:
    open_offline(page, report)
    page.keyboard.press("Tab")
    assert focused(page) == "plot"
    page.keyboard.press("ArrowRight")  # begins with the gravest mistake
    clips = told(page)["clips"]
    worst = max(clips, key=lambda clip: clip["cells"][4])
    assert page.inner_text("#chosen .name") == worst["cells"][0]
    page.keyboard.press("Enter")
    until(page, f"{AUDIO} && !{AUDIO}.paused && {AUDIO}.currentTime > 0")
    seen = {page.inner_text("#chosen .name")}
    for key in ["ArrowRight"] * 4 + ["ArrowDown"] * 4 + ["ArrowLeft"] * 4 + ["ArrowUp"] * 4:
        page.keyboard.press(key)
        name = page.inner_text("#chosen .name")
        seen.add(name)
    assert len(seen) > 6
    before = page.locator("#plot path[data-clip]").nth(0).get_attribute("transform")
    page.keyboard.press("+")
    assert page.locator("#plot path[data-clip]").nth(0).get_attribute("transform") != before
    page.keyboard.press("0")
    assert page.locator("#plot path[data-clip]").nth(0).get_attribute("transform") == before
    for _ in range(40):
        page.keyboard.press("Tab")
        if focused(page).startswith("mistake"):
            break
    page.keyboard.press("Space")
    assert page.get_attribute("#clips th:last-child", "aria-sort") == "ascending"
    assert column(page, "#clips", 1)[-1] == worst["cells"][0]


def test_arrows_go_the_way_they_point(page, report: Path) -> None:
    open_offline(page, report)
    clips = {clip["cells"][0]: clip["at"] for clip in told(page)["clips"]}
    start = sorted(clips, key=lambda name: clips[name][0])[len(clips) // 2]
    page.get_by_role("button", name=start, exact=True).first.click()
    for key, axis, way in [("ArrowRight", 0, 1), ("ArrowLeft", 0, -1), ("ArrowUp", 1, 1), ("ArrowDown", 1, -1)]:
        before = clips[page.inner_text("#chosen .name")][axis]
        page.focus("#plot")
        page.keyboard.press(key)
        after = clips[page.inner_text("#chosen .name")][axis]
        assert way * (after - before) >= 0


def test_classes_and_clips_are_sorted_by_their_heads(page, report: Path) -> None:
    open_offline(page, report)
    heads = page.locator("[aria-label=classes] th button")
    assert heads.all_inner_texts()[:3] == ["class", "clips", "recall"]
    heads.nth(1).click()
    counts = [int(text) for text in column(page, "[aria-label=classes]", 2)]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) > 2
    heads.nth(1).click()
    assert [int(text) for text in column(page, "[aria-label=classes]", 2)] == sorted(counts)
    heads.nth(0).click()
    names = column(page, "[aria-label=classes]", 1)
    assert names == ["</Script><B>Tabla", "Ambience", "Bass", "Drum_Kit", "Electronic", "Loop"]
    page.locator("#clips th button").nth(3).click()
    scores = [float(text) for text in column(page, "#clips", 4)]
    assert scores == sorted(scores, reverse=True) and len(scores) == len(told(page)["clips"])


def test_confusions_lead_to_their_clips(page, report: Path) -> None:
    open_offline(page, report)
    rows = page.locator("[aria-label=confusions] tbody tr")
    truth, taken, count = rows.nth(0).locator("td").all_inner_texts()
    rows.nth(0).locator("button").click()
    assert set(column(page, "#clips", 2)) == {truth} and set(column(page, "#clips", 3)) == {taken}
    assert len(column(page, "#clips", 1)) == int(count)
    assert page.locator("#plot path:not(.dim)").count() == int(count)
    page.click("#everything")
    everything = len(told(page)["clips"])
    assert page.inner_text("#count") == f"{everything} of {everything} clips" and page.is_disabled("#everything")
    page.locator("[aria-label=classes] tbody tr td button").nth(0).click()
    name = page.locator("[aria-label=classes] tbody tr td").nth(0).inner_text()
    assert set(column(page, "#clips", 2)) == {name}
    page.click("#everything")
    page.fill("#search", "DRUM_")
    assert all("drum_" in found.lower() for found in column(page, "#clips", 1)) and column(page, "#clips", 1)


def test_the_report_holds_as_many_sounds_as_were_asked_for_and_says_so(page, report: Path) -> None:
    open_offline(page, report)
    assert page.locator("script[id^=sound-]").count() == 12
    best = column(page, "#clips", 1)[-1]
    page.get_by_role("button", name=best, exact=True).click()
    said = page.inner_text("#chosen")
    assert f"sounds of 12 of {len(told(page)['clips'])} clips; --sounds takes more" in said
    worst = {int(name.removeprefix("sound-")) for name in page.locator("script[id^=sound-]").evaluate_all(
        "found => found.map(element => element.id)")}  # fmt: skip
    mistakes = [clip["cells"][4] for clip in told(page)["clips"]]
    assert min(mistakes[number] for number in worst) >= max(m for n, m in enumerate(mistakes) if n not in worst)


def test_pages_can_be_read_by_all_and_ask_nobody(page, report: Path, map_page: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in (report, map_page):
        open_offline(page, path)
        page.locator("#plot path[data-clip]").nth(1).click(force=True)
        assert not violations(page)
        page.set_viewport_size({"width": 420, "height": 800})  # a telephone
        until(page, "document.documentElement.scrollWidth <= innerWidth")  # layout follows the resizing
        page.set_viewport_size({"width": 1100, "height": 1000})
    assert asked == [report.as_uri(), map_page.as_uri()]  # nothing else, from nowhere
    assert page.locator("b", has_text="tabla").count() == 0  # a name is text
    page.evaluate("document.querySelector('h1').style.color = '#ddd'")
    assert [found.split(":")[0] for found in violations(page)] == ["color-contrast"]  # what is not seen is found


@pytest.fixture(scope="module")
def map_page(data: Path, tmp_path_factory) -> Path:
    """A map of the clips, of features that are laid out by hand: two heaps and one clip far to the right."""
    folder = tmp_path_factory.mktemp("a_map_in_a_folder_whose_name_is_wider_than_a_telephone")
    names = (data / "eval.tsv").read_text().splitlines()[1:]
    rng = np.random.default_rng(1)
    for number, line in enumerate(names):
        centre = [30.0, 1, 0] if number == 0 else [0.0, 5 * (number % 2), 0]
        path = folder / "features" / Path(line.split("\t")[0]).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, (np.array(centre) + 0.1 * rng.normal(size=3)).astype(np.float32))
    command = ["map", str(folder / "features"), "--manifest", str(data / "eval.tsv")]
    assert plot.main([*command, "--output", str(folder / "map.html")]) == 0
    return folder / "map.html"


def test_a_map_shows_its_clips_where_their_features_are_and_plays_them(page, map_page: Path) -> None:
    open_offline(page, map_page)
    clips = told(page)["clips"]
    marks = [page.locator(f'#plot path[data-clip="{number}"]').bounding_box() for number in range(len(clips))]
    x = [box["x"] + box["width"] / 2 for box in marks]
    y = [box["y"] + box["height"] / 2 for box in marks]
    assert x[0] in (min(x), max(x))  # the one that is far from all others
    across = abs(x[0] - x[1]) / abs(clips[0]["at"][0] - clips[1]["at"][0])
    up = abs(y[1] - y[2]) / abs(clips[1]["at"][1] - clips[2]["at"][1])
    assert across == pytest.approx(up, rel=0.05)  # near is near in every direction
    page.locator('#plot path[data-clip="0"]').click(force=True)
    until(page, f"{AUDIO} && {AUDIO}.currentTime > 0.05")
    assert clips[0]["cells"][0] == page.inner_text("#chosen .name")
    page.locator('#plot path[data-clip="5"]').click(force=True)
    nearest = page.locator("#chosen li button")
    assert nearest.count() == 5
    names = [clip["cells"][0] for clip in clips]
    assert all(names.index(text) % 2 == 1 for text in nearest.all_inner_texts())  # of its own heap
    first = nearest.nth(0).inner_text()
    nearest.nth(0).click()
    assert page.inner_text("#chosen .name") == first


def test_a_map_s_labels_are_shown_and_hidden(page, map_page: Path) -> None:
    open_offline(page, map_page)
    counts = Counter(clip["cells"][1] for clip in told(page)["clips"])
    legend = page.locator("#legend li")
    assert legend.all_inner_texts() == [f"{label} ({count})" for label, count in counts.most_common()]
    looks = {(group[1], group[2]) for group in told(page)["groups"]}
    assert len(looks) == len(counts)
    legend.nth(0).locator("input").uncheck()
    assert page.locator("#plot path.dim").count() == counts.most_common()[0][1]
    assert counts.most_common()[0][0] not in column(page, "#clips", 2)


def test_recordings_of_a_map_without_manifest(page, tmp_path: Path, capsys) -> None:
    for number, name in enumerate(("elec_bell", "loop_garzul", "gone", "bass_hard_c")):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(number).normal(size=4).astype(np.float32))
    command = ["map", str(tmp_path), "--output", str(tmp_path / "map.html")]
    assert plot.main([*command, "--recordings", str(CLIPS)]) == 0
    open_offline(page, tmp_path / "map.html")
    page.get_by_role("button", name="elec_bell", exact=True).first.click()
    until(page, f"{AUDIO} && {AUDIO}.currentTime > 0.05")
    page.get_by_role("button", name="gone", exact=True).first.click()
    assert "The page holds the sounds of 3 of 4 clips" in page.inner_text("#chosen")
    capsys.readouterr()
    assert plot.main([*command, "--recordings", str(CLIPS / "tabla_na.flac")]) == 2
    assert "has the name of a file in" in capsys.readouterr().err
