r"""The flow that solves the Hamilton-Jacobi equation by construction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow.calculus import Estimator, Exact, Field, check_points
from latentflow.flow.characteristics import travel
from latentflow.flow.discrete import Discrete
from latentflow.flow.fold import PATHS_MEET, OnFold, report_fold
from latentflow.flow.hopf_lax_potential import HopfLaxPotential
from latentflow.flow.inverse import Newton, StepSolver
from latentflow.flow.ode import ODEOptions, check_times
from latentflow.flow.path import Path
from latentflow.flow.potential_flow import PotentialFlow, check_steps
from latentflow.flow.push_forward import PushForward
from latentflow.flow.running_cost import RunningCost
from latentflow.flow.scheme import ScheduledFlow, Scheme, check_scheme, grid
from latentflow.flow.volume import SlogDet, Volume


class HopfLaxFlow(PotentialFlow):
    r"""The flow along the solution of the Hamilton-Jacobi equation that starts from a potential :math:`u_0`.

    .. math::
        z_t = z_0 + t \nabla u_0(z_0), \qquad
        \log|\det \partial z_t / \partial z_0| = \log|\det(I + t \nabla^2 u_0(z_0))|

    Every point moves in a straight line at constant speed, so no residual has to be trained: the equation
    :math:`\partial_t u + \tfrac12 |\nabla u|^2 = 0` holds for whatever :math:`u_0` is. One gradient of :math:`u_0`, and
    one Hessian where a volume is wanted, serve all times of a path.

    It is called as :class:`PotentialFlow` is, and gives what that flow gives along :class:`HopfLaxPotential`, in closed
    form: Euler steps and the solution of the ODE agree here. So a choice of ODE solver changes nothing, and a
    log-determinant of :meth:`integrate` is exact even where probes are asked for.

    While :math:`\tfrac12 |z|^2 + t u_0(z)` is convex, the flow up to ``t`` is the optimal transport between its ends
    (Brenier). For an :class:`ICNNPotential` this is so at all :math:`t \ge 0`. Any other :math:`u_0` may have a shock,
    where paths meet; from then on ``path.folded`` holds, and ``on_fold`` says what happens. On this flow, ``folded``
    and ``smallest_eigenvalue`` of a step are those of :math:`I + t \nabla^2 u_0`, the map from time 0, at whichever end
    of the step they are worse. ``SlogDet()`` takes all volumes from one eigenvalue decomposition, which makes the
    smallest eigenvalue known, without a gradient.

    Sums of potentials, ``bank.select(k)`` and any other expression may be :math:`u_0`; the sum of two solutions is not
    a solution, but the solution from a sum is. To let one flow follow another, roll out the second from the end of the
    first.

    Args:
        u0: The potential to start from: a :class:`Potential` or any callable ``u(z, t)``. It is evaluated at ``t = 0``
            only.
        on_fold: What to do from a shock on: ``"raise"``, ``"warn"`` or ``"ignore"``. None means ``"warn"`` in training
            mode and ``"raise"`` in evaluation mode.
        solver: How to find where a point at another time than 0 comes from.

    Attributes:
        potential: The solution :math:`u(z, t)`, a :class:`HopfLaxPotential`.

    Raises:
        TypeError: If ``u0`` is not callable.

    References:
        | Partial Differential Equations (Evans, 2010), section 3.3
        | https://bookstore.ams.org/gsm-19-r
        | Polar factorization and monotone rearrangement of vector-valued functions (Brenier, 1991)
        | https://doi.org/10.1002/cpa.3160440402

    Example:
        >>> from latentflow import QuadraticPotential
        >>> u0 = QuadraticPotential(2, matrix=torch.diag(torch.tensor([1.0, -0.25])))
        >>> path = HopfLaxFlow(u0).rollout(torch.ones(4, 2), steps=3)
        >>> torch.testing.assert_close(path.z[-1], torch.tensor([4.0, 0.25]).expand(4, 2))
        >>> torch.testing.assert_close(path.log_det[-1], torch.zeros(4))
    """

    potential: HopfLaxPotential

    def __init__(
        self,
        u0: Field,
        on_fold: OnFold | None = None,
        solver: StepSolver = Newton(order=2),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(HopfLaxPotential(u0, solver), on_fold)

    @property
    def u0(self) -> nn.Module:
        """The potential to start from."""
        return self.potential.u0

    def rollout(
        self,
        z0: Tensor,
        steps: int = 8,
        start: float = 0.0,
        dt: float = 1.0,
        volume: Volume | None = SlogDet(),  # noqa: B008 - frozen
    ) -> Path:
        r"""Follow the flow from ``z0`` on an even grid of times.

        Args:
            z0: The points to start from, of shape ``(*batch, dim)``.
            steps: The number ``T`` of steps, zero or more.
            start: The time :math:`t_0` of ``z0``; if it is not 0, a solver finds where the points were at time 0.
            dt: The length of a step, of either sign.
            volume: ``SlogDet()`` (exact), another volume, or None to leave it out. A volume is computed for the map
                from time 0 to each time, so ``FirstOrder()`` is :math:`\log|1 + t \Delta u_0|`.

        Returns:
            The path, with ``T+1`` points.

        Raises:
            TypeError: If ``z0`` is not a floating-point tensor.
            ValueError: If ``steps`` is negative or not an integer, or a shape does not fit.
            FloatingPointError: If the path or a volume leaves the finite numbers.
            FoldError: If paths have met and the policy is ``"raise"``.
            InversionError: If no point at time 0 is found from which the path comes.
        """
        check_points(z0)
        check_steps(steps)
        times = torch.tensor([start + n * dt for n in range(steps + 1)], dtype=torch.float64)
        path = travel(self.potential, z0, times, volume)
        self._report(path)
        return path

    def integrate(
        self,
        z0: Tensor,
        times: Tensor | Sequence[float],
        ode: ODEOptions = ODEOptions(),  # noqa: ARG002, B008 - for any flow; frozen
        divergence: Estimator | None = Exact(),  # noqa: B008 - frozen
        running_cost: RunningCost | None = None,
    ) -> Path:
        r"""Follow the flow from ``z0`` through any times, in closed form.

        Args:
            z0: The points at ``times[0]``, of shape ``(*batch, dim)``.
            times: The times of the path, of shape ``(T+1,)``, in strictly increasing or decreasing order. Gradients
                flow to a tensor of times.
            ode: Not used: there is no equation left to solve.
            divergence: None to leave ``log_det`` out. Any estimator asks for it, and gets the exact one.
            running_cost: A rate to integrate along the path, by Gauss's quadrature with 8 points in each interval of
                the times. The squared residual of the Hamilton-Jacobi equation integrates to zero.

        Returns:
            The path. Backwards in time its action and cost are negative: they are signed integrals.

        Raises:
            TypeError: If ``z0`` is not a floating-point tensor.
            ValueError: If the times, the points or the running cost do not fit.
            FloatingPointError: If the path or a volume leaves the finite numbers.
            FoldError: If paths have met and the policy is ``"raise"``.
            InversionError: If no point at time 0 is found from which the path comes.

        Example:
            >>> from latentflow import HJResidual, ICNNPotential
            >>> flow, z0 = HopfLaxFlow(ICNNPotential(3)), torch.randn(4, 3)
            >>> path = flow.integrate(z0, [0.0, 0.5, 2.0], running_cost=HJResidual())
            >>> torch.testing.assert_close(path.z[-1], z0 + 2 * flow.velocity(z0, 0.0))
            >>> torch.testing.assert_close(path.cost, torch.zeros(3, 4))
        """
        check_points(z0)
        volume = None if divergence is None else SlogDet()
        path = travel(self.potential, z0, check_times(times, z0), volume, running_cost)
        self._report(path)
        return path

    def inverse(
        self,
        z: Tensor,
        times: Tensor | Sequence[float],
        scheme: Scheme = ODEOptions(),  # noqa: B008 - frozen
        divergence: Estimator | None = Exact(),  # noqa: B008 - frozen
    ) -> Path:
        r"""Follow the flow back from its end: find the start at time 0 by one solve, and draw the straight path.

        Args:
            z: The points at ``times[-1]``, of shape ``(*batch, dim)``.
            times: The times of the flow, from its start to its end.
            scheme: ``Discrete(volume, solver)`` for a volume and a solver of its choice; with ``ODEOptions(...)``,
                those of the flow.
            divergence: See :meth:`integrate`; a discrete scheme has a volume of its own.

        Returns:
            The path back: ``path.times`` is ``times`` reversed, ``path.z[0]`` is ``z``, ``path.z[-1]`` the start, and
            ``path.log_det`` is :math:`\log|\det \partial z_t / \partial z_T|`, minus that of the way forth.

        Raises:
            InversionError: If the start is not found.
            FoldError: If paths have met and the policy is ``"raise"``.
            ValueError: See :meth:`integrate`.
            TypeError: If ``scheme`` is neither ``ODEOptions`` nor ``Discrete``.

        Example:
            >>> from latentflow import ICNNPotential
            >>> flow, z0 = HopfLaxFlow(ICNNPotential(3).double()), torch.randn(4, 3, dtype=torch.float64)
            >>> path = flow.rollout(z0, steps=3)
            >>> back = flow.inverse(path.z[-1], path.times)
            >>> torch.testing.assert_close(back.z, path.z.flip(0))
        """
        check_points(z)
        check_scheme(scheme, divergence)
        volume: Volume | None = None if divergence is None else SlogDet()
        solver = None
        if isinstance(scheme, Discrete):
            volume, solver = scheme.volume, scheme.solver
        path = travel(self.potential, z, check_times(times, z).flip(0), volume, solver=solver)
        self._report(path, backwards=True)
        return path

    def push_forward(
        self,
        base: Distribution,
        times: Tensor | Sequence[float],
        scheme: Scheme = ODEOptions(),  # noqa: B008 - frozen
        divergence: Estimator | None = Exact(),  # noqa: B008 - frozen
        validate_args: bool | None = None,
    ) -> PushForward:
        """Transport a distribution: give that of the end of the flow when its start has the distribution ``base``.

        Args:
            base: The distribution at ``times[0]``, with events of shape ``(dim,)``.
            times: The times of the flow, from its start to its end.
            scheme: See :meth:`inverse`.
            divergence: See :meth:`integrate`.
            validate_args: Whether to check the points at which the density is asked; None for torch's default.

        Returns:
            The distribution. Its methods raise what :meth:`integrate` and :meth:`inverse` raise.

        Raises:
            TypeError: If ``base`` is not a distribution, or ``scheme`` no scheme.
            ValueError: If the events of ``base`` are not vectors; later, from the log-densities, if there is no volume,
                or the stochastic one of a discrete scheme in evaluation mode.

        Example:
            >>> from torch.distributions import Independent, Normal
            >>> from latentflow import QuadraticPotential
            >>> base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
            >>> spread = HopfLaxFlow(QuadraticPotential(2, torch.eye(2))).push_forward(base, [0.0, 2.0])  # z -> 3 z
            >>> z = torch.randn(5, 2)
            >>> expected = Independent(Normal(torch.zeros(2), 3 * torch.ones(2)), 1)
            >>> torch.testing.assert_close(spread.log_prob(z), expected.log_prob(z))
        """
        check_scheme(scheme, divergence)
        exact = None if divergence is None else Exact()
        return PushForward(base, _Characteristics(self, times, scheme, exact), validate_args)

    def _report(self, path: Path, *, backwards: bool = False) -> None:
        if path.folded is not None:
            folded, times = (x.flip(0) if backwards else x for x in (path.folded, path.times))
            report_fold(folded, times.detach(), self.fold_policy, PATHS_MEET)


class _Characteristics(ScheduledFlow):
    """The map of a flow along straight paths from the first to the last of its times."""

    flow: HopfLaxFlow

    def walk(self, z: Tensor, volume: Volume | None) -> Path:
        """Follow the flow from its start on the grid of a discrete scheme."""
        times = torch.tensor(grid(self.times, z), dtype=torch.float64)
        path = travel(self.flow.potential, z, times, volume)
        self.flow._report(path)
        return path
