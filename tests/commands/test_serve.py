"""The page that is served: real processes, real sounds, and a real browser."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

import EAT
from EAT.audio.recordings import read_audio
from EAT.commands.serve import main, parser, server

from ..browser import focused, until, violations
from ..conftest import CLIPS, CONFORMANCE, ROOT

CHECKPOINT = CONFORMANCE / "official_finetune.pt"
CLIP = CLIPS / "loop_garzul.flac"
NAMES = ["Ambience", "Bass", "Drum", "Electronic", "<b>Tabla</b>", "音"]
SOUND = "document.getElementById('sound')"


class Served:
    """``python -m EAT.serve`` in a process and a folder of its own, on a free port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "EAT.serve", "--checkpoint", str(CHECKPOINT), "--port", "0", *options]
        # A shell's background jobs, and what they start, ignore Ctrl-C.
        self.process = subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE,
                                        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if "open http" in line:
                break
        found = re.search(r"http://\S+", self.said)
        assert found, self.said + self.process.stderr.read()
        self.url = found[0]
        self.host, self.port = urlsplit(self.url).hostname, urlsplit(self.url).port

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, content (of JSON the value), headers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(content) if told["content-type"] == "application/json" else content, told

    def stop(self) -> tuple[int, str]:
        """Ctrl-C; the exit status and what was said on stderr."""
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    labels = tmp_path_factory.mktemp("labels") / "labels.csv"
    labels.write_text("".join(f"{index},/m/{index},{name}\n" for index, name in enumerate(NAMES)))
    clips = [str(clip) for clip in sorted(CLIPS.glob("*.flac"))[::12]]
    limits = ("--max-megabytes", "2", "--max-seconds", "20", "--window", "128")
    started = Served(folder, "--labels", str(labels), "--collection", str(CLIP), *clips, *limits)
    yield started
    assert started.process.poll() is None  # nothing has brought it down
    status, errors = started.stop()
    assert (status, errors.strip()) == (0, "")
    assert not [path for path in folder.rglob("*") if path.is_file()]  # nothing was kept, neither here nor for a time


def wav(seconds: float, rate: int = 8000) -> bytes:
    """A quiet WAV file."""
    import io

    content = io.BytesIO()
    soundfile.write(content, np.zeros(int(seconds * rate), np.int16), rate, format="WAV")
    return content.getvalue()


def test_a_sound_is_heard_as_the_model_hears_it(served: Served) -> None:
    status, heard, headers = served.ask("POST", "/sound?name=my%20sound.flac", CLIP.read_bytes())
    assert status == 200 and headers["cache-control"] == "no-store"
    model = EAT.load(CHECKPOINT)
    first = model.scores(read_audio(str(CLIP))[: 127 * 160 + 400], target_length=128)
    by_name = {found["name"]: found["scores"] for found in heard["classes"]}
    assert [by_name[name][0] for name in NAMES] == pytest.approx(first.tolist(), abs=1e-5)
    assert heard["seconds"] == 5.0
    assert heard["neighbours"][0]["name"] == CLIP.name
    assert heard["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    status, clip, headers = served.ask("GET", f"/clip/{heard['neighbours'][0]['number']}")
    assert status == 200 and headers["content-type"] == "audio/mpeg" and len(clip) > 10_000


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"no sound at all", 415, "my.wav is not audio that libsndfile can read"),
        (b"", 415, "my.wav is not audio"),
        (wav(21), 413, "my.wav lasts 21 s; at most 20 are taken"),
        (b"\0" * 2_000_001, 413, "The file has 2.0 MB; at most 2 are taken"),
        (wav(0.001), 422, "a clip must last 10 ms at least"),
        (CLIP.read_bytes()[:3000], 422, "my.wav"),
    ],
)
def test_what_cannot_be_heard_is_a_sentence(served: Served, content: bytes, status: int, words: str) -> None:
    answer = served.ask("POST", "/sound?name=my.wav", content)
    assert answer[0] == status and words in answer[1]["error"] and set(answer[1]) == {"error"}


