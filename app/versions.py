"""The versions that the numbers of a front depend on."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version


@cache
def versions() -> Mapping[str, str]:
    """Those of this installation; of torch the first two parts."""
    return {"paretopath": version("paretopath"), "torch": ".".join(version("torch").split(".")[:2])}
