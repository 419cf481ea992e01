"""A worker as a child process: it ends with its parent, and its last words are kept."""

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import IO

from app.executors.runs import Outcome, Run

LAST_LINES, LONGEST_LINE = 80, 300
DRAIN_SECONDS = 2.0
LOOK_SECONDS = 0.2


class WorkerProcess(Run):
    """A child that works on one job; it reads a pipe from its parent, and stops when the parent is gone.

    Parameters
    ----------
    job_id : int
    name : str
    environment : mapping
        The child's variables.
    shown : bool
        Whether what it writes is passed on to standard error.
    """

    def __init__(self, job_id: int, name: str, environment: Mapping[str, str], shown: bool = True) -> None:
        super().__init__(job_id, name)
        self._shown = shown
        command = [sys.executable, "-m", "app", "worker", "--job", str(job_id), "--name", name, "--until-stdin-closes"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
        )
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on."""
        status = self._process.poll()
        if status is None:
            return None
        self._reader.join(DRAIN_SECONDS)
        self._close()
        return Outcome(status, "\n".join(self._lines).strip())

    def ask(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL, and wait."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _read(self, stderr: IO[bytes]) -> None:
        with stderr:
            for line in stderr:
                text = line.decode(errors="replace")
                self._lines.append(text.rstrip()[:LONGEST_LINE])
                if self._shown:
                    sys.stderr.write(text)

    def _close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


def work(job_id: int, name: str, given: Mapping[str, str], grace_seconds: float) -> tuple[int | None, str]:
    """Run a worker process on this node to its end: its exit status and last words. Interrupted, it ends the worker."""
    process = WorkerProcess(job_id, name, {**os.environ, **given})
    try:
        return _awaited(process)
    except BaseException:
        process.ask()
        until = time.monotonic() + grace_seconds
        while process.outcome() is None and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
        process.kill()
        raise


def _awaited(process: WorkerProcess) -> tuple[int | None, str]:
    while (outcome := process.outcome()) is None:
        time.sleep(LOOK_SECONDS)
    return outcome.status, outcome.words