def test_uploads_without_a_length_and_other_addresses(served: Served) -> None:
    assert served.ask("POST", "/sound", iter([b"abc"]))[0] == 411  # chunked
    assert served.ask("POST", "/sound", b"", Content_Length="-5")[0] == 411
    for path in (
        "/../setup.py",
        "/clip/9999",
        "/clip/-1",
        "/clip/1e0",
        "/clip/",
        "/serve.py",
        "/%2e%2e/",
        "//etc/passwd",
    ):
        assert served.ask("GET", path)[0] == 404, path
    assert served.ask("POST", "/about", b"x")[0] == 404


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET http://[ HTTP/1.1\r\nHost: 127.0.0.1",
        b"GET / HTTP/1.1\r\nHost: [",
        b"POST /sound HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://[",
        b"POST /sound HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + b"9" * 5000,
        b"GET /clip/" + b"1" * 5000 + b" HTTP/1.1\r\nHost: 127.0.0.1",
        b"BREW /sound HTTP/1.1\r\nHost: 127.0.0.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"POST /sound?name=%ff%00%00&name=" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: 127.0.0.1",
    ],
)
def test_requests_that_no_browser_makes(served: Served, request_line: bytes) -> None:
    """Refused; that nothing was printed and nothing broke is seen when the server ends."""
    with socket.create_connection((served.host, served.port), timeout=10) as connection:
        connection.sendall(request_line + b"\r\n\r\n")
        received = connection.recv(200)
    refused = (
        rb"HTTP/1.0 (400|403|404|411|413|414|501) |<!DOCTYPE HTML>\s.*Error code: 400"  # the latter to no HTTP at all
    )
    assert re.match(refused, received, re.DOTALL), received
    assert served.ask("GET", "/about")[0] == 200


def test_other_sites_get_nothing(served: Served) -> None:
    """A page elsewhere must not ask through its reader's browser, not even by a name that leads to this machine."""
    sound, own = wav(0.5), f"127.0.0.1:{served.port}"
    assert served.ask("POST", "/sound", sound, Origin="http://elsewhere.example")[0] == 403
    assert served.ask("POST", "/sound", sound, Origin="null")[0] == 403
    assert served.ask("GET", "/clip/0", Host="elsewhere.example")[0] == 403
    assert served.ask("POST", "/sound", sound, Host="elsewhere.example", Origin="http://elsewhere.example")[0] == 403
    assert served.ask("POST", "/sound", sound, Origin=f"http://{own}")[0] == 200
    assert served.ask("GET", "/about", Host=f"localhost:{served.port}")[0] == 200
    headers = served.ask("GET", "/")[2]
    assert (
        "default-src 'none'" in headers["content-security-policy"] and "http" not in headers["content-security-policy"]
    )
    assert headers["cross-origin-resource-policy"] == "same-origin" and headers["x-content-type-options"] == "nosniff"


def test_this_machine_alone_is_served(served: Served) -> None:
    listening = Path(f"/proc/{served.process.pid}/net/tcp")
    if not listening.exists():
        pytest.skip("only Linux says who listens")
    lines = [line.split() for line in listening.read_text().splitlines()[1:]]
    hosts = {
        line[1].split(":")[0] for line in lines if line[3] == "0A" and int(line[1].split(":")[1], 16) == served.port
    }
    assert hosts == {"0100007F"}  # 127.0.0.1


def test_many_at_once_are_served_or_told_to_come_back(served: Served) -> None:
    """Four connections that dawdle hold all places; whoever comes then gets a sentence, and later is served."""
    head = b"POST /sound HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
    slow = [socket.create_connection((served.host, served.port)) for _ in range(4)]
    for connection in slow:
        connection.sendall(head + b"RIFF")
    time.sleep(1)  # all four are being read from
    end = time.monotonic() + 10
    while (answer := served.ask("POST", "/sound", wav(0.5)))[0] != 503 and time.monotonic() < end:
        time.sleep(0.05)
    assert answer[0] == 503 and "try again" in answer[1]["error"]
    for connection in slow:
        connection.close()
    while (answer := served.ask("POST", "/sound", wav(0.5)))[0] == 503 and time.monotonic() < end:
        time.sleep(0.05)
    assert answer[0] == 200


