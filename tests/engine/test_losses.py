"""Every loss against autograd, and networks as flat vectors."""

import numpy as np
import pytest
import torch
from torch import nn

from engine.criteria import CrossEntropy, LogisticLoss, SquaredError
from engine.data import load
from engine.errors import InvalidSpec
from engine.layout import layout
from engine.losses import Loss, NetworkLoss
from tests.engine import problems


def losses() -> dict[str, Loss]:
    return {
        "least squares": problems.diabetes().problem.loss,
        "logistic": problems.breast_cancer()[2].loss,
        "network": problems.digits_network().loss,
        "batch norm": problems.norm_network().loss,
        "text": problems.text_network().loss,
        "iris": problems.iris_network().loss,
    }


@pytest.fixture(params=losses())
def loss(request: pytest.FixtureRequest) -> Loss:
    return losses()[request.param]


class TestContract:
    def test_gradient_is_that_of_the_value(self, loss: Loss) -> None:
        theta = loss.initial() + 0.1 * problems.vector(1, loss.n_params).to(loss.initial())
        direction = problems.vector(2, loss.n_params).to(theta)
        direction /= direction.norm()
        _, grad = loss.value_and_grad(theta)
        step = 1e-5 if theta.dtype == torch.float64 else 3e-3
        ahead, behind = (loss.value_and_grad(theta + s * direction)[0] for s in (step, -step))
        assert float((ahead - behind) / (2 * step)) == pytest.approx(float(grad @ direction), rel=2e-2, abs=2e-3)

    def test_batches_are_a_partition_that_the_seed_decides(self, loss: Loss) -> None:
        first, again, other = (torch.cat(list(loss.batches(seed, 50))) for seed in (1, 1, 2))
        assert sorted(first.tolist()) == list(range(loss.n_samples))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_effort_counts_passes_over_the_data(self, loss: Loss) -> None:
        before = loss.effort
        loss.value_and_grad(loss.initial())
        for batch in loss.batches(0, 64):
            loss.value_and_grad(loss.initial(), batch)
        assert loss.effort - before == pytest.approx(2.0)

    def test_value_alone_is_the_same_for_a_third_of_the_effort(self, loss: Loss) -> None:
        theta = loss.initial() + 0.1
        with_gradient, _ = loss.value_and_grad(theta)
        before = loss.effort
        assert float(loss.value(theta)) == pytest.approx(float(with_gradient), rel=1e-12)
        assert loss.effort - before == pytest.approx(1 / 3)

    def test_value_of_some_samples_is_their_share_of_that_of_all(self, loss: Loss) -> None:
        theta = loss.initial() + 0.1
        halves, before = list(loss.batches(3, loss.n_samples // 2)), loss.effort
        value = sum(float(loss.value(theta, half)) * len(half) / loss.n_samples for half in halves)
        assert loss.effort - before == pytest.approx(1 / 3)
        assert value == pytest.approx(float(loss.value(theta)), rel=1e-5)

    def test_hessian_products_are_symmetric_and_linear(self, loss: Loss) -> None:
        theta = loss.initial() + 0.1
        support = torch.arange(0, loss.n_params, 2)
        u, v = (problems.vector(seed, len(support)).to(theta) for seed in (1, 2))
        product = loss.hvp(theta, support)
        assert float(u @ product(v)) == pytest.approx(float(v @ product(u)), rel=1e-3, abs=1e-5)
        torch.testing.assert_close(product(u + 2 * v), product(u) + 2 * product(v), rtol=1e-3, atol=1e-5)

    def test_hessian_products_stay_those_of_their_weights(self, loss: Loss) -> None:
        theta = loss.initial() + 0.1
        support = torch.arange(loss.n_params)
        product, direction = loss.hvp(theta, support), problems.vector(1, loss.n_params).to(theta)
        before = product(direction)
        loss.value_and_grad(theta + 1, next(loss.batches(0, 50)))
        assert torch.equal(product(direction), before)

    def test_hessian_products_count_as_effort(self, loss: Loss) -> None:
        support = torch.arange(0, loss.n_params, 2)
        product, before = loss.hvp(loss.initial(), support), loss.effort
        product(torch.ones_like(loss.initial()[support]))
        share = 1.0 if isinstance(loss, NetworkLoss) else len(support) / loss.n_params
        assert loss.effort - before == pytest.approx(share)

    def test_arguments_and_answers_are_the_callers_own(self, loss: Loss) -> None:
        theta = loss.initial()
        kept = theta.clone()
        _, grad = loss.value_and_grad(theta)
        copy = grad.clone()
        loss.value_and_grad(theta + 1)
        assert torch.equal(theta, kept)
        assert torch.equal(grad, copy)

    def test_gradients_in_place_are_those_of_the_lent_weights_as_they_are_now(self, loss: Loss) -> None:
        theta = loss.initial() + 0.1
        batch = next(loss.batches(0, 50))
        lent = loss.lend(theta)
        for move in (0.0, 0.2):
            lent.add_(move)
            found = loss.value_and_grad_(lent, batch)[1]
            kept = found.clone()
            found.fill_(np.nan)
            assert torch.equal(kept, loss.value_and_grad(lent.clone(), batch)[1])
        assert torch.equal(theta, loss.initial() + 0.1)

    def test_gradients_are_the_same_while_stepping(self, loss: Loss) -> None:
        batch, lent = next(loss.batches(0, 50)), loss.lend(loss.initial() + 0.1)
        value, grad = loss.value_and_grad(lent.clone(), batch)
        lent = loss.lend(loss.initial() + 0.1)
        with loss.stepping(32):
            found = loss.value_and_grad_(lent, batch)
            lent.add_(1.0)
        assert torch.equal(found[0], value)
        assert torch.equal(found[1], grad)
        assert torch.equal(lent, loss.initial() + 0.1 + 1.0)

    def test_gradients_in_place_cost_the_same_effort(self, loss: Loss) -> None:
        before, lent = loss.effort, loss.lend(loss.initial())
        for batch in loss.batches(0, 64):
            loss.value_and_grad_(lent, batch)
        assert loss.effort - before == pytest.approx(1.0)

    def test_start_weights_do_not_change(self, loss: Loss) -> None:
        before = loss.initial()
        loss.value_and_grad(before + 1)
        assert torch.equal(loss.initial(), before)

    def test_repeated_evaluation_gives_the_same_bits(self, loss: Loss) -> None:
        theta = loss.initial() + 0.1
        (a, g), (b, h) = loss.value_and_grad(theta), loss.value_and_grad(theta)
        assert torch.equal(a, b)
        assert torch.equal(g, h)


def test_flat_gradient_is_the_networks_own() -> None:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10))
    twin = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10))
    twin.load_state_dict(module.state_dict())
    data = load("digits", {"limit": 100}, {})
    value, grad = NetworkLoss(module, data, CrossEntropy()).value_and_grad(
        torch.cat([p.detach().reshape(-1) for p in twin.parameters()])
    )
    expected = nn.functional.cross_entropy(twin(torch.from_numpy(data.X_train)), torch.from_numpy(data.y_train))
    expected.backward()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad, torch.cat([p.grad.reshape(-1) for p in twin.parameters()]))


