"""The reference paper's algorithm against its published numbers, and its step against the product's."""

from itertools import islice

import pytest
import torch

from benchmarks.rivals.amakor import IRIS, Momentum, multiobjective_step, points_of_iris
from engine.correctors import common_descent
from engine.penalties import L1
from tests.engine import problems


def test_golden_step_with_ten_bisections() -> None:
    theta = torch.tensor([1.0, -0.2, 0.0, 0.03], dtype=torch.float64)
    grad = torch.tensor([0.5, 0.1, -2.0, -0.4], dtype=torch.float64)
    expected = torch.tensor([0.92399902, -0.15279785, 0.04399414, 0.0], dtype=torch.float64)
    torch.testing.assert_close(multiobjective_step(theta, grad, 0.1), expected, rtol=0, atol=5e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_step_is_the_one_that_the_product_has_too(seed: int) -> None:
    penalty = L1(problems.MATRIX)
    theta, grad = problems.vector(seed, 16), problems.vector(seed + 100, 16)
    expected, _ = common_descent(penalty, theta, grad, 0.1, "bisection")
    torch.testing.assert_close(multiobjective_step(theta, grad, 0.1), expected, rtol=0, atol=1e-12)


def test_momentum_extrapolates_from_its_own_extrapolations_and_restarts_where_the_norm_rises() -> None:
    momentum = Momentum(2.0)
    assert momentum.ahead(torch.tensor([8.0])) == 8  # it remembers the first weights themselves
    assert momentum.ahead(torch.tensor([6.0])) == 6  # beta = 0
    assert momentum.ahead(torch.tensor([4.0])) == 4 + (4 - 6) / 4
    assert momentum.ahead(torch.tensor([5.0])) == 5  # 5 + 2/5 (5 - 3.5) has a larger norm: restart
    assert momentum.ahead(torch.tensor([7.0])) == 7 - (7 - 5) / 2  # beta = -1/2


@pytest.mark.slow
def test_iris_is_the_published_path() -> None:
    problem = problems.iris_network()
    networks = list(islice(points_of_iris(problem.loss, IRIS), 8))
    losses = [float(problem.loss.value(network.theta)) for network in networks]
    assert losses[0] == pytest.approx(1.092123, abs=1e-5)
    assert float(problem.penalty.value(networks[0].theta)) == pytest.approx(0.748270, abs=2e-4)
    assert losses[1:] == pytest.approx([1.0336, 0.9064, 0.7716, 0.6486, 0.5642, 0.5028, 0.4497], abs=1.5e-4)
