"""Networks without what their zeros make superfluous: neurons, filters, input features, heads and whole branches.

A unit that is the same for every sample is held by the biases of its readers; one that nothing reads is not computed.
Both are found on the graph of the network's calls: constants from the input on, what is wanted from the output back.
"""

from engine.compaction.architecture import build, describe
from engine.compaction.compacting import compact

__all__ = ["build", "compact", "describe"]
