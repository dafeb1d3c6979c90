r"""
Points drawn by a travelling bump: a potential with its own derivatives
=======================================================================

Any function :math:`u(z, t)` is a potential; automatic differentiation gives its derivatives. Where a formula is
cheaper, a subclass of :class:`~latentflow.potentials.Potential` writes it once, as ``jet_rule``, and
every operator, flow and residual uses it. Here a bump travels around the origin,

.. math:: u(z, t) = a \, e^{-|x|^2 / 2}, \qquad x = z - c(t), \qquad c(t) = 1.5\, (\cos t, \sin t) ,

so that

.. math::
    \nabla u = -u\,x, \qquad \partial_t u = u\, x \cdot \dot c, \qquad
    \nabla^2 u = u\,(x x^\top - I), \qquad \Delta u = u\,(|x|^2 - d) .

A wrong sign in such a rule makes no error message; it makes a wrong density.
:func:`~latentflow.testing.check_potential` compares every answer of the rule with automatic differentiation of the
values, and names the field that is wrong.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from latentflow import ODE, Jet, Potential, PotentialFlow
from latentflow.calculus import JetRequest
from latentflow.testing import check_potential


class TravellingBump(Potential):
    """A bump of learnable height that travels around the origin."""

    def __init__(self, height: float) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.tensor(height))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential."""
        x = z - 1.5 * torch.stack([t.cos(), t.sin()], dim=-1)
        return self.height * torch.exp(-x.square().sum(-1) / 2)

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives in closed form; a function runs only if its derivative is requested."""
        centre, velocity = (
            1.5 * torch.stack(parts, dim=-1)
            for parts in ((t.cos(), t.sin()), (-t.sin(), t.cos()))
        )
        x, u = z - centre, self(z, t)
        along = (x * velocity).sum(-1)

        def products(v: Tensor) -> Tensor:
            """Multiply vectors, of shape ``(*batch, m, 2)``, by the Hessian."""
            return u[..., None, None] * (
                (v * x.unsqueeze(-2)).sum(-1, keepdim=True) * x.unsqueeze(-2) - v
            )

        return Jet.answer(
            request,
            value=u,
            gradient=-u.unsqueeze(-1) * x,
            time_derivative=u * along,
            laplacian=lambda: u * (x.square().sum(-1) - 2),
            hessian=lambda: products(torch.eye(2).to(z)),
            products=products,
            second_time_derivative=lambda: (
                u * (along.square() - velocity.square().sum(-1) - (x * centre).sum(-1))
            ),
            gradient_time_derivative=lambda: -products(velocity.unsqueeze(-2)).squeeze(-2),
        )


# %%
# The check passes, and it finds a sign that is wrong.

check_potential(TravellingBump(2.0), dim=2)


class WrongSign(TravellingBump):
    """The same bump with a time derivative of the wrong sign."""

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives, one of them wrong."""
        right = super().jet_rule(z, t, request)
        return replace(right, time_derivative=-right.time_derivative)


message = ""
try:
    check_potential(WrongSign(2.0), dim=2)
except AssertionError as error:
    message = str(error)
assert "time_derivative" in message
print(message.splitlines()[0][:110])

# %%
# Points near the bump are drawn to it and follow it around; distant ones hardly move. The volume that they fill shrinks
# by the integral of the Laplacian, which the trajectory has in ``log_det``; it agrees with the determinant of the map
# by automatic differentiation.

torch.manual_seed(0)
u = TravellingBump(1.2).double()
flow = PotentialFlow(u).eval()
z0 = torch.tensor([1.5, 0.0]) + 1.6 * torch.randn(60, 2).double()
times = torch.linspace(0, 3.5, 71).double()
with torch.no_grad():
    trajectory = flow.integrate(z0, times, ODE("rk4", options={"step_size": 0.05}))


def end(z: Tensor) -> Tensor:
    """Follow one point to its end."""
    return flow.integrate(
        z, times[[0, -1]], ODE("rk4", options={"step_size": 0.05}, divergence=None)
    ).z[-1]


jacobian = torch.autograd.functional.jacobian(end, z0[0])
torch.testing.assert_close(
    trajectory.log_det[-1, 0],
    torch.linalg.slogdet(jacobian).logabsdet,
    atol=1e-5,
    rtol=1e-5,
)

figure, axis = plt.subplots(figsize=(6.6, 4.4))
shrunk = axis.scatter(
    *trajectory.z[-1].T, c=trajectory.log_det[-1], cmap="viridis", s=28, zorder=3
)
for path in trajectory.z.unbind(1):
    axis.plot(*path.T, color="0.75", lw=0.8)
axis.plot(*z0.T, ".", color="0.5", ms=5)
axis.plot(
    1.5 * times.cos(), 1.5 * times.sin(), color="#dc2626", lw=2, label="path of the bump"
)
axis.plot(1.5 * times[-1].cos(), 1.5 * times[-1].sin(), "o", color="#dc2626", ms=9)
figure.colorbar(
    shrunk, ax=axis, label=r"$\log|\det \partial z_t / \partial z_0|$ at the end"
)
axis.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal", xlim=(-2.6, 4.6), ylim=(-2.9, 2.9))
axis.legend(loc="lower right")
plt.show()