def hessian(loss: Loss, theta: torch.Tensor) -> torch.Tensor:
    product = loss.hvp(theta, torch.arange(loss.n_params))
    return torch.stack([product(row) for row in torch.eye(loss.n_params, dtype=theta.dtype)])


def test_hessian_of_least_squares_is_the_gram_matrix() -> None:
    lasso = problems.diabetes()
    found = hessian(lasso.problem.loss, lasso.problem.loss.initial())
    np.testing.assert_allclose(found.numpy(), lasso.X.T @ lasso.X / len(lasso.y), rtol=0, atol=1e-14)


def test_hessian_of_the_logistic_loss_is_autograds() -> None:
    X, y, problem = problems.breast_cancer()
    X, y, theta = torch.tensor(X), torch.tensor(y), 0.1 * problems.vector(1, 30)
    expected = torch.autograd.functional.hessian(lambda t: nn.functional.softplus(-y * (X @ t)).mean(), theta)
    torch.testing.assert_close(hessian(problem.loss, theta), expected)


@pytest.mark.parametrize("chunk", [4096, 60])
@pytest.mark.parametrize(
    "make", [problems.iris_network, problems.digits_network, problems.norm_network, problems.text_network]
)
def test_hessian_of_a_network_is_autograds(make, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.losses.MOST_AT_ONCE", chunk)
    loss = make().loss
    assert isinstance(loss, NetworkLoss)
    theta = loss.initial() + 0.1 * problems.vector(1, loss.n_params).to(loss.initial())
    support = torch.arange(0, loss.n_params, 5)
    direction = problems.vector(2, len(support)).to(theta)
    X, y = loss._X, loss._y

    def value(flat: torch.Tensor) -> torch.Tensor:
        weights = {b.name: flat[b.start : b.stop].view(b.shape) for b in loss.layout}
        return loss.criterion(torch.func.functional_call(loss.module.eval(), weights, (X,)), y)

    along = torch.zeros_like(theta).index_copy(0, support, direction)
    expected = torch.autograd.functional.vhp(value, theta, along)[1][support]
    torch.testing.assert_close(loss.hvp(theta, support)(direction), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("width", "most"), [(8, 4096), (2**16, 32)])
def test_samples_come_in_even_parts_that_the_cache_holds(width: int, most: int) -> None:
    X = np.random.default_rng(0).standard_normal((8000, 2), np.float32)
    module = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2, bias=False))
    loss = NetworkLoss(module, problems.dataset(X, X[:, 0] > 0), CrossEntropy())
    sizes = [len(inputs) for inputs, _ in loss.samples()]
    assert sum(sizes) == 8000
    assert max(sizes) - min(sizes) <= 1
    assert most / 2 < max(sizes) <= most


