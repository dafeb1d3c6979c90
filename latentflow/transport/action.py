r"""How much a flow moves, and how far it is from moving as optimal transport does."""

from __future__ import annotations

from torch import Tensor

from latentflow.calculus import Field, JetRequest, Time, check_points, evaluate_jet, outside_autocast
from latentflow.flow import Path


def benamou_brenier_action(path: Path) -> Tensor:
    r"""Compute the kinetic action of a path.

    .. math::
        K = \int_{t_0}^{t_T} E\,\tfrac12 |\nabla u|^2\,dt \;\ge\; \frac{W_2^2(q_{t_0}, q_{t_T})}{2\,|t_T - t_0|} ,

    with equality for the optimal transport at constant speed, and no other flow. Mind the factor: over a unit of time
    the least action is half of :math:`W_2^2`.

    Args:
        path: The path, in either direction of time.

    Returns:
        The action, averaged over the batch, of shape ``()``, in squared lengths per time.

    References:
        | A computational fluid mechanics solution to the Monge-Kantorovich mass transfer problem
          (Benamou, Brenier, 2000)
        | https://doi.org/10.1007/s002110050002

    Example:
        >>> import torch
        >>> from latentflow import PotentialFlow
        >>> path = PotentialFlow(lambda z, t: 3 * z[..., 0]).rollout(torch.randn(5, 2), steps=2)
        >>> torch.testing.assert_close(benamou_brenier_action(path), torch.tensor(9.0))  # W2^2 = 36, in time 2
    """
    return path.action[-1].abs().mean() / 2


@outside_autocast
def transport_defect(u: Field, z: Tensor, t: Time) -> Tensor:
    r"""Compute the squared acceleration of the flow.

    .. math::
        \Bigl|\frac{D v}{D t}\Bigr|^2 = |\partial_t \nabla u + \nabla^2 u\,\nabla u|^2
        = |\nabla_z(\partial_t u + \tfrac12 |\nabla u|^2)|^2 .

    It is zero where points move in straight lines at constant speed, as they do under optimal transport. Unlike the
    Hamilton-Jacobi residual it does not change where ``u`` gains a function of time, which moves nothing. The Hessian
    is met in one product only.

    Args:
        u: The potential, or any callable ``u(z, t)``.
        z: The points, of shape ``(*batch, dim)``; for a path, ``path.z``.
        t: The times: a number, ``()`` or ``(*batch,)``; for a path of a batch ``(n,)``, ``path.times[:, None]``.

    Returns:
        The squared acceleration, of shape ``(*batch,)``, in squared lengths per time to the fourth.

    Raises:
        TypeError: If ``z`` is not a floating-point tensor, or ``u`` does not return a tensor.
        ValueError: If ``t`` does not broadcast to ``(*batch,)``, or ``u`` does not return shape ``(*batch,)``.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 2, dtype=torch.float64)
        >>> expanding = lambda z, t: z.square().sum(-1) / 2  # z(t) = z e^t, whose acceleration is z
        >>> torch.testing.assert_close(transport_defect(expanding, z, 0.0), z.square().sum(-1))
    """
    check_points(z)
    velocity = evaluate_jet(u, z, t, JetRequest()).gradient
    request = JetRequest(probes=velocity.unsqueeze(-2), products=True, gradient_time_derivative=True)
    jet = evaluate_jet(u, z, t, request)
    if jet.products is None or jet.gradient_time_derivative is None:
        raise ValueError("u: expected its jet_rule to return the products and gradient_time_derivative, got None")
    return (jet.gradient_time_derivative + jet.products.squeeze(-2)).square().sum(-1)