def test_uploads_and_computing_end_in_time(tmp_path: Path) -> None:
    quick = Served(tmp_path, "--timeout", "2", "--hop", "16")  # 0.16 s: so much work that no machine is in time
    try:
        content = wav(290, 16_000)
        status, answer, _ = quick.ask("POST", "/sound?name=long.wav", content)
        assert status == 503 and "This took longer than 2 s" in answer["error"]
        with socket.create_connection((quick.host, quick.port)) as drip:
            drip.sendall(b"POST /sound HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n")
            began = time.monotonic()
            received = b""
            while not received and time.monotonic() - began < 10:
                drip.sendall(b"x")
                if select.select([drip], [], [], 0.1)[0]:
                    received = drip.recv(4096)
            assert b" 408 " in received and b"The upload took longer than 2 s" in received + drip.recv(4096)
        assert quick.ask("POST", "/sound", wav(0.2))[0] == 200  # and others are served
    finally:
        status, said = quick.stop()
        assert status == 0, said


def test_it_ends_at_once_while_it_computes_and_while_it_is_sent_something(tmp_path: Path) -> None:
    busy = Served(tmp_path, "--hop", "16")
    with ThreadPoolExecutor(1) as pool, socket.create_connection((busy.host, busy.port)) as drip:
        drip.sendall(b"POST /sound HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx")
        computing = pool.submit(busy.ask, "POST", "/sound?name=long.wav", wav(290, 16_000))
        time.sleep(1.5)
        assert not computing.done()
        began = time.monotonic()
        status, said = busy.stop()
        assert (status, said.strip()) == (0, "") and time.monotonic() - began < 8
        assert computing.result()[:2] == (503, {"error": "The server has been stopped."})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--max-seconds", "0"], "--max-seconds is 0; it must be greater than 0"),
        (["--host", "198.51.100.7"], "198.51.100.7, port 0, cannot be listened on"),
        (["--host", "no such host"], "no such host, port 0, cannot be listened on"),
        (["--port", "70000"], "port 70000, cannot be listened on"),
        (["--collection", str(CLIP)], "needs two recordings at least"),
        (["--labels", "none.csv"], "none.csv cannot be read"),
        (["--window", "100"], "100"),
    ],
)
def test_unusable_arguments(change: list[str], words: str, capsys) -> None:
    assert main(["--checkpoint", str(CHECKPOINT), "--port", "0", *change]) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.splitlines()[-1].startswith("error: ")


def test_classes_are_called_what_the_checkpoint_or_labels_call_them(tmp_path: Path) -> None:
    def about(checkpoint: str, *options: str) -> tuple[list[str], str]:
        arguments = ["--checkpoint", str(CONFORMANCE / checkpoint), "--port", "0", *options]
        with server(parser().parse_args(arguments)) as made:
            return list(made.listener.classes), made.about["note"]

    unnamed, note = about("official_finetune.pt")
    assert unnamed == [f"class {index}" for index in range(6)] and "--labels" in note
    assert about("official_pretrain.pt") == ([], "This model was pre-trained, not fine-tuned, and knows no classes.")
    (tmp_path / "labels.csv").write_text("".join(f"{index},c{index},Class {index}\n" for index in range(6)))
    named = [f"Class {index}" for index in range(6)]
    assert about("official_finetune.pt", "--labels", str(tmp_path / "labels.csv")) == (named, "")
    model = EAT.load(CONFORMANCE / "hf_finetune")
    expected = list(model.labels) if model.labels else [f"class {index}" for index in range(model.num_classes)]
    assert about("hf_finetune")[0] == expected


# ---- in a browser ----


def choose(page, served: Served, clip: Path) -> None:
    page.goto(served.url)
    page.set_input_files("#file", clip)
    until(page, "!document.getElementById('heard').hidden")


def test_a_file_is_seen_and_played_from_any_point(page, served: Served) -> None:
    choose(page, served, CLIP)
    assert page.inner_text("#status").startswith("loop_garzul.flac, 0:05.0: ")
    assert {text.split("\n")[0] for text in page.locator("#timeline button").all_inner_texts()} == set(NAMES)
    for picture in ("spectrogram", "features"):
        assert page.evaluate(f"document.getElementById('{picture}').naturalWidth") > 20
    box = page.locator(".tall").bounding_box()
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 40)
    until(page, f"!{SOUND}.paused && {SOUND}.currentTime > 3.02")
    assert page.evaluate(f"{SOUND}.currentTime") < 4.5
    cursor, shown = page.locator("#cursor").bounding_box()["x"], page.evaluate(f"{SOUND}.currentTime")
    assert (cursor - box["x"]) / box["width"] == pytest.approx(shown / 5, abs=0.1)
    slots = page.locator(".slots").first.bounding_box()
    assert (slots["x"], slots["width"]) == pytest.approx((box["x"], box["width"]))  # one axis of time
    page.mouse.click(slots["x"] + 0.2 * slots["width"], slots["y"] + 5)
    until(page, f"{SOUND}.currentTime < 2.5 && {SOUND}.currentTime >= 1")
    page.locator("#neighbours button").first.click()
    until(page, "document.getElementById('neighbour').currentTime > 0.05")
    assert page.evaluate(f"{SOUND}.paused")
    assert page.locator("b").count() == 0  # a class's name is text


