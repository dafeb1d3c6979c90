"""The core suite on a device: ``pytest tests/latentflow/test_devices.py --device cuda``.

Each computation is compared with the same one in float64 on the CPU. Another test makes every tensor that names no
device a ``meta`` tensor, which cannot be mixed with others: a line of the library that forgets the device of its inputs
fails, on a machine without an accelerator too.
"""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

import latentflow as lf
from latentflow import calculus, flow, pde, potentials, transport, vae

DIM, COUNT, STEPS = 4, 12, 3
HIDDEN = (8,)


def potential(kind):
    """A potential with weights from a fixed seed, on the CPU in float64."""
    torch.manual_seed(0)
    made = {
        "mlp": lambda: lf.MLPPotential(DIM, HIDDEN),
        "mlp, Fourier times": lambda: lf.MLPPotential(DIM, HIDDEN, time_embedding=potentials.FourierEmbedding(4)),
        "resnet": lambda: lf.ResNetPotential(DIM, 6),
        "fourier": lambda: lf.FourierPotential(DIM, 5, amplitude=1.0),
        "icnn": lambda: lf.ICNNPotential(DIM, HIDDEN),
        "quadratic": lambda: lf.QuadraticPotential(DIM, 0.3 * torch.eye(DIM), torch.ones(DIM), 0.5),
        "sum": lambda: lf.MLPPotential(DIM, HIDDEN) + lf.QuadraticPotential(DIM, 0.3 * torch.eye(DIM)) * 0.5,
        "function": lambda: lf.FunctionPotential(lambda z, t: (z.square().sum(-1) * (1 + t)).sin()),
        "bank": lambda: lf.PotentialBank([lf.MLPPotential(DIM, HIDDEN) for _ in range(3)]),
    }[kind]()
    return made.double()


KINDS = ("mlp", "mlp, Fourier times", "resnet", "fourier", "icnn", "quadratic", "sum", "function", "bank")


def points(device, dtype):
    """Points, times and indices of potentials."""
    source = torch.Generator().manual_seed(1)
    z = torch.randn(COUNT, DIM, generator=source, dtype=torch.float64)
    t = torch.rand(COUNT, generator=source, dtype=torch.float64)
    k = torch.randint(3, (COUNT,), generator=source)
    return z.to(device, dtype), t.to(device, dtype), k.to(device)


def used(gradients):
    """The gradients of the weights that were used."""
    return [gradient for gradient in gradients if gradient is not None]


# Each function below prepares modules and inputs on a device, and returns what computes with them.


def jets(kind):
    """The derivatives of a potential, and the gradient of a loss of them."""

    def prepare(device, dtype):
        u, (z, t, k) = potential(kind).to(device, dtype), points(device, dtype)

        def run():
            field = u.select(k) if kind == "bank" else u
            first = lf.jet(field, z, t)
            second = [lf.laplacian(field, z, t), lf.hessian(field, z, t)]
            found = [first.value, first.gradient, first.time_derivative, *second]
            weights = list(u.parameters())
            if not weights:
                return found
            loss = lf.laplacian(field, z, t).square().mean() + first.value.mean()
            return found + used(torch.autograd.grad(loss, weights, allow_unused=True))

        return run

    return prepare


def jets_by_probes(device, dtype):
    """Estimates of a Laplacian."""
    u, (z, t, _) = potential("mlp").to(device, dtype), points(device, dtype)
    return lambda: [lf.laplacian(u, z, t, estimator) for estimator in (lf.Hutchinson(2), calculus.HutchPlusPlus(3))]


def residual(build):
    """The loss of a residual at points, and its gradient."""

    def prepare(device, dtype):
        u, (z, t, _) = potential("mlp").to(device, dtype), points(device, dtype)
        torch.manual_seed(3)
        law = build().to(device, dtype)

        def run():
            loss = law.loss(u, (z, t))
            return [loss, *used(torch.autograd.grad(loss, list(u.parameters()), allow_unused=True))]

        return run

    return prepare


def trajectory(follow, kind="mlp"):
    """A trajectory with its log-determinants, and the gradient of its end."""

    def prepare(device, dtype):
        u, (z, _, k) = potential(kind).to(device, dtype), points(device, dtype)
        z = (0.3 * z).requires_grad_()

        def run():
            found = follow(0.1 * (u.select(k) if kind == "bank" else u), z)
            results = [found.z, found.times.to(z.dtype), *([] if found.log_det is None else [found.log_det])]
            return [*results, torch.autograd.grad(found.z.square().sum(), z)[0]]

        return run

    return prepare


def density(device, dtype):
    """The log-density of a push-forward."""
    u, (z, _, _) = potential("mlp").to(device, dtype), points(device, dtype)
    zero = torch.zeros(DIM, device=device, dtype=dtype)

    def run():
        base = Independent(Normal(zero, torch.ones_like(zero)), 1)
        return [
            lf.PotentialFlow(0.1 * u).eval().push_forward(base, range(STEPS + 1), lf.Euler(lf.SlogDet())).log_prob(z)
        ]

    return run


