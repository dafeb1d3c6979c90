r"""The path of latents along a flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Path:
    r"""Points, volumes and cost along a flow, at the times :math:`t_0, \dots, t_T`.

    Attributes:
        times: The times :math:`t_n`, of shape ``(T+1,)``.
        z: The points :math:`z_{t_n}`, of shape ``(T+1, *batch, dim)``.
        log_det: :math:`\log|\det \partial z_{t_n} / \partial z_{t_0}|`, of shape ``(T+1, *batch)``, so that
            :math:`\log q_t(z_t) = \log q_0(z_0)` minus it; None if no volume was asked for.
        action: :math:`\int_{t_0}^{t_n} |\nabla u|^2\,dt`, of shape ``(T+1, *batch)``; a signed integral, negative on a
            path that runs backwards in time.
        sign: The sign of each step's determinant, of shape ``(T, *batch)``; None if it is not known.
        folded: Whether a step's map is not locally the gradient of a convex function, that is whether
            :math:`I + h \nabla^2 u` is not positive definite there, of shape ``(T, *batch)``; None if not known.
        smallest_eigenvalue: :math:`\lambda_{\min}(I + h \nabla^2 u)` of each step, of shape ``(T, *batch)``; None
            if it is not known. On a path that undoes a flow, these three are those of the steps undone.
        cost: :math:`\int_{t_0}^{t_n} c(z_t, t)\,dt` of a running cost, of shape ``(T+1, *batch)``; None if none was
            asked for. Where the rate is zero an adaptive solver can leave a rounding error of either sign.
    """

    times: Tensor
    z: Tensor
    log_det: Tensor | None
    action: Tensor
    sign: Tensor | None = None
    folded: Tensor | None = None
    smallest_eigenvalue: Tensor | None = None
    cost: Tensor | None = None

    def sample(self, generator: torch.Generator | None = None, *, detach: bool = True) -> tuple[Tensor, Tensor]:
        r"""Draw a uniformly random time in each step, and the point of the straight segment there.

        On a discrete flow :math:`z_{t_n} + (t - t_n) \nabla u(z_{t_n}, t_n)` is such a point.

        Args:
            generator: The source of randomness, or None for torch's global one.
            detach: Whether to cut the gradient to the path, so that a residual cannot be lowered by moving the points.

        Returns:
            The points, of shape ``(T, *batch, dim)``, and their times, of shape ``(T, *batch)``.

        Example:
            >>> z = torch.stack([torch.zeros(4, 2), torch.ones(4, 2)])
            >>> path = Path(times=torch.tensor([0.0, 2.0]), z=z, log_det=None, action=torch.zeros(2, 4))
            >>> points, times = path.sample()
            >>> torch.testing.assert_close(points, (times / 2).unsqueeze(-1).expand(1, 4, 2))
        """
        z = self.z.detach() if detach else self.z
        before, after = z[:-1], z[1:]
        fraction = torch.rand(before.shape[:-1], generator=generator, dtype=z.dtype, device=z.device)
        times = self.times.reshape(-1, *(1,) * (z.ndim - 2)).to(z)
        start, end = times[:-1], times[1:]
        return torch.lerp(before, after, fraction.unsqueeze(-1)), start + fraction * (end - start)
