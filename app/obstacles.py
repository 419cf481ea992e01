"""Whether this installation may work on a job that another one queued."""

from collections.abc import Mapping
from importlib.util import find_spec

import torch

from app.versions import versions
from storage.records import Job


def obstacle(job: Job) -> str:
    """Why the job must be left to others: other versions, code or a device that is lacking; empty where it need not."""
    return _other_versions(job.facts.get("versions", versions())) or _lacking_code(job) or _lacking_device(job)


def _other_versions(made_with: Mapping[str, str]) -> str:
    if made_with == versions():
        return ""
    here, there = _listed(versions()), _listed(made_with)
    return f"it was queued by {there}, this is {here}; install the same, or pause and resume the job"


def _listed(found: Mapping[str, str]) -> str:
    return " with ".join(f"{name} {number}" for name, number in found.items())


def _lacking_code(job: Job) -> str:
    network = job.spec["network"]["name"]
    module, is_code, _ = network.partition(":")
    return f"its network {network!r} is code that is not installed here" if is_code and not _exists(module) else ""


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _lacking_device(job: Job) -> str:
    device = job.spec.get("device", "auto")
    index = int(device.partition(":")[2] or 0)
    lacking = device.startswith("cuda") and index >= torch.cuda.device_count()
    return f"it is to run on {device!r}, which is not here" if lacking else ""
