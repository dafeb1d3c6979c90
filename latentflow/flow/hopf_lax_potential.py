r"""The solution of the Hamilton-Jacobi equation that starts from a given potential."""

from __future__ import annotations

import torch
from torch import Tensor

from latentflow.calculus import Field, Jet, JetRequest, Time, check_points, evaluate_jet, expand_time
from latentflow.flow.inverse import InversionError, Newton, StepSolver
from latentflow.potentials.algebra import Potential, ScaledPotential, as_module


class HopfLaxPotential(Potential):
    r"""The potential that solves :math:`\partial_t u + \tfrac12 |\nabla u|^2 = 0` from :math:`u(\cdot, 0) = u_0`.

    .. math:: u(z, t) = u_0(y) + \frac{|z - y|^2}{2t}, \qquad z = y + t \nabla u_0(y)

    The velocity is constant along straight characteristics, so all derivatives are known at the start ``y``:

    .. math::
        \nabla u = v = \nabla u_0(y), \quad \partial_t u = -\tfrac12 |v|^2, \quad
        H = \nabla^2 u = H_0 (I + t H_0)^{-1}, \quad \partial_t v = -H v, \quad \partial_t^2 u = v^\top H v .

    A solver finds ``y``. It exists, and is the only one, as long as :math:`|y|^2/2 + t u_0(y)` is strongly convex: at
    all :math:`t \ge 0` for a convex :math:`u_0`, otherwise until the first shock, where characteristics meet. There a
    smooth solution ends. What the solver may still find afterwards lies on one of several characteristics.

    Derivatives reach the point, the time and the parameters of :math:`u_0` by the implicit function theorem. Each field
    of the jet can be differentiated as many times more as ``order`` of the solver says; the value that ``forward``
    gives is stationary in ``y``, and its derivatives are right up to the order ``2 * order + 1``.

    Args:
        u0: The potential to start from: any callable ``u(z, t)``. It is evaluated at ``t = 0`` only.
        solver: How to find the start of a characteristic.

    Raises:
        TypeError: If ``u0`` is not callable.
        InversionError: From every evaluation, if a start is not found.

    References:
        | Partial Differential Equations (Evans, 2010), section 3.3
        | https://bookstore.ams.org/gsm-19-r

    Example:
        >>> from latentflow import HJResidual, ICNNPotential
        >>> u = HopfLaxPotential(ICNNPotential(3, (8,))).double()
        >>> z, t = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
        >>> torch.testing.assert_close(HJResidual()(lambda z, t: u(z, t), z, t), torch.zeros_like(t))  # by autograd
        >>> torch.testing.assert_close(u(z, torch.zeros_like(t)), u.u0(z, torch.zeros_like(t)))
    """

    def __init__(self, u0: Field, solver: StepSolver = Newton(order=2)) -> None:  # noqa: B008 - frozen
        super().__init__()
        if not callable(u0):
            raise TypeError(f"u0: expected a callable u(z, t), got {type(u0).__name__}")
        self.u0 = as_module(u0)
        self.solver = solver

    def start(self, z: Tensor, t: Time, solver: StepSolver | None = None) -> Tensor:
        r"""Find the point ``y`` at time 0 whose characteristic :math:`y + t \nabla u_0(y)` passes through ``z``.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: Their times: a number, ``()`` or ``(*batch,)``, of either sign.
            solver: How to find it, or None for the solver of the potential.

        Returns:
            The starts, of shape ``(*batch, dim)``.

        Raises:
            InversionError: If some are not found.
        """
        check_points(z)
        solver = self.solver if solver is None else solver
        try:
            return solver.solve(ScaledPotential(self.u0, expand_time(t, z)), z, 0.0, 1.0)
        except InversionError as error:
            raise InversionError(f"the start of a characteristic: {error}") from error

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the solution at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        return self.jet_rule(z, expand_time(t, z), JetRequest()).value

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives in closed form from one jet of ``u0`` at the start."""
        y = self.start(z, t)
        second = second_derivatives(request)
        return carried_jet(evaluate_jet(self.u0, y, 0.0, JetRequest(hessian=second)), t, z - y, request)


def second_derivatives(request: JetRequest) -> bool:
    """Say whether a request asks for more than value, gradient and time derivative."""
    return request != JetRequest()


def carried_jet(initial: Jet, t: Tensor, displacement: Tensor, request: JetRequest) -> Jet:
    r"""Carry a jet along its characteristic.

    Args:
        initial: The jet of :math:`u_0` at the start, with the Hessian if any second derivative is wanted.
        t: The times, of shape ``(*batch,)``.
        displacement: How far the points are from the start, of shape ``(*batch, dim)``: :math:`t \nabla u_0` up to the
            error of the solver, to which the value is insensitive.
        request: The second derivatives wanted.

    Returns:
        The jet of the solution.
    """
    velocity = initial.gradient
    square = velocity.square().sum(-1)
    # u0(y) + v.(z - y) - t |v|^2 / 2 needs no division by t, and its derivative in y vanishes at the root
    value = initial.value + (velocity * displacement).sum(-1) - t / 2 * square
    if not second_derivatives(request):
        return Jet(value, velocity, -square / 2)
    if initial.hessian is None:
        raise ValueError("u0: expected its jet_rule to return the Hessian that was asked for, got None")
    eye = torch.eye(velocity.shape[-1], dtype=velocity.dtype, device=velocity.device)
    hessian: Tensor = torch.linalg.solve(eye + t[..., None, None] * initial.hessian, initial.hessian)
    along = (hessian @ velocity.unsqueeze(-1)).squeeze(-1)
    probes = request.probes
    products = None if probes is None else probes @ hessian.mT
    return Jet(
        value,
        velocity,
        -square / 2,
        laplacian=hessian.diagonal(dim1=-2, dim2=-1).sum(-1) if request.laplacian else None,
        hessian=hessian if request.hessian else None,
        quadratic=None if probes is None or products is None else (probes * products).sum(-1),
        products=products if request.products else None,
        second_time_derivative=(velocity * along).sum(-1) if request.second_time_derivative else None,
        gradient_time_derivative=-along if request.gradient_time_derivative else None,
    )
