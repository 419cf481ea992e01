"""How much memory a worker may take.

The limit is on private writable memory (``RLIMIT_DATA``): address space is no measure, as PyTorch and CUDA reserve far
more than they use, and memory in use is known only when it is too late. An allocation beyond the limit is refused, so
the job fails with a sentence and its worker goes on.
"""

import re
import resource
from pathlib import Path

import torch

from app.errors import Lacking

MEBIBYTE = 1024**2
SETTING = "PARETOPATH_MAX_MEMORY_BYTES"
REFUSED = re.compile(r"can(no|')t allocate memory|bad_alloc")


def limit_memory(n_bytes: int) -> None:
    """Let this process hold at most so many bytes of memory of its own.

    Raises
    ------
    Lacking
        If it holds more already.
    """
    held = _held()
    if held > n_bytes:
        raise Lacking(
            f"{SETTING} is {_shown(n_bytes)}, but a worker needs {_shown(held)} before its job begins; give it more"
        )
    resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def shortage(error: Exception) -> str:
    """A sentence on what to change where `error` is a lack of memory; empty where it is something else."""
    if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or REFUSED.search(str(error))):
        return ""
    smaller = "take a smaller network, fewer samples (data.limit) or smaller batches"
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if isinstance(error, torch.OutOfMemoryError):
        return f"the job needs more memory than its GPU has free: {smaller}"
    if limit == resource.RLIM_INFINITY:
        return f"the job needs more memory than its machine has: {smaller}"
    return f"the job needs more memory than the {_shown(limit)} of {SETTING}: raise that limit, or {smaller}"


def _held() -> int:
    """Bytes that ``RLIMIT_DATA`` counts."""
    found = re.search(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _shown(n_bytes: int) -> str:
    return f"{n_bytes / MEBIBYTE:,.0f} MiB"
