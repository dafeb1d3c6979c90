"""Maps of optimal transport chosen by an index, against the maps they are made of."""

import pytest
import torch
from closed_forms import normal, spd

from latentflow import MLPPotential, Potential, gaussian_transport_potential
from latentflow.flow import ODE, Newton
from latentflow.transport import TransportBank, TransportMap, fit_transport

near = {"rtol": 1e-6, "atol": 1e-6}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian_map(seed, dim=3):
    m0, m1 = normal(seed, 2, dim)
    return TransportMap(gaussian_transport_potential(m0, spd(dim, seed), m1, spd(dim, seed + 1)))


@pytest.fixture(scope="module")
def fitted():
    """Maps of two classes, fitted to samples: one doubles and shifts, the other bends."""
    x = torch.randn(600, 2, generator=seeded(1))
    ends = [2 * x + 1, x + x.tanh()]
    return TransportBank([fit_transport(x, y[torch.randperm(600)], budget=30, generator=seeded(2)) for y in ends])


class Shaped(Potential):
    """A potential whose map is bent, x + w sin(x + x') along each coordinate and the next one."""

    def __init__(self, weight=0.3):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, z, t):
        return -self.weight * ((z + z.roll(1, -1)).cos() + 0 * t.unsqueeze(-1)).sum(-1)


def test_an_inverse_has_the_gradients_of_the_map_turned_round():
    """Catches an inverse that cuts a loss off from its points and weights, and a Jacobian that is not inverted."""
    own = TransportMap(Shaped())
    y = normal(4, 6, 3).requires_grad_()
    x = own.inverse(y, Newton())
    loss = (x * normal(5, 6, 3)).sum()
    slopes, rate = torch.autograd.grad(loss, [y, own.potential.weight])
    jacobians = torch.stack([torch.autograd.functional.jacobian(own.map, point) for point in x.detach()])
    torch.testing.assert_close(slopes, torch.linalg.solve(jacobians.mT, normal(5, 6, 3)))

    @torch.no_grad()
    def loss_at(weight):
        other = TransportMap(Shaped(weight))
        return (other.inverse(y, Newton(tolerance=1e-13)) * normal(5, 6, 3)).sum()

    difference = (loss_at(0.3 + 1e-5) - loss_at(0.3 - 1e-5)) / 2e-5
    torch.testing.assert_close(rate, difference, rtol=1e-6, atol=1e-8)
    bank = TransportBank([own, gaussian_map(5)])
    k = torch.tensor([0, 1, 0, 1, 1, 0])
    both = torch.autograd.grad((bank.inverse(y, k, Newton()) * normal(5, 6, 3)).sum(), y)[0]
    torch.testing.assert_close(both[k == 0], slopes[k == 0], rtol=1e-4, atol=1e-6)
    assert not own.inverse(y.detach()).requires_grad


def test_each_point_is_moved_by_the_map_of_its_condition():
    """Catches an index that is taken for another one, and groups that are put back in another order."""
    bank = TransportBank([gaussian_map(seed) for seed in (0, 5, 9)])
    x, k = normal(3, 4, 5, 3), torch.tensor([[0, 1, 2, 1, 0], [2, 2, 1, 0, 1]]).repeat(2, 1)
    images = bank.map(x, k)
    for place in ((0, 0), (0, 1), (1, 0), (3, 4)):
        own = bank[int(k[place])]
        torch.testing.assert_close(images[place], own.map(x[place]), **near)
        torch.testing.assert_close(bank.interpolate(x, k, 0.3)[place], own.interpolate(x[place], 0.3), **near)
    torch.testing.assert_close(bank.inverse(images, k, Newton()), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bank.map(x, 2), bank[2].map(x), **near)
    torch.testing.assert_close(bank.inverse(bank.map(x, 2), 2, Newton()), x, rtol=1e-5, atol=1e-5)
    assert len(bank) == len(bank.potentials) == 3


def test_its_flow_ends_where_its_map_does():
    """Catches a flow of another condition, and a log-determinant of one condition for all samples."""
    bank = TransportBank([gaussian_map(seed) for seed in (0, 5)])
    x, k = normal(3, 6, 3), torch.tensor([0, 1, 1, 0, 1, 0])
    path = bank.flow(k).integrate(x, [0.0, 1.0], ODE())
    torch.testing.assert_close(path.z[-1], bank.map(x, k), **near)
    for i, own in enumerate(k.tolist()):
        J = torch.func.jacrev(bank[own].map)(x[i])
        torch.testing.assert_close(path.log_det[-1, i], torch.logdet(J), **near)


def test_classes_are_transported_each_to_its_own(fitted):
    """Catches maps that share their coordinates: those of the classes differ."""
    x = torch.randn(500, 2, generator=seeded(3))
    first, second = (fitted.map(x, torch.full((500,), k)) for k in (0, 1))
    assert (first - 2 * x - 1).square().sum(-1).mean() < 0.05 * 8
    assert (second - x - x.tanh()).square().sum(-1).mean() < 0.1 * 4.8
    assert all(own.certificate is not None for own in fitted.maps)


def test_a_bank_is_saved_and_loaded(tmp_path, fitted):
    """Catches weights of one map that are given to all."""
    fitted.save(tmp_path / "bank.pt")
    loaded = TransportBank.load(tmp_path / "bank.pt")
    x, k = torch.randn(8, 2, generator=seeded(4)), torch.arange(8) % 2
    assert torch.equal(loaded.map(x, k), fitted.map(x, k))
    assert [own.certificate for own in loaded.maps] == [own.certificate for own in fitted.maps]
    with pytest.raises(ValueError, match="potentials: expected 2, got 1"):
        TransportBank.load(tmp_path / "bank.pt", [MLPPotential(2)])


def test_own_potentials_are_loaded(tmp_path):
    """Catches potentials that are ignored."""
    torch.manual_seed(0)
    bank = TransportBank([TransportMap(MLPPotential(2, (8,))) for _ in range(2)])
    bank.save(tmp_path / "bank.pt")
    loaded = TransportBank.load(tmp_path / "bank.pt", [MLPPotential(2, (8,)) for _ in range(2)])
    x, k = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 1, 1])
    assert torch.equal(loaded.map(x, k), bank.map(x, k))
    with pytest.raises(ValueError, match="potential: expected one built like the one that was trained, got None"):
        TransportBank.load(tmp_path / "bank.pt")


def test_wrong_arguments_are_named():
    """Catches errors that come from deep inside, or none."""
    bank = TransportBank([gaussian_map(0), gaussian_map(1)])
    with pytest.raises(ValueError, match="maps: expected at least one TransportMap, got none"):
        TransportBank([])
    with pytest.raises(TypeError, match="maps: expected TransportMap, got"):
        TransportBank([bank.potentials[0]])
    with pytest.raises(TypeError, match="maps: expected a sequence of TransportMap, got"):
        TransportBank(bank[0])
    with pytest.raises(ValueError, match="2"):
        TransportBank([gaussian_map(0), gaussian_map(1, dim=2)])
    for call in (bank.map, bank.inverse):
        with pytest.raises(ValueError, match=r"k: expected indices in 0\.\.1, got 2"):
            call(normal(0, 2, 3), 2)
        with pytest.raises(TypeError, match="k: expected an int64 index"):
            call(normal(0, 2, 3), torch.zeros(2))
