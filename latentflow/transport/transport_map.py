r"""A map of optimal transport that was fitted to samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import silu

from latentflow.calculus import JetRequest, evaluate_jet
from latentflow.calculus.checks import check_instance, check_methods, check_points, check_tensor
from latentflow.calculus.files import replacing
from latentflow.flow import LBFGS, ODE, HopfLaxFlow, InversionError, PushForward, RootSearch
from latentflow.flow.inverse import correct
from latentflow.potentials import MLPPotential, Potential
from latentflow.potentials.algebra import dim_of
from latentflow.transport.coordinates import Coordinates, MatchedPotential
from latentflow.transport.dual import conjugate_of, lowest
from latentflow.transport.gaussian import mccann_interpolation
from latentflow.transport.pair_certificate import PairCertificate

TIMES = (0.0, 1.0)
SEARCH = LBFGS(max_iterations=100, tolerance=1e-5, shrink=True)
"""The search for an inverse, unless another one is given."""


@dataclass(frozen=True)
class Validation:
    r"""The state of a training on samples that are not trained on.

    Attributes:
        method: The name of the method.
        step: The number of steps made.
        seconds: The CPU seconds spent.
        dual: The dual value of the potential, an estimate of a lower bound on :math:`W_2^2`, in squared lengths.
        measures: What the method measured in its last step, and the share of minima that were not found.
    """

    method: str
    step: int
    seconds: float
    dual: float
    measures: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class TransportMap:
    r"""The map :math:`T(x) = x + \nabla u(x)` of a potential, and all that follows from it.

    Attributes:
        potential: The potential :math:`u`, evaluated at time 0.
        certificate: The bracket around the distance, or None.
        history: The validations of the training.
        anchors: Points of the source, ``(m, dim)``, from the best of which the inverse is searched for too; or None.

    Example:
        >>> from latentflow import gaussian_transport_potential
        >>> m, S = torch.zeros(2), torch.diag(torch.tensor([4.0, 1.0]))
        >>> transport = TransportMap(gaussian_transport_potential(m, torch.eye(2), m + 1, S))
        >>> x = torch.randn(5, 2)
        >>> torch.testing.assert_close(transport.map(x), x * torch.tensor([2.0, 1.0]) + 1)
        >>> torch.testing.assert_close(transport.inverse(transport.map(x)), x, rtol=1e-4, atol=1e-4)
        >>> base = torch.distributions.MultivariateNormal(m, torch.eye(2))
        >>> density = transport.push_forward(base).log_prob(x)
        >>> torch.testing.assert_close(density, torch.distributions.MultivariateNormal(m + 1, S).log_prob(x))
    """

    potential: Potential
    certificate: PairCertificate | None = None
    history: list[Validation] = field(default_factory=list)
    anchors: Tensor | None = None

    def __post_init__(self) -> None:
        check_instance("potential", self.potential, Potential, "a Potential")
        if self.anchors is not None:
            check_tensor("anchors", self.anchors, ("m", dim_of(self.potential) or "dim"))
            if len(self.anchors) == 0:
                raise ValueError("anchors: expected points or None, got none")

    @property
    def flow(self) -> HopfLaxFlow:
        """The flow that carries the source to the target in the time from 0 to 1, along straight lines."""
        return HopfLaxFlow(self.potential)

    def map(self, x: Tensor) -> Tensor:
        """Map points of the source, of shape ``(*batch, dim)``."""
        check_points(x, name="x")
        return x + evaluate_jet(self.potential, x, 0.0, JetRequest()).gradient

    def interpolate(self, x: Tensor, t: float) -> Tensor:
        r"""Move points of the source to the time ``t``, :math:`x + t \nabla u(x)`: McCann's interpolation."""
        return mccann_interpolation(x, self.map, t)

    def inverse(self, y: Tensor, search: RootSearch = SEARCH) -> Tensor:
        r"""Map points of the target back, :math:`x = T^{-1}(y)`.

        Where ``y`` requires gradients, ``x`` has its first derivatives, also those in the parameters of the potential:
        :math:`\partial x / \partial y = (I + \nabla^2 u(x))^{-1}`, by a step of Newton's method from the point found.

        Args:
            y: The points, of shape ``(*batch, dim)``.
            search: The search for the points, in the coordinates that a training works in.

        Returns:
            The points of the source, of shape ``(*batch, dim)``.

        Raises:
            InversionError: If some are not found, or have no derivative.
        """
        check_points(y, name="y")
        check_methods("search", search, ("search",), "LBFGS(), Newton() or another RootSearch")
        points = y.detach().reshape(-1, y.shape[-1])
        if self.anchors is None:
            found = conjugate_of(self.potential, points, search)
        else:
            found = lowest(self.potential, points, search, self.anchors)
        if not found.found.all():
            raise InversionError(
                f"the inverse was not found for {int((~found.found).sum())} of {len(found.found)} points; use "
                "search=Newton(), a larger tolerance or more iterations"
            )
        x = found.x.reshape(y.shape)
        if y.requires_grad and torch.is_grad_enabled():
            return correct(self.potential, x, y, 0.0, 1.0, order=1)
        return x

    def push_forward(self, base: Distribution) -> PushForward:
        r"""Transport a distribution: return that of :math:`T(x)` if ``x`` has the law ``base``.

        Args:
            base: The distribution, with events of shape ``(dim,)``.

        Returns:
            The distribution, with an exact density; it raises a FoldError where the map is not one to one.
        """
        return self.flow.eval().push_forward(base, list(TIMES), ODE())

    def save(self, path: Path | str) -> None:
        """Write the weights of the potential, the certificate and the history to a file, whole or not at all."""
        write_state(Path(path), self.as_dict())

    @staticmethod
    def load(path: Path | str, potential: Potential | None = None) -> TransportMap:
        """Read a map from a file.

        Args:
            path: The file.
            potential: A potential built like the one that was trained, which takes the weights; that of
                :func:`fit_transport` if None.

        Returns:
            The map.

        Raises:
            ValueError: If the potential is needed and missing.
        """
        return TransportMap.from_dict(torch.load(Path(path), weights_only=True), potential)

    def as_dict(self) -> dict[str, Any]:
        """Return all that :meth:`save` writes, by name."""
        return {
            "weights": self.potential.state_dict(),
            "matched": isinstance(self.potential, MatchedPotential),
            "certificate": None if self.certificate is None else asdict(self.certificate),
            "history": [own.as_dict() for own in self.history],
            "anchors": self.anchors,
        }

    @staticmethod
    def from_dict(state: Mapping[str, Any], potential: Potential | None = None) -> TransportMap:
        """Build the map from what :meth:`as_dict` returned; see :meth:`load`."""
        weights = state["weights"]
        if potential is None:
            if not state["matched"]:
                raise ValueError("potential: expected one built like the one that was trained, got None")
            potential = default_potential(weights["root"])
        if state["matched"]:
            names = ("root", "inverse", "start", "end", "unit")
            potential = MatchedPotential(potential, Coordinates(*(weights[name] for name in names)))
        potential.load_state_dict(weights)
        certificate = state["certificate"]
        return TransportMap(
            potential,
            None if certificate is None else PairCertificate(**certificate),
            [Validation(**own) for own in state["history"]],
            state["anchors"],
        )


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state to a file, whole or not at all."""
    with replacing(path) as part:
        torch.save(state, part)


def default_potential(x: Tensor, seed: int = 0) -> Potential:
    """Build the potential of :func:`fit_transport` for points ``(n, dim)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLPPotential(x.shape[-1], (128, 128, 128), activation=silu, output_scale=0.1).to(x)