def test_a_sound_that_is_dropped(page, served: Served) -> None:
    page.goto(served.url)
    page.evaluate("window.given = new DataTransfer()")
    content = list((CLIPS / "elec_bell.flac").read_bytes())
    page.evaluate("bytes => given.items.add(new File([new Uint8Array(bytes)], 'dropped.flac'))", content)
    page.evaluate(
        "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: given, bubbles: true, cancelable: true}))"
    )
    until(page, "!document.getElementById('heard').hidden")
    assert page.inner_text("#name") == "dropped.flac"


def test_a_sound_that_is_recorded(page, served: Served) -> None:
    """Chromium's own microphone beeps; it records WebM, which the page turns into a file that the server reads."""
    page.goto(served.url)
    page.click("#record")
    until(page, "document.getElementById('record').textContent === 'Stop'")
    time.sleep(1.5)
    page.click("#record")
    until(page, "!document.getElementById('heard').hidden")
    assert page.inner_text("#status").startswith("recording, 0:0")
    page.click("#play")
    until(page, f"{SOUND}.currentTime > 0.1")
    assert page.inner_text("#record") == "Record"


def test_what_goes_wrong_is_said_on_the_page(page, served: Served, tmp_path: Path) -> None:
    page.goto(served.url)
    (tmp_path / "noise.wav").write_bytes(b"noise" * 100)
    (tmp_path / "long.wav").write_bytes(wav(25))
    (tmp_path / "large.wav").write_bytes(b"\0" * 2_100_000)
    for name, words in [("noise", "is not audio"), ("long", "at most 20 are taken"), ("large", "at most 2 are taken")]:
        page.set_input_files("#file", tmp_path / f"{name}.wav")
        until(page, f"document.getElementById('status').textContent.includes({json.dumps(words)})")
        assert page.get_attribute("#status", "class") == "error" and page.is_hidden("#heard")
    page.said[:] = [line for line in page.said if "Failed to load resource" not in line]  # Chromium's note of a 4xx


def test_everything_is_done_with_the_keyboard_alone(page, served: Served) -> None:
    page.goto(served.url)
    page.keyboard.press("Tab")
    assert focused(page) == "choose"
    # The dialog itself is the browser's; that it is asked for is ours.
    asks = "(event) => { event.preventDefault(); window.asked = true; }"
    page.evaluate(f"() => document.getElementById('file').addEventListener('click', {asks})")
    page.keyboard.press("Enter")
    until(page, "window.asked")
    page.set_input_files("#file", CLIP)
    until(page, "!document.getElementById('heard').hidden")
    reached = []
    for _ in range(4 + 6):
        page.keyboard.press("Tab")
        reached.append(focused(page))
    assert reached[:3] == ["record", "play", "place"]
    page.focus("#place")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    until(page, f"Math.abs({SOUND}.currentTime - 0.5) < 0.01")  # a fiftieth each
    assert page.get_attribute("#place", "aria-valuetext") == "0:00.5" and page.evaluate(f"{SOUND}.paused")
    page.keyboard.press("Space")
    until(page, f"!{SOUND}.paused && {SOUND}.currentTime > 0.55")
    page.keyboard.press("Space")
    assert page.evaluate(f"{SOUND}.paused")
    page.locator("#timeline button").first.focus()
    page.keyboard.press("Enter")  # from where the class is most active
    until(page, f"!{SOUND}.paused")
    assert "play from" in page.locator("#timeline button").first.get_attribute("aria-label")


def test_the_page_can_be_read_by_all_and_asks_nobody_else(page, served: Served) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    choose(page, served, CLIP)
    assert not violations(page)
    page.set_viewport_size({"width": 420, "height": 800})
    until(page, "document.documentElement.scrollWidth <= innerWidth")  # layout follows the resizing
    assert asked and all(address.startswith((served.url, "data:", "blob:")) for address in asked)
