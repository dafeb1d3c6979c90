"""Seeded inputs and closed forms that several tests compare with, all in float64."""

import torch

from latentflow import FunctionPotential, MLPPotential


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(seed, *shape):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def spd(dim, seed, low=0.3, high=2.0):
    """A symmetric matrix with eigenvalues in [low, high]."""
    q = torch.linalg.qr(normal(seed, dim, dim)).Q
    return q @ torch.diag(low + (high - low) * torch.rand(dim, generator=generator(seed), dtype=torch.float64)) @ q.mT


def net(dim, seed, hidden=(7, 5)):
    """A random tanh network of the point and the time."""
    potential = MLPPotential(dim, hidden).double()
    with torch.no_grad():
        for i, parameter in enumerate(potential.parameters()):
            parameter.copy_(normal(seed + i, *parameter.shape) / parameter.shape[-1] ** 0.5)
    return potential


def autograd_gradient(u, z, t):
    """The gradient in z by plain reverse mode, without the library's operators."""
    z = z.detach().requires_grad_()
    return torch.autograd.grad(u(z, t).sum(), z)[0]


def ohj_quadratic(matrix, vector):
    """The solution of u_t + |grad u|^2 / 2 = 0 that starts from z'Az/2 + b.z."""
    eye = torch.eye(len(vector), dtype=torch.float64)

    def u(z, t):
        resolvent = torch.linalg.inv(eye + t[..., None, None] * matrix)
        a, b = matrix @ resolvent, resolvent @ vector
        square = (z.unsqueeze(-2) @ a @ z.unsqueeze(-1)).squeeze(-1).squeeze(-1)
        return square / 2 + (b * z).sum(-1) - t / 2 * (b * vector).sum(-1)

    return FunctionPotential(u)


def hopf_lax(weight, size):
    """The nonquadratic solution that starts from u0(y) = size * sum log cosh(Wy), and its start's derivatives.

    u(x, t) = u0(y) + |x - y|^2 / 2t where x = y + t grad u0(y); the fixed point converges like (t |H0|)^n.
    """

    def gradient(y):
        return size * (y @ weight.mT).tanh() @ weight

    def hessian(y):
        return size * (weight.mT * (1 - (y @ weight.mT).tanh().square()).unsqueeze(-2)) @ weight

    def u(x, t):
        y = x
        for _ in range(40):
            y = x - t.unsqueeze(-1) * gradient(y)
        return size * (y @ weight.mT).cosh().log().sum(-1) + (x - y).square().sum(-1) / (2 * t)

    return FunctionPotential(u), gradient, hessian


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ values.sqrt().diag() @ vectors.mT


def bures_map(start, end):
    """The symmetric matrix A with A S0 A = S1: the optimal transport between centred Gaussians."""
    half = root(start)
    inverse = torch.linalg.inv(half)
    return inverse @ root(half @ end @ half) @ inverse


def sigma_points(mean, covariance):
    """2d equally weighted points that integrate every quadratic exactly against N(mean, covariance)."""
    spread = len(mean) ** 0.5 * torch.linalg.cholesky(covariance).mT
    return torch.cat([mean + spread, mean - spread])
