"""What a task of a cluster does on its node: it starts a worker process, and waits for it.

The worker is the child of the task's own process, as a cluster that loses a task kills the children of its process.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO, cast

from app.executors.processes import LastWords, command

LOOK_SECONDS = 0.2


def work(job_id: int, name: str, given: Mapping[str, str], grace_seconds: float) -> tuple[int, str]:
    """Run a worker process on this node to its end: its exit status and last words. Interrupted, it ends the worker."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app", *command(job_id, name)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **given},
        start_new_session=True,
    )
    words = LastWords(cast("IO[bytes]", process.stderr), shown=True)
    try:
        return _awaited(process), words.text()
    except BaseException:
        _ended(process, grace_seconds)
        raise


def _awaited(process: subprocess.Popen[bytes]) -> int:
    """Its exit status, looked for in a loop that an exception from outside can interrupt."""
    while (status := process.poll()) is None:
        time.sleep(LOOK_SECONDS)
    return status


def _ended(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Ask it to give the job back, and end it."""
    process.terminate()
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
