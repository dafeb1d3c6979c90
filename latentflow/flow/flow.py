"""Flows along the gradient of a potential."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow.calculus import Estimator, Exact, Field, JetRequest, Time, check_points, evaluate_jet
from latentflow.flow.euler import Discrete, Step, make_step, walk, walk_back
from latentflow.flow.log_det import SlogDet, Volume
from latentflow.flow.ode import ODEOptions, RunningCost, integrate
from latentflow.flow.push_forward import PushForward
from latentflow.flow.trajectory import OnFold, Path, check_steps, check_times
from latentflow.potentials.algebra import as_module


class PotentialFlow(nn.Module):
    r"""The latent flow :math:`\dot z = \nabla_z u(z, t)` along a potential.

    It transports a density by :math:`\partial_t q = -\operatorname{div}(q \nabla u)`. The discrete flow is Euler's
    scheme :math:`z_{n+1} = z_n + h \nabla u(z_n, t_n)` with :math:`t_n = t_0 + n h` and

    .. math::
        \log q_{n+1}(z_{n+1}) = \log q_n(z_n) - \log|\det(I + h \nabla^2 u(z_n, t_n))| .

    One derivative pass gives the velocity and the volume of a step.

    Args:
        potential: The field ``u``: a :class:`Potential` or any callable ``u(z, t)``.
        on_fold: What to do where a step is not invertible: ``"raise"``, ``"warn"`` or ``"ignore"``. None means
            ``"warn"`` in training mode and ``"raise"`` in evaluation mode.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023)
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> import torch
        >>> from latentflow import QuadraticPotential
        >>> flow = PotentialFlow(QuadraticPotential(2, matrix=torch.diag(torch.tensor([1.0, -0.5]))))
        >>> path = flow.rollout(torch.ones(4, 2), steps=3)
        >>> torch.testing.assert_close(path.z[-1], torch.tensor([8.0, 0.125]).expand(4, 2))
        >>> torch.testing.assert_close(path.log_det[-1], torch.zeros(4))
    """

    def __init__(self, potential: Field, on_fold: OnFold | None = None) -> None:
        super().__init__()
        if not callable(potential):
            raise TypeError(f"potential: expected a callable u(z, t), got {type(potential).__name__}")
        self.potential = as_module(potential)
        self.on_fold = on_fold

    def velocity(self, z: Tensor, t: Time) -> Tensor:
        r"""Compute the velocity :math:`\nabla_z u(z, t)`.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: The times: a number, ``()`` or ``(*batch,)``.

        Returns:
            The velocity, of shape ``(*batch, dim)``.
        """
        return evaluate_jet(self.potential, z, t, JetRequest()).gradient

    def step(self, z: Tensor, t: Time, dt: float = 1.0, volume: Volume | None = None) -> Step:
        r"""Make one step :math:`z + h \nabla u(z, t)`.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: The times before the step: a number, ``()`` or ``(*batch,)``.
            dt: The length :math:`h` of the step, of either sign.
            volume: How to compute the change of volume, or None to leave it out.

        Returns:
            The step. It is not checked for folds; ``step.volume`` says where they are.
        """
        return make_step(self.potential, z, t, dt, volume)

    def rollout(
        self,
        z0: Tensor,
        steps: int = 8,
        start: float = 0.0,
        dt: float = 1.0,
        volume: Volume | None = SlogDet(),  # noqa: B008 - frozen
    ) -> Path:
        r"""Follow the discrete flow from ``z0``.

        Args:
            z0: The points to start from, of shape ``(*batch, dim)``.
            steps: The number ``T`` of steps, zero or more.
            start: The time :math:`t_0` of ``z0``.
            dt: The length of a step.
            volume: ``SlogDet()`` (exact), ``FirstOrder()`` (the paper's surrogate), or None to leave it out.

        Returns:
            The path, with ``T+1`` points.

        Raises:
            TypeError: If ``z0`` is not a floating-point tensor.
            ValueError: If ``steps`` is negative or not an integer, or a shape does not fit.
            FloatingPointError: If the path leaves the finite numbers, in which case the message names the step and the
                samples, or if a volume is NaN.
            FoldError: If a step is not invertible and the policy is ``"raise"``.
        """
        check_points(z0)
        check_steps(steps)
        times = [start + n * dt for n in range(steps + 1)]
        return walk(self.potential, z0, times, volume, self.fold_policy, dt)

    def integrate(
        self,
        z0: Tensor,
        times: Tensor | Sequence[float],
        ode: ODEOptions = ODEOptions(),  # noqa: B008 - frozen
        divergence: Estimator | None = Exact(),  # noqa: B008 - frozen
        running_cost: RunningCost | None = None,
    ) -> Path:
        r"""Follow the continuous flow from ``z0`` by an ODE solver.

        .. math::
            \dot z = \nabla u, \quad \tfrac{d}{dt} \log|\det \partial z_t / \partial z_0| = \Delta u, \quad
            \tfrac{d}{dt}\,\mathrm{action} = |\nabla u|^2, \quad \tfrac{d}{dt}\,\mathrm{cost} = c(z, t)

        are solved together, each under the solver's error control, and one derivative pass serves all of them. In a
        batch, adaptive methods share their steps, see :class:`ODEOptions`.

        Args:
            z0: The points at ``times[0]``, of shape ``(*batch, dim)``.
            times: The times of the path, of shape ``(T+1,)``, in strictly increasing or decreasing order. Gradients
                flow to a tensor of times.
            ode: The solver.
            divergence: How to obtain :math:`\Delta u`, or None to leave ``log_det`` out. The noise of a stochastic
                estimator is drawn once for the whole path, so that the solver sees a smooth equation.
            running_cost: A rate to integrate along the path, such as the residual of a PDE.

        Returns:
            The path. Backwards in time its action and cost are negative: they are signed integrals.

        Raises:
            TypeError: If ``z0`` is not a floating-point tensor.
            ValueError: If the times, the points or the running cost do not fit.
            SolverError: If the solver gives up.
            FloatingPointError: If the path leaves the finite numbers.

        References:
            | FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl et al., 2018)
            | https://arxiv.org/abs/1810.01367

        Example:
            >>> import torch
            >>> from latentflow import QuadraticPotential
            >>> matrix = torch.tensor([[0.5, 1.0], [1.0, -0.25]])
            >>> flow, z0 = PotentialFlow(QuadraticPotential(2, matrix)), torch.randn(4, 2)
            >>> path = flow.integrate(z0, [0.0, 0.5, 1.0])
            >>> torch.testing.assert_close(path.z[-1], z0 @ torch.linalg.matrix_exp(matrix), rtol=1e-3, atol=1e-3)
            >>> torch.testing.assert_close(path.log_det[-1], torch.full((4,), 0.25))
        """
        return integrate(self.potential, z0, times, ode, divergence, running_cost)

    def inverse(
        self,
        z: Tensor,
        times: Tensor | Sequence[float],
        scheme: Scheme = ODEOptions(),  # noqa: B008 - frozen
        divergence: Estimator | None = Exact(),  # noqa: B008 - frozen
    ) -> Path:
        r"""Follow the flow back from its end.

        The continuous flow is integrated backwards; errors grow where the flow contracts. Discrete steps are inverted
        one by one, which finds the point where the step does not fold.

        Args:
            z: The points at ``times[-1]``, of shape ``(*batch, dim)``.
            times: The times of the flow, from its start to its end; for a discrete scheme, its grid.
            scheme: ``ODEOptions(...)`` for the continuous flow, ``Discrete(...)`` for the discrete one.
            divergence: See :meth:`integrate`; a discrete scheme has a volume of its own.

        Returns:
            The path back: ``path.times`` is ``times`` reversed, ``path.z[0]`` is ``z``, ``path.z[-1]`` the start, and
            ``path.log_det`` is :math:`\log|\det \partial z_t / \partial z_T|`, minus that of the way forth.

        Raises:
            InversionError: If a discrete step cannot be inverted.
            FoldError: If a discrete step folds at the point found and the policy is ``"raise"``.
            ValueError: See :meth:`integrate`.
            SolverError: See :meth:`integrate`.

        Example:
            >>> import torch
            >>> flow, z0 = PotentialFlow(lambda z, t: -0.5 * z.cos().sum(-1)), torch.randn(4, 2)
            >>> path = flow.rollout(z0, steps=3)
            >>> back = flow.inverse(path.z[-1], path.times, Discrete())
            >>> torch.testing.assert_close(back.z[-1], z0, rtol=1e-4, atol=1e-4)
            >>> torch.testing.assert_close(back.log_det[-1], -path.log_det[-1], rtol=1e-4, atol=1e-4)
        """
        check_points(z)
        check_scheme(scheme, divergence)
        if isinstance(scheme, Discrete):
            return walk_back(self.potential, z, grid(times, z), scheme, self.fold_policy)
        return self.integrate(z, check_times(times, z).flip(0), scheme, divergence)

    def push_forward(
        self,
        base: Distribution,
        times: Tensor | Sequence[float],
        scheme: Scheme = ODEOptions(),  # noqa: B008 - frozen
        divergence: Estimator | None = Exact(),  # noqa: B008 - frozen
        validate_args: bool | None = None,
    ) -> PushForward:
        r"""Transport a distribution: give that of :math:`z_T` when :math:`z_0` has the distribution ``base``.

        Args:
            base: The distribution of the start, with events of shape ``(dim,)``.
            times: The times of the flow, from its start to its end; for a discrete scheme, its grid.
            scheme: ``ODEOptions(...)`` for the continuous flow, ``Discrete(...)`` for the discrete one.
            divergence: See :meth:`integrate`; a discrete scheme has a volume of its own. A stochastic one trains, but
                in evaluation mode of the flow (``flow.eval()``) its log-density is refused: noise biases it upwards.
            validate_args: Whether to check the points at which the density is asked; None for torch's default.

        Returns:
            The distribution. Its methods raise what :meth:`integrate` and :meth:`inverse` raise.

        Raises:
            TypeError: If ``base`` is not a distribution, or ``scheme`` no scheme.
            ValueError: If the events of ``base`` are not vectors; later, from the log-densities, if there is no volume
                or a stochastic one in evaluation mode.

        Example:
            >>> import torch
            >>> from torch.distributions import Independent, Normal
            >>> from latentflow import QuadraticPotential
            >>> base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
            >>> flow = PotentialFlow(QuadraticPotential(2, torch.eye(2)))
            >>> spread = flow.push_forward(base, [0.0, 1.0], Discrete())  # z -> 2 z
            >>> z = torch.randn(5, 2)
            >>> expected = Independent(Normal(torch.zeros(2), 2 * torch.ones(2)), 1)
            >>> torch.testing.assert_close(spread.log_prob(z), expected.log_prob(z))
        """
        return PushForward(base, ScheduledFlow(self, times, scheme, divergence), validate_args)

    @property
    def fold_policy(self) -> OnFold:
        """What is done where a discrete step folds, now that the mode is known."""
        return self.on_fold or ("warn" if self.training else "raise")


Scheme: TypeAlias = ODEOptions | Discrete
"""How to follow a flow: by an ODE solver, or by the discrete steps."""


def check_scheme(scheme: Scheme, divergence: Estimator | None) -> None:
    """Check that a divergence belongs to the scheme.

    Args:
        scheme: The scheme.
        divergence: How to obtain the divergence of the continuous flow.

    Raises:
        TypeError: If the scheme is neither ``ODEOptions`` nor ``Discrete``.
        ValueError: If a divergence is chosen for a discrete scheme, which has a volume instead.
    """
    if not isinstance(scheme, (ODEOptions, Discrete)):
        raise TypeError(f"scheme: expected ODEOptions or Discrete, got {type(scheme).__name__}")
    if isinstance(scheme, Discrete) and divergence != Exact():
        raise ValueError(
            f"divergence: expected the default with a discrete scheme, whose volume counts, got {divergence!r}"
        )


def grid(times: Tensor | Sequence[float], z: Tensor) -> list[float]:
    """Give the checked times of a discrete scheme as numbers."""
    numbers: list[float] = check_times(times, z).tolist()
    return numbers


@dataclass(frozen=True, eq=False)
class ScheduledFlow:
    """The map of a flow from the first to the last of its times."""

    flow: PotentialFlow
    times: Tensor | Sequence[float]
    scheme: Scheme
    divergence: Estimator | None

    def __post_init__(self) -> None:
        check_scheme(self.scheme, self.divergence)

    def forward(self, z: Tensor, *, density: bool) -> Path:
        """Follow the flow from its start, with or without ``log_det``."""
        if density:
            self._check_reportable()
        if isinstance(self.scheme, Discrete):
            return self.walk(z, self.scheme.volume if density else None)
        return self.flow.integrate(z, self.times, self.scheme, self.divergence if density else None)

    def walk(self, z: Tensor, volume: Volume | None) -> Path:
        """Follow the flow from its start by the steps of a discrete scheme."""
        return walk(self.flow.potential, z, grid(self.times, z), volume, self.flow.fold_policy)

    def inverse(self, z: Tensor) -> Path:
        """Follow the flow back from its end, with ``log_det``."""
        self._check_reportable()
        return self.flow.inverse(z, self.times, self.scheme, self.divergence)

    def _check_reportable(self) -> None:
        discrete = isinstance(self.scheme, Discrete)
        source = self.scheme.volume if isinstance(self.scheme, Discrete) else self.divergence
        name = "scheme: expected an exact volume" if discrete else "divergence: expected an exact one"
        if source is None:
            raise ValueError(f"{name}, without which there is no density, got None")
        if source.stochastic and not self.flow.training:
            raise ValueError(
                f"{name} in evaluation mode, got {source!r}: the noise of random probes biases a likelihood upwards"
            )