def test_many_samples_are_evaluated_in_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = problems.digits_network().loss
    assert isinstance(loss, NetworkLoss)
    batch, theta, sizes = torch.arange(200), loss.initial(), []
    whole = float(loss.value(theta, batch))
    monkeypatch.setattr(loss, "_at_once", 64)
    loss.module[-1].register_forward_pre_hook(  # type: ignore[index]
        lambda _module, inputs: sizes.append(len(inputs[0]))
    )
    before = loss.effort
    assert float(loss.value(theta, batch)) == pytest.approx(whole, rel=1e-5)
    assert sizes == [50] * 4
    assert loss.effort - before == pytest.approx(200 / loss.n_samples / 3)


class Recurrent(nn.Module):
    """A network with a layer that gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.states, self.output = nn.GRU(2, 3000, batch_first=True), nn.Linear(3000, 2)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.output(self.states(X)[0][:, -1])


def test_networks_with_hooks_are_recorded_while_stepping() -> None:
    loss = problems.digits_network().loss
    assert isinstance(loss, NetworkLoss)
    batch, theta = next(loss.batches(0, 50)), loss.initial()
    plain = loss.value_and_grad(theta, batch)[1]
    with loss.stepping(32):
        assert torch.is_inference_mode_enabled()
    loss.module[-1].register_forward_hook(lambda _module, _inputs, outputs: 2 * outputs)  # type: ignore[index]
    expected = loss.value_and_grad(theta, batch)[1]
    with loss.stepping(32):
        assert torch.equal(loss.value_and_grad_(loss.lend(theta), batch)[1], expected)
    assert not torch.allclose(plain, expected)


@pytest.mark.slow
def test_layers_that_give_tuples_are_measured_too() -> None:
    X = np.random.default_rng(0).standard_normal((400, 7, 2), np.float32)
    loss = NetworkLoss(Recurrent(), problems.dataset(X, X[:, 0, 0] > 0), CrossEntropy())
    sizes = [len(inputs) for inputs, _ in loss.samples()]
    assert sum(sizes) == 400
    assert max(sizes) * 7 * 3000 * 4 <= 2**23


def test_hessian_of_a_smooth_network_is_how_its_gradient_changes() -> None:
    loss = problems.iris_network().loss
    theta, direction = loss.initial() + 0.1, problems.vector(1, loss.n_params)
    ahead, behind = (loss.value_and_grad(theta + step * direction)[1] for step in (1e-5, -1e-5))
    product = loss.hvp(theta, torch.arange(loss.n_params))
    torch.testing.assert_close(product(direction), (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-8)


def test_layout_tells_weights_biases_and_norms_apart() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 2))
    blocks = layout(module)
    assert [b.kind for b in blocks] == ["weight", "bias", "norm", "norm", "weight", "bias"]
    assert [b.start for b in blocks] == [0, 18, 20, 22, 24, 32]
    assert blocks[-1].stop == sum(p.numel() for p in module.parameters())


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="no parameters"):
        layout(nn.Flatten())


def test_tied_parameters_count_once() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    assert layout(nn.Sequential(first, second))[-1].stop == 9 + 3 + 3


def test_training_moves_buffers_and_evaluation_does_not() -> None:
    loss = problems.norm_network().loss
    theta, before = loss.initial(), loss.buffers
    loss.value_and_grad(theta)
    assert all(torch.equal(before[name], buffer) for name, buffer in loss.buffers.items())
    loss.value_and_grad(theta, next(loss.batches(0, 50)))
    assert not torch.equal(before["2.running_mean"], loss.buffers["2.running_mean"])


def test_a_batch_is_in_training_mode_after_an_evaluation() -> None:
    loss = problems.norm_network().loss
    batch = next(loss.batches(0, 50))
    first = loss.value_and_grad(loss.initial(), batch)[0]
    loss.metrics(loss.initial())
    assert torch.equal(loss.value_and_grad(loss.initial(), batch)[0], first)


def test_calibration_gives_the_exact_statistics_of_the_training_data() -> None:
    problem = problems.norm_network()
    loss = problem.loss
    assert isinstance(loss, NetworkLoss)
    loss.calibrate(loss.initial())
    convolved = loss.module[1](loss.module[0](torch.from_numpy(load("digits", {"limit": 200}, {}).X_train)))
    torch.testing.assert_close(loss.buffers["2.running_mean"], convolved.mean(dim=(0, 2, 3)).detach())


def test_buffers_are_restored_exactly() -> None:
    loss = problems.norm_network().loss
    kept = loss.buffers
    loss.value_and_grad(loss.initial(), next(loss.batches(0, 50)))
    loss.load_buffers(kept)
    assert all(torch.equal(kept[name], buffer) for name, buffer in loss.buffers.items())


def test_metrics_are_those_of_each_split() -> None:
    data = load("digits", {}, {})
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    loss = NetworkLoss(module, data, CrossEntropy())
    found = loss.metrics(loss.initial())
    with torch.no_grad():
        right = module(torch.from_numpy(data.X_test)).argmax(1).numpy() == data.y_test
    assert found["test_accuracy"] == pytest.approx(right.mean())
    assert set(found) == {
        *("train_accuracy", "validation_loss", "validation_accuracy"),
        *("test_loss", "test_accuracy"),
    }


def test_the_loss_of_a_text_is_the_mean_over_all_its_places() -> None:
    data, loss = load("markov_text", {"context": 8, "length": 900}, {}), problems.text_network().loss
    assert isinstance(loss, NetworkLoss)
    theta = loss.initial() + 0.1 * problems.vector(1, loss.n_params).to(loss.initial())
    found, value = loss.metrics(theta), loss.value(theta)
    with torch.no_grad():
        chances = loss.module(torch.from_numpy(data.X_train)).softmax(dim=-1)
        guesses = loss.module(torch.from_numpy(data.X_test)).argmax(dim=-1).numpy()
    right = torch.gather(chances, 2, torch.from_numpy(data.y_train)[..., None])
    assert float(value) == pytest.approx(-float(right.log().mean()), rel=1e-5)
    assert found["test_accuracy"] == pytest.approx((guesses == data.y_test).mean())
    assert found["test_bits_per_character"] == pytest.approx(found["test_loss"] / np.log(2))


def test_squared_error_is_half_the_mean_square() -> None:
    outputs, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    assert float(SquaredError()(outputs, y)) == pytest.approx((1 + 4) / 4)


def test_logistic_loss_is_cross_entropy_of_two_classes() -> None:
    odds, y = torch.tensor([[0.3], [-2.0]]), torch.tensor([1, 0])
    two = torch.cat([torch.zeros_like(odds), odds], dim=1)
    torch.testing.assert_close(LogisticLoss()(odds, y), CrossEntropy()(two, y))


@pytest.mark.parametrize(
    ("criterion", "data", "words"),
    [
        (CrossEntropy(), "diabetes", "squared_error"),
        (SquaredError(), "digits", "cross_entropy"),
        (LogisticLoss(), "digits", "2 classes"),
        (LogisticLoss(), "markov_text", "is language; use loss 'cross_entropy'"),
        (SquaredError(), "markov_text", "is language; use loss 'cross_entropy'"),
    ],
)
def test_a_loss_refuses_data_it_is_not_for(criterion, data: str, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        criterion.check(load(data, {}, {}))


def test_nan_in_the_weights_shows_in_the_loss() -> None:
    loss = problems.digits_network().loss
    value, _ = loss.value_and_grad(torch.full((loss.n_params,), np.nan))
    assert not torch.isfinite(value)
