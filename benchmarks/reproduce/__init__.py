"""Programs that repeat published experiments, at the scale that a test machine allows; one line for each paper."""

from benchmarks.reproduce import continuation, dropout, growing, relevance, structured, tickets
from benchmarks.reproduce.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    "continuation": continuation.EXPERIMENT,
    "structured": structured.EXPERIMENT,
    "relevance": relevance.EXPERIMENT,
    "dropout": dropout.EXPERIMENT,
    "tickets": tickets.EXPERIMENT,
    "growing": growing.EXPERIMENT,
}
