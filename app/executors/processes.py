"""A worker as a child process: it ends with its parent, and its last words are kept.

Workers are forked from a process that has loaded what they need, so that a job begins at once (docs/decisions/0035).
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import IO, cast, final

from setproctitle import setproctitle

from app.executors.runs import Outcome, Run

LAST_LINES, LONGEST_LINE = 80, 300
DRAIN_SECONDS = 2.0
NEEDED = ["app.__main__", "app.tracing"]
FOR_WORKERS_ALONE = (signal.SIGINT, signal.SIGTERM)
FORKS = multiprocessing.get_context("forkserver")


def load() -> None:
    """Begin to load what workers need, in the process that they are forked from, unless that was begun already.

    Signals to stop are for the workers alone: that process ends with this one.
    """
    FORKS.set_forkserver_preload(NEEDED)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_WORKERS_ALONE)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def command(job_id: int, name: str) -> list[str]:
    """What is asked of the command line to have a job worked on by a child."""
    return ["worker", "--job", str(job_id), "--name", name, "--until-stdin-closes"]


def begin(args: Sequence[str], environment: Mapping[str, str], stdin: Connection, stderr: Connection) -> None:
    """In the child: be the program that the command line would have started, with these variables and streams."""
    os.setsid()
    setproctitle(" ".join(("paretopath", *args)))
    os.environ.clear()
    os.environ.update(environment)
    for stream, number in ((stdin, 0), (stderr, 2)):
        os.dup2(stream.fileno(), number)
        stream.close()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_WORKERS_ALONE)
    from app.__main__ import app

    app(args=list(args))


@final
class LastWords:
    """Reads all that a process writes, and keeps the end of it.

    Parameters
    ----------
    stderr : file
        Closed at its end.
    shown : bool
        Whether what is read is passed on to standard error.
    """

    def __init__(self, stderr: IO[bytes], shown: bool) -> None:
        self._shown = shown
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._reader = threading.Thread(target=self._read, args=(stderr,), daemon=True)
        self._reader.start()

    def text(self) -> str:
        """The last lines, once the process has ended."""
        self._reader.join(DRAIN_SECONDS)
        return "\n".join(self._lines).strip()

    def _read(self, stderr: IO[bytes]) -> None:
        with stderr:
            for line in stderr:
                text = line.decode(errors="replace")
                self._lines.append(text.rstrip()[:LONGEST_LINE])
                if self._shown:
                    sys.stderr.write(text)


@final
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
        load()
        stdin, self._stdin = FORKS.Pipe(duplex=False)
        errors, stderr = FORKS.Pipe(duplex=False)
        with stdin, stderr, errors:
            given = (command(job_id, name), dict(environment), stdin, stderr)
            self._process = FORKS.Process(target=begin, args=given)
            self._process.start()
            self._words = LastWords(os.fdopen(os.dup(errors.fileno()), "rb"), shown)
        atexit.register(self._stdin.close)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return cast("int", self._process.pid)

    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on."""
        status = self._process.exitcode
        if status is None:
            return None
        self._let_go()
        return Outcome(status, self._words.text())

    def ask(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL, and wait."""
        self._process.kill()
        self._process.join()
        self._let_go()

    def _let_go(self) -> None:
        """Close the pipe, as at the end of this process, which waits for its children, and they for that."""
        self._stdin.close()
        atexit.unregister(self._stdin.close)
