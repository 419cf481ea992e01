"""Adaptive dropout: error against nonzeros of LeNet-300-100.

On a sixth of MNIST, each variant trained once at the paper's strength from a fresh network, with a learning rate of
0.001 for a thirtieth of its steps.
"""

from collections.abc import Iterator

from benchmarks.reproduce.experiment import Experiment, Job, Row, Setting, Study

IMAGES = "mnist10k.npz"
EPSILON, STRENGTH, PRIOR_STRENGTH = 2.0, 1e-3, 1 / 60_000
STEPS = "rate=1e-3,batch=128,first_epochs=40,cleanup=false"
PUBLISHED = {
    "variational_local_additive": (3.21, 0.0238),
    "variational_local": (1.41, 0.0885),
    "variational": (1.54, 0.5946),
    "eta_trick": (2.16, 0.0513),
    "ada_prox": (2.94, 0.0276),
    "ada_tikhonov": (2.88, 0.0183),
    "log_sum": (2.93, 0.0190),
}


def rows(setting: Setting) -> Iterator[Row]:
    """A row for every variant: error of test images in per cent, fraction of the weights without biases left."""
    for variant, (error, kept) in PUBLISHED.items():
        strength = PRIOR_STRENGTH if variant.startswith("variational") else STRENGTH
        method = f"dropout:variant={variant},epsilon={EPSILON},strength={strength},{STEPS}"
        experiment = setting.built(Job("mlp:300,100", IMAGES, method, 2, "l1:parameters=weights"))
        point = next(iter(experiment.tracer.trace(experiment.problem))).point
        weights = [layer for layer in point.layers if len(layer.shape) > 1]
        left = sum(layer.n_nonzero for layer in weights) / sum(layer.shape[0] * layer.shape[1] for layer in weights)
        found = {"error %": 100 * (1 - point.metrics["test_accuracy"]), "nonzero": left}
        yield {"variant": variant, **found, "published error %": error, "published nonzero": kept}


EXPERIMENT = Experiment(
    "LeJeune, Javadi, Baraniuk, The flip side of the reweighted coin: duality of adaptive dropout and regularization, "
    "NeurIPS 2021",
    "Adaptive dropout and reweighted penalties are the same regularisation; on LeNet-300-100 they end at a few per "
    "cent of the weights with little lost.",
    (Study("LeNet-300-100 on mnist10k, 40 passes; published: MNIST, 200 passes", rows, IMAGES),),
    seeds=3,
)
