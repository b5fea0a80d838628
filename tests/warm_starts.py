"""fairseq-hydra-train without the seconds that its imports take: a process that has made them forks for each run.

What is forked runs the installed command's own file in the folder, environment and session that it would have as a
process of its own; nothing of EAT is imported before. Two such processes take turns, so that consecutive runs, and the
ranks of one, do not share the order in which their sets of strings are walked.

As a program (``python warm_starts.py DESCRIPTOR``) it is that process. It must not import what it does not hand on.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

MESSAGE = 1 << 20


class WarmRun:
    """What tests use of ``subprocess.Popen``, of a forked run, which leads a session and has one stream of output."""

    def __init__(self, command: Sequence[str], folder: str, variables: Mapping[str, str]) -> None:
        reader, writer = os.pipe()
        self._status, theirs = socket.socketpair()
        request = json.dumps([list(command), folder, dict(variables)]).encode()
        socket.send_fds(next(_servers()), [request], [writer, theirs.fileno()])
        os.close(writer)
        theirs.close()
        self.stdout = os.fdopen(reader)
        told = self._status.recv(64)
        assert told, f"{__file__} has ended; run it by hand to see why"
        self.pid = int(told)
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The status it ended with, minus the signal that ended it. Raises TimeoutError where it goes on."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            self.returncode = int(self._status.recv(64))
            self._status.close()
        return self.returncode

    def poll(self) -> int | None:
        """The same, or None where it goes on."""
        try:
            return self.wait(0)
        except BlockingIOError:
            return None

    def kill(self) -> None:
        """Kill it and all that it started, unless it has ended."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, None]:
        """All it says until it ends; it is killed when the time is over."""
        timer = threading.Timer(timeout, self.kill)
        timer.start()
        try:
            with self.stdout as stream:
                output = stream.read()
            self.wait()
        finally:
            timer.cancel()
        return output, None


@functools.cache
def _variables() -> dict[str, str]:
    """Those in which the two processes began."""
    return kept(os.environ)


def kept(variables: Mapping[str, str]) -> dict[str, str]:
    """All but pytest's own."""
    return {name: value for name, value in variables.items() if not name.startswith("PYTEST_")}


def can_start(variables: Mapping[str, str]) -> bool:
    """Whether nothing differs that the imports may have read: else a process of its own is needed."""
    return kept(variables) == {**_variables(), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}


@functools.cache
def _servers() -> itertools.cycle[socket.socket]:
    made = []
    for _ in range(2):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env={**_variables(), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        made.append(ours)
    return itertools.cycle(made)


def serve(requests: socket.socket) -> None:
    """Fork for each request until the tests are over. Returns there, and raises SystemExit in a run that has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever hands statuses on is waited for by nobody
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, MESSAGE, 2)
        if not request:
            return
        if os.fork() == 0:
            requests.close()
            run(json.loads(request), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def run(request: list, output: int, answer: int) -> None:
    """Fork once more, become the command in the child, and hand its status on."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:
        os.close(output)
        with socket.socket(fileno=answer) as status:
            status.send(str(child).encode())
            _, ended = os.waitpid(child, 0)
            status.send(str(os.waitstatus_to_exitcode(ended)).encode())
        os._exit(0)
    os.close(answer)
    sys.argv, folder, variables = request
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    import fairseq_cli.hydra_train  # noqa: F401
    import torch._dynamo  # noqa: F401, every optimiser imports it

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in its background ignores Ctrl-C
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        serve(asked)
