"""The problems: network, data, loss, and the box that hypervolumes are a share of."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from benchmarks.rivals import Setup
from engine.data import is_path, to_npz
from engine.data.values import regress
from engine.spec import Experiment, JobSpec, Trails, build, shorthand


@final
@dataclass(frozen=True)
class Benchmark:
    """A problem on which rivals are compared.

    Parameters
    ----------
    network, data : str
        In shorthand; data files are looked for in the data folder.
    worst_loss : float
        Reference point of the hypervolumes: the loss of knowing nothing.
    worst_l1, least_l1 : float or None
        Its l1 norm, and where the logarithmic box begins; the product's largest, and a hundredth of it, if None.
    loss : str
    method : str
        Of the product; its defaults where the problem allows them.
    setup : str
        Which of the reference paper's experiments it is closest to.
    uploads : callable
        Data made on the spot, by name.
    """

    network: str
    data: str
    worst_loss: float | None
    worst_l1: float | None = None
    least_l1: float | None = None
    loss: str = "auto"
    method: str = "continuation"
    setup: Setup = "mnist"
    uploads: Callable[[], Mapping[str, bytes]] = dict

    def missing(self, folder: Path) -> str:
        """The file that is not there, empty if none is missing."""
        name = shorthand(self.data).name
        return str(self._file(folder)) if is_path(name) and not self._file(folder).exists() else ""

    def spec(self, folder: Path, points: int, seed: int, device: str) -> JobSpec:
        """The problem as a job with the product's method."""
        data = shorthand(self.data)
        named = replace(data, name=str(self._file(folder))) if is_path(data.name) else data
        network, method = shorthand(self.network), shorthand(self.method)
        return JobSpec(network, named, self.loss, method=method, points=points, seed=seed, device=device)

    def experiment(self, spec: JobSpec, trails: Trails | None = None) -> Experiment:
        """A fresh problem and tracer."""
        return build(spec, self.uploads(), trails)

    def _file(self, folder: Path) -> Path:
        path = Path(shorthand(self.data).name)
        return path if path.exists() else folder / path


def _wide_lasso() -> Mapping[str, bytes]:
    """1,000 samples, 2,000 columns of which 50 matter, noise of a tenth of the signal's variance."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1000, 2000)).astype(np.float32)
    coef = np.zeros(2000)
    coef[rng.choice(2000, 50, replace=False)] = rng.standard_normal(50)
    signal = X @ coef
    y = signal + math.sqrt(0.1) * signal.std() * rng.standard_normal(1000)
    return {"wide": to_npz(regress(X, y.astype(np.float32)))}


BENCHMARKS: dict[str, Benchmark] = {
    "diabetes": Benchmark("linear:bias=false", "diabetes:validation=0", 0.5, 2.0, 0.02),
    "lasso": Benchmark("linear:bias=false", "wide:validation=0,test=0", 0.5, 30.0, 0.3, uploads=_wide_lasso),
    "breast_cancer": Benchmark("linear", "breast_cancer", math.log(2), 20.0, 0.2, "logistic"),
    "iris": Benchmark(
        "mlp:4,4,activation=tanh,start=identity",
        "iris:split=paper,validation=0",
        math.log(3),
        42.0,
        0.42,
        setup="iris",
    ),
    "digits": Benchmark("mlp:32", "digits", math.log(10), 300.0, 3.0),
    "mnist": Benchmark("mlp:20,20", "mnist10k.npz", math.log(10), 450.0, 4.5),
    "lenet": Benchmark("mlp:300,100", "mnist10k.npz", math.log(10), 650.0, 6.5),
    "cifar": Benchmark("cifar_cnn", "cifar12k.npz", math.log(10), 2000.0, 20.0, setup="cifar"),
    "million": Benchmark("mlp:1000,925", "digits", math.log(10), 550.0, 5.5),
}


def own(network: str, data: str) -> Benchmark:
    """A problem of the user's; its box is taken from what is found."""
    setup: Setup = "cifar" if "cnn" in network or "resnet" in network else "mnist"
    return Benchmark(network, data, None, setup=setup)
