r"""Flows along the gradient of a potential, and the one way to follow them by a scheme."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, overload

from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow.calculus import Field, JetRequest, Time, evaluate_jet
from latentflow.calculus.checks import check_finite_number, check_instance, check_points, check_steps
from latentflow.flow.euler import Euler, Step, euler_step, euler_trajectory
from latentflow.flow.log_det import LogDet, SlogDet, check_log_det
from latentflow.flow.ode import ODE
from latentflow.flow.push_forward import FlowTransform, PushForward
from latentflow.flow.trajectory import (
    DensitySource,
    OnFold,
    RunningCost,
    Scheme,
    Times,
    Trajectory,
    check_policy,
    check_running_cost,
    check_scheme,
    check_times,
    real_times,
    report_folds,
)
from latentflow.potentials.algebra import Potential, as_module, dim_of


class Flow(nn.Module, ABC):
    r"""A latent flow :math:`\dot z = \nabla_z u(z, t)`: :class:`PotentialFlow`, or :class:`HopfLaxFlow` in closed form.

    It transports a density by :math:`\partial_t q = -\operatorname{div}(q \nabla u)`. Every numerical choice lives in
    the scheme: ``Euler(...)`` for discrete steps, ``ODE(...)`` for the continuous flow.

    Attributes:
        potential: The field ``u``.
    """

    potential: nn.Module

    def velocity(self, z: Tensor, t: Time) -> Tensor:
        r"""Compute the velocity :math:`\nabla_z u(z, t)`.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: The times: a number, ``()`` or ``(*batch,)``.

        Returns:
            The velocity, of shape ``(*batch, dim)``.
        """
        return evaluate_jet(self.potential, z, t, JetRequest()).gradient

    def compile(self, **options: Any) -> None:  # noqa: ANN401 - what torch.compile takes
        """Compile the potential and its derivatives in place, see :meth:`Potential.compile`; solvers stay as they are.

        It takes seconds, at the first evaluation of each kind, and pays for potentials of small networks, most of whose
        time are fixed costs of single operations.

        Args:
            **options: Those of :func:`torch.compile`.

        Raises:
            TypeError: If the potential is no :class:`Potential`.

        Example:
            >>> import torch
            >>> from latentflow import MLPPotential, PotentialFlow
            >>> flow, z = PotentialFlow(MLPPotential(dim=2)), torch.randn(8, 2)
            >>> before = flow.velocity(z, 0.0)
            >>> flow.compile(backend="eager")  # the default backend needs a C++ compiler
            >>> torch.testing.assert_close(flow.velocity(z, 0.0), before)
        """
        potential = self._compiles()
        check_instance("potential", potential, Potential, "a Potential to compile")
        potential.compile(**options)

    def _compiles(self) -> nn.Module:
        """Return the potential that :meth:`compile` compiles."""
        return self.potential

    def step(self, z: Tensor, t: Time, dt: float = 1.0, log_det: LogDet | None = None) -> Step:
        r"""Make one step :math:`z + h \nabla u(z, t)`.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: The times before the step: a number, ``()`` or ``(*batch,)``.
            dt: The length :math:`h` of the step, of either sign.
            log_det: The log-determinant to compute, or None.

        Returns:
            The step; ``step.determinant.folded`` shows its folds.

        Raises:
            TypeError: If an argument is of another kind.
            ValueError: If a shape does not fit, or a number is not finite.
        """
        check_points(z)
        check_finite_number("dt", dt)
        check_log_det(log_det)
        return euler_step(self.potential, z, t, dt, log_det)

    def follow(
        self,
        z0: Tensor,
        times: Times,
        scheme: Scheme,
        running_cost: RunningCost | None = None,
        on_fold: OnFold | None = None,
    ) -> Trajectory:
        r"""Follow the flow from ``z0``.

        Args:
            z0: The points at ``times[0]``, of shape ``(*batch, dim)``.
            times: The times, of shape ``(T+1,)``, in strictly increasing or decreasing order: the grid of a discrete
                scheme. ``ODE`` and a :class:`HopfLaxFlow` give gradients to a tensor of times.
            scheme: ``Euler(...)``, ``ODE(...)`` or a scheme of your own.
            running_cost: A rate to integrate along the trajectory, such as the residual of a PDE.
            on_fold: The policy for folds: ``"raise"``, ``"warn"`` or ``"ignore"``; None for ``"warn"`` in training mode
                and ``"raise"`` in evaluation mode.

        Returns:
            The trajectory. Action and cost are signed integrals, negative backwards in time.

        Raises:
            TypeError: If ``z0`` is not a floating-point tensor.
            ValueError: If the times, the points or the running cost do not fit.
            FloatingPointError: If the trajectory leaves the finite numbers.
            FoldError: If a map folds and the policy is ``"raise"``.
            SolverError: If an ODE solver gives up.

        Example:
            >>> import torch
            >>> from latentflow import QuadraticPotential
            >>> flow = PotentialFlow(QuadraticPotential(1, torch.eye(1)))
            >>> steps = flow.follow(torch.ones(3, 1), [0.0, 0.5, 1.0], Euler())
            >>> torch.testing.assert_close(steps.z[-1], torch.full((3, 1), 1.5**2))
            >>> curve = flow.follow(torch.ones(3, 1), [0.0, 1.0], ODE(rtol=1e-6, atol=1e-6))
            >>> torch.testing.assert_close(curve.z[-1], torch.ones(3, 1).exp(), rtol=1e-4, atol=0)
        """
        check_points(z0, dim_of(self.potential), name="z0")
        check_scheme(scheme)
        check_running_cost(running_cost)
        return self._follow(z0, check_times(times, z0), scheme, running_cost, self._policy(on_fold))

    @abstractmethod
    def _follow(
        self, z0: Tensor, times: Times, scheme: Scheme, running_cost: RunningCost | None, policy: OnFold
    ) -> Trajectory:
        """Follow the flow along checked times."""

    def rollout(
        self,
        z0: Tensor,
        steps: int = 8,
        start: float = 0.0,
        dt: float = 1.0,
        log_det: LogDet | None = SlogDet(),  # noqa: B008 - frozen
        on_fold: OnFold | None = None,
    ) -> Trajectory:
        r"""Follow the discrete flow from ``z0``: :meth:`follow` with ``Euler(log_det)`` on an even grid.

        Args:
            z0: The points to start from, of shape ``(*batch, dim)``.
            steps: The number ``T`` of steps, zero or more.
            start: The time :math:`t_0` of ``z0``.
            dt: The length of a step, of either sign.
            log_det: ``SlogDet()`` (exact), ``FirstOrder()`` (the paper's surrogate), or None to leave it out.
            on_fold: See :meth:`follow`.

        Returns:
            The trajectory, with ``T+1`` points at the times ``start + n dt``.

        Raises:
            ValueError: If ``steps`` is negative or not an integer, or a shape does not fit; see also :meth:`follow`.

        Example:
            >>> import torch
            >>> from latentflow import QuadraticPotential
            >>> flow = PotentialFlow(QuadraticPotential(2, matrix=torch.diag(torch.tensor([1.0, -0.5]))))
            >>> trajectory = flow.rollout(torch.ones(4, 2), steps=3)
            >>> torch.testing.assert_close(trajectory.z[-1], torch.tensor([8.0, 0.125]).expand(4, 2))
            >>> torch.testing.assert_close(trajectory.log_det[-1], torch.zeros(4))
        """
        check_points(z0, dim_of(self.potential), name="z0")
        check_steps("steps", steps)

        check_finite_number("start", start)
        if check_finite_number("dt", dt) == 0:
            raise ValueError(f"dt: expected a number other than 0, got {dt!r}")
        check_log_det(log_det)
        times = [start + n * dt for n in range(steps + 1)]
        return self._rollout(z0, times, dt, Euler(log_det), self._policy(on_fold))

    @abstractmethod
    def _rollout(self, z0: Tensor, times: list[float], dt: float, scheme: Euler, policy: OnFold) -> Trajectory:
        """Follow the flow along an even grid, whose step is known better than as a difference of times."""

    def integrate(
        self,
        z0: Tensor,
        times: Times,
        scheme: ODE = ODE(),  # noqa: B008 - frozen
        running_cost: RunningCost | None = None,
        on_fold: OnFold | None = None,
    ) -> Trajectory:
        r"""Follow the continuous flow from ``z0``: :meth:`follow` with an ODE solver.

        Args:
            z0: The points at ``times[0]``, of shape ``(*batch, dim)``.
            times: The times, of shape ``(T+1,)``, in strictly increasing or decreasing order.
            scheme: The solver, with its tolerances and the estimator of the divergence.
            running_cost: See :meth:`follow`.
            on_fold: See :meth:`follow`.

        Returns:
            The trajectory.

        Raises:
            SolverError: If the solver gives up; see also :meth:`follow`.

        References:
            | FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl et al., 2018)
            | https://arxiv.org/abs/1810.01367

        Example:
            >>> import torch
            >>> from latentflow import QuadraticPotential
            >>> matrix = torch.tensor([[0.5, 1.0], [1.0, -0.25]])
            >>> flow, z0 = PotentialFlow(QuadraticPotential(2, matrix)), torch.randn(4, 2)
            >>> trajectory = flow.integrate(z0, [0.0, 0.5, 1.0])
            >>> expected = z0 @ torch.linalg.matrix_exp(matrix)
            >>> torch.testing.assert_close(trajectory.z[-1], expected, rtol=1e-3, atol=1e-3)
        """
        check_points(z0, dim_of(self.potential), name="z0")
        check_instance("scheme", scheme, ODE, "ODE(...); follow() takes every scheme")
        check_running_cost(running_cost)
        return self._follow(z0, check_times(times, z0), scheme, running_cost, self._policy(on_fold))

    @overload
    def inverse(self, z: Trajectory, *, on_fold: OnFold | None = None) -> Trajectory: ...

    @overload
    def inverse(self, z: Tensor, times: Times, scheme: Scheme, on_fold: OnFold | None = None) -> Trajectory: ...

    def inverse(
        self,
        z: Tensor | Trajectory,
        times: Times | None = None,
        scheme: Scheme | None = None,
        on_fold: OnFold | None = None,
    ) -> Trajectory:
        r"""Follow the flow back from its end, by the same scheme.

        Discrete steps are inverted one by one; the continuous flow is integrated backwards.

        Args:
            z: A trajectory of this flow, with its times and its scheme; or the points at ``times[-1]``, of shape
                ``(*batch, dim)``.
            times: The times of the flow, from its start to its end; for points only.
            scheme: The scheme of the flow; for points only.
            on_fold: See :meth:`follow`.

        Returns:
            The trajectory in reversed times, from the end ``z[0]`` of the flow to its start ``z[-1]``, with
            ``log_det`` :math:`\log|\det \partial z_t / \partial z_T|`.

        Raises:
            InversionError: If a discrete step cannot be inverted.
            TypeError: If points come without times and scheme, or a trajectory with them.
            ValueError: If the trajectory has no scheme, as after an inverse; see also :meth:`follow`.
            FoldError: If a map folds at the points found and the policy is ``"raise"``.

        Example:
            >>> import torch
            >>> flow, z0 = PotentialFlow(lambda z, t: -0.5 * z.cos().sum(-1)), torch.randn(4, 2)
            >>> trajectory = flow.rollout(z0, steps=3)
            >>> back = flow.inverse(trajectory)
            >>> torch.testing.assert_close(back.z[-1], z0, rtol=1e-4, atol=1e-4)
            >>> torch.testing.assert_close(back.log_det[-1], -trajectory.log_det[-1], rtol=1e-4, atol=1e-4)
        """
        if isinstance(z, Trajectory):
            if times is not None or scheme is not None:
                raise TypeError("times, scheme: expected none with a trajectory, which knows its own, got one")
            if z.scheme is None:
                raise ValueError(
                    "trajectory: expected one that a flow followed by a scheme, got one made by hand or undone"
                )
            end, times, scheme = z.z[-1], z.times, z.scheme
        elif times is None or scheme is None:
            raise TypeError("times, scheme: expected both with points, got None")
        else:
            end = z
        check_points(end)
        check_scheme(scheme)
        return self._invert(end, check_times(times, end), scheme, self._policy(on_fold))

    @abstractmethod
    def _invert(self, z: Tensor, times: Tensor, scheme: Scheme, policy: OnFold) -> Trajectory:
        """Follow the flow back along checked times."""

    def transform(self, times: Times, scheme: Scheme, on_fold: OnFold | None = None) -> FlowTransform:
        """Return the flow as a transform of torch.distributions, from its start to its end.

        Args:
            times: The times of the flow, from its start to its end.
            scheme: The scheme.
            on_fold: See :meth:`follow`.

        Returns:
            The transform, for ``torch.distributions.TransformedDistribution`` and compositions.

        Example:
            >>> import torch
            >>> from torch.distributions import Independent, Normal, TransformedDistribution
            >>> from latentflow import QuadraticPotential
            >>> base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
            >>> doubling = PotentialFlow(QuadraticPotential(2, torch.eye(2))).transform([0.0, 1.0], Euler())
            >>> z = torch.randn(5, 2)
            >>> expected = Independent(Normal(torch.zeros(2), 2 * torch.ones(2)), 1)
            >>> found = TransformedDistribution(base, [doubling])
            >>> torch.testing.assert_close(found.log_prob(z), expected.log_prob(z))
        """
        check_times(times, real_times(times))
        return FlowTransform(self, times, scheme, on_fold)

    def push_forward(
        self,
        base: Distribution,
        times: Times,
        scheme: Scheme,
        on_fold: OnFold | None = None,
        validate_args: bool | None = None,
    ) -> PushForward:
        r"""Transport a distribution: return the law of :math:`z_T` if :math:`z_0` has the law ``base``.

        Args:
            base: The distribution of the start, with events of shape ``(dim,)``.
            times: The times of the flow, from its start to its end.
            scheme: The scheme; in evaluation mode a density needs an exact log-determinant.
            on_fold: See :meth:`follow`.
            validate_args: Whether to check the points of a density; None for torch's default.

        Returns:
            The distribution, with the errors of :meth:`follow` and :meth:`inverse`.

        Raises:
            TypeError: If ``base`` is not a distribution.
            ValueError: If the events of ``base`` are not vectors; later, from the log-densities, if there is no
                log-determinant or a stochastic one in evaluation mode.

        Example:
            >>> import torch
            >>> from torch.distributions import Independent, Normal
            >>> from latentflow import QuadraticPotential
            >>> base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
            >>> flow = PotentialFlow(QuadraticPotential(2, torch.eye(2)))
            >>> doubled = flow.push_forward(base, [0.0, 1.0], Euler())  # z -> 2 z
            >>> z = torch.randn(5, 2)
            >>> expected = Independent(Normal(torch.zeros(2), 2 * torch.ones(2)), 1)
            >>> torch.testing.assert_close(doubled.log_prob(z), expected.log_prob(z))
        """
        return PushForward(base, self.transform(times, scheme, on_fold), validate_args)

    def density_source(self, scheme: Scheme) -> DensitySource | None:
        """Return the source of the log-determinants that the flow computes under a scheme, or None."""
        return scheme.density

    def _policy(self, on_fold: OnFold | None) -> OnFold:
        check_policy(on_fold)
        return on_fold or ("warn" if self.training else "raise")


class PotentialFlow(Flow):
    r"""The flow :math:`\dot z = \nabla_z u(z, t)` along any potential.

    The discrete flow is Euler's scheme :math:`z_{n+1} = z_n + h \nabla u(z_n, t_n)` with :math:`t_n = t_0 + n h` and

    .. math::
        \log q_{n+1}(z_{n+1}) = \log q_n(z_n) - \log|\det(I + h \nabla^2 u(z_n, t_n))| .

    One derivative pass gives the velocity and the determinant of a step.

    Args:
        potential: The field ``u``: a :class:`Potential` or any callable ``u(z, t)``.

    Raises:
        TypeError: If ``potential`` is not callable.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023)
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> import torch
        >>> from latentflow import MLPPotential
        >>> flow, z0 = PotentialFlow(MLPPotential(dim=2)), torch.randn(128, 2)
        >>> trajectory = flow.rollout(z0, steps=8, dt=1 / 8)
        >>> assert trajectory.z.shape == (9, 128, 2) and trajectory.log_det.shape == (9, 128)
    """

    def __init__(self, potential: Field) -> None:
        super().__init__()
        self.potential = as_module(potential)

    def _follow(
        self, z0: Tensor, times: Times, scheme: Scheme, running_cost: RunningCost | None, policy: OnFold
    ) -> Trajectory:
        trajectory = scheme.follow(self.potential, z0, times, running_cost)
        report_folds(trajectory, policy)
        return trajectory

    def _invert(self, z: Tensor, times: Tensor, scheme: Scheme, policy: OnFold) -> Trajectory:
        trajectory = scheme.invert(self.potential, z, times)
        report_folds(trajectory, policy, backwards=True)
        return trajectory

    def _rollout(self, z0: Tensor, times: list[float], dt: float, scheme: Euler, policy: OnFold) -> Trajectory:
        trajectory = euler_trajectory(self.potential, z0, times, scheme, dt=dt)
        report_folds(trajectory, policy)
        return trajectory