def prior(build):
    """Log-densities of a prior, and the gradient of their mean."""

    def prepare(device, dtype):
        torch.manual_seed(4)
        module = build().to(device, dtype)
        z, t, k = points(device, dtype)

        def run():
            found = module(t, k).log_prob(z)
            weights = list(module.parameters())
            return [found, *(torch.autograd.grad(found.mean(), weights) if weights else ())]

        return run

    return prepare


def transported(device, dtype):
    """The log-density of a normal distribution that follows a flow."""
    u, (z, _, _) = potential("mlp").to(device, dtype), points(device, dtype)
    start = lf.GaussianPrior(DIM).to(device, dtype)
    moved = lf.TransportedPrior(start, 0.1 * u).eval()
    return lambda: [moved(2.0).log_prob(z)]


def turns(device, dtype):
    """A trajectory of two flows, one after the other."""
    u, (z, _, _) = potential("mlp").to(device, dtype), points(device, dtype)
    switched = lf.SwitchedPotential([0.1 * u, -0.2 * u], [1.0]).to(device)
    return lambda: [lf.PotentialFlow(switched).rollout(z, STEPS).z]


def in_box(device, dtype):
    """The loss of a residual at points of a box."""
    u, (z, _, _) = potential("mlp").to(device, dtype), points(device, dtype)
    followed = lf.PotentialFlow(0.1 * u).rollout(z, STEPS)
    box = pde.Together(pde.InBox(-1.0, torch.ones(DIM, device=device, dtype=dtype), 3), pde.AlongPath())
    return lambda: [lf.HJResidual().loss(u, followed, collocation=box)]


FRAMES = torch.rand(5, STEPS + 1, 1, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 1, 0])
SHAPE = FRAMES.shape[2:]


class AlmostCertain(nn.Module):
    """An encoder with next to no noise, so that the numbers of two devices can be compared."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        mean = self.encoder(x).mean
        return Independent(Normal(mean, 1e-6 * torch.ones_like(mean)), 1)


def encoders():
    """Encoders by their names."""
    return {"mlp": vae.MLPEncoder(SHAPE, DIM, (8,)), "conv": vae.ConvEncoder(SHAPE, DIM, (8,), channels=4)}


def decoders():
    """Decoders by their names."""
    return {
        "mlp": vae.MLPDecoder(DIM, SHAPE, (8,)),
        "gated": vae.GatedDecoder(DIM, SHAPE, (8, 8)),
        "conv": vae.ConvDecoder(DIM, SHAPE, (8,), channels=4),
    }


def step(bound, encoder="mlp", decoder="mlp", inferred=False, residual=None, **options):
    """The terms of a training step, and the gradient of the total."""

    def prepare(device, dtype):
        torch.manual_seed(6)
        posterior = lf.LabelPosterior(vae.MLPSequenceClassifier(SHAPE, STEPS + 1, 3), vae.ExactSum())
        model = lf.FlowVAE(
            AlmostCertain(encoders()[encoder]),
            decoders()[decoder],
            lf.PotentialBank([lf.MLPPotential(DIM, HIDDEN, output_scale=0.1) for _ in range(3)]),
            lf.DiffusionPrior(DIM, 3),
            residual,
            bound=bound(),
            label_posterior=posterior if inferred else None,
            **options,
        ).to(device, dtype)
        frames, k = FRAMES.to(device, dtype), None if inferred else LABELS.to(device)

        def run():
            terms = model(frames, k)
            gradients = used(torch.autograd.grad(terms["total"], list(model.parameters()), allow_unused=True))
            return [terms["total"], terms["reconstruction"], terms["kl"], *gradients]

        return run

    return prepare


def distances(device, dtype):
    """Distances and maps between samples, and between normal distributions."""
    z, _, _ = points(device, dtype)
    eye, mean = torch.eye(DIM, device=device, dtype=dtype), torch.zeros(DIM, device=device, dtype=dtype)

    def run():
        other, spread = 1.5 * z.flip(0) + 0.5, z.T @ z / COUNT + eye
        u = lf.gaussian_transport_potential(mean, spread, mean + 1, 2 * spread)
        return [
            lf.wasserstein2(z, other + 3),
            transport.wasserstein2_1d(z[:, 0], other[:, 0]),
            lf.gaussian_wasserstein2(mean, spread, mean + 1, 2 * spread),
            lf.gradient(u, z, 0.5),
        ]

    return run


def certificate(device, dtype):
    """The certificate of a flow."""
    u, (z, _, _) = potential("mlp").to(device, dtype), points(device, dtype)

    def run():
        flows = lf.HopfLaxFlow(0.1 * u)
        found = lf.transport_certificate(flows.rollout(z, STEPS), flows.potential)
        return [torch.as_tensor(getattr(found, name), device=device) for name in ("cost", "displacement")]

    return run


COMPUTATIONS = {
    **{f"jets of {kind}": jets(kind) for kind in KINDS},
    "Hamilton-Jacobi": residual(lf.HJResidual),
    "Hamilton-Jacobi with a force": residual(lambda: lf.HJResidual(pde.NonPositiveForce(DIM, HIDDEN))),
    "viscous Hamilton-Jacobi": residual(lambda: lf.ViscousHJResidual(0.3)),
    "heat": residual(lambda: lf.HeatResidual(0.3)),
    "wave": residual(lambda: lf.WaveResidual(0.7)),
    "Fokker-Planck": residual(lambda: lf.FokkerPlanckResidual(0.3)),
    "Euler": trajectory(lambda u, z: lf.PotentialFlow(u).rollout(z, STEPS)),
    "Euler of a bank": trajectory(lambda u, z: lf.PotentialFlow(u).rollout(z, STEPS), "bank"),
    "Euler, first order": trajectory(lambda u, z: lf.PotentialFlow(u).rollout(z, STEPS, log_det=flow.FirstOrder())),
    "Runge-Kutta": trajectory(lambda u, z: lf.PotentialFlow(u).follow(z, range(STEPS + 1), lf.ODE("rk4"))),
    "Dormand-Prince": trajectory(lambda u, z: lf.PotentialFlow(u).follow(z, (0.0, 1.0), lf.ODE("dopri5"))),
    "Hopf-Lax": trajectory(lambda u, z: lf.HopfLaxFlow(u).rollout(z, STEPS)),
    "push-forward": density,
    "diffusion prior": prior(lambda: lf.DiffusionPrior(DIM, 3)),
    "normal prior": prior(lambda: lf.GaussianPrior(DIM)),
    "mixture prior": prior(lambda: lf.MixturePrior(DIM, 5)),
    "Vamp prior": prior(lambda: lf.VampPrior(vae.MLPEncoder(SHAPE, DIM, (8,)), FRAMES[:, 0].float())),
    "transported prior": transported,
    "flows that take turns": turns,
    "joint bound": step(vae.JointBound),
    "joint bound, convolutions": step(vae.JointBound, "conv", "conv"),
    "joint bound, gated, Laplace pixels": step(vae.JointBound, "conv", "gated", likelihood=vae.LaplaceLikelihood(0.3)),
    "joint bound, exact flows": step(vae.JointBound, dynamics=lf.HopfLaxFlow),
    "labels inferred": step(vae.JointBound, inferred=True),
    "distances": distances,
    "certificate": certificate,
}
RANDOM = {
    "collocation in a box": in_box,
    "Laplacian by probes": jets_by_probes,
    "Euler, series": trajectory(lambda u, z: lf.PotentialFlow(u).rollout(z, STEPS, log_det=flow.LogDetSeries(3))),
    "joint bound, some frames": step(vae.JointBound, decoded_frames=2),
    "marginal bound": step(vae.MarginalBound, residual=lf.HJResidual()),
    "stochastic bound": step(vae.StochasticBound),
    "smoothing": step(lambda: vae.StochasticBound(DIM)),
}
"""What draws numbers, which differ between devices."""
TOLERANCE = 2e-3
"""Of float32 with TensorFloat-32 off, relative to the largest number."""


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_a_device_computes_what_the_cpu_does_in_float64(name, device):
    """Catches an operation that is missing or wrong on a device, results that stay on the CPU, and a loss of digits."""
    expected = COMPUTATIONS[name](torch.device("cpu"), torch.float64)()
    found = COMPUTATIONS[name](device, torch.float32)()
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.device.type == device.type
        assert ours.isfinite().all()
        error = (ours.detach().cpu().double() - theirs.detach()).abs().max()
        assert error <= TOLERANCE * (1 + theirs.abs().max())


@pytest.mark.parametrize("name", RANDOM)
def test_a_device_draws_its_own_numbers(name, device):
    """Catches numbers that are drawn on the CPU, and an estimate that is not finite."""
    for found in RANDOM[name](device, torch.float32)():
        assert found.device.type == device.type
        assert found.isfinite().all()


@pytest.mark.parametrize("name", COMPUTATIONS | RANDOM)
def test_every_tensor_is_made_on_the_device_of_the_inputs(name):
    """Catches a line that names no device: here its tensor has no values and mixes with no other."""
    run = (COMPUTATIONS | RANDOM)[name](torch.device("cpu"), torch.float64)
    torch.manual_seed(7)
    expected = run()
    torch.manual_seed(7)
    with torch.device("meta"):
        found = run()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.device.type == "cpu"
        assert torch.equal(ours, theirs)
