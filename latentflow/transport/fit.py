r"""Optimal transport from samples: the potential of the map, its flow, and a certificate of both."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from latentflow.calculus.checks import (
    check_count,
    check_flag,
    check_generator,
    check_instance,
    check_methods,
    check_positive,
    describe,
)
from latentflow.potentials import Potential
from latentflow.transport.coordinates import Coordinates, MatchedPotential
from latentflow.transport.dual import CANDIDATES, DualPotential, DualValue, dual_value
from latentflow.transport.pair_certificate import pair_certificate
from latentflow.transport.samples import Pair, Samples, device_of, take
from latentflow.transport.training import Training, TransportMethod
from latentflow.transport.transport_map import TransportMap, Validation, default_potential, write_state

POINTS = 2**16
"""Points of each side that the coordinates are matched by."""
VALIDATION_POINTS = 2048
VALIDATIONS = 20
"""How often in the course of a budget the potential is validated and written to the checkpoint."""
ERRORS, SHARE = 2.0, 0.01
"""How far below the largest dual value counts as chance: in standard errors, and as a share of that value."""


def fit_transport(
    source: Samples,
    target: Samples,
    *,
    potential: Potential | None = None,
    method: TransportMethod | Sequence[TransportMethod] = DualPotential(),  # noqa: B008 - frozen
    budget: int | timedelta = 4000,
    match_moments: bool = True,
    holdout: float = 0.2,
    certify: bool = True,
    checkpoint: Path | str | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> TransportMap:
    r"""Fit the optimal transport map between two distributions to samples, and certify it.

    The map is :math:`T(x) = x + \nabla u(x)` with a potential :math:`u`, for the cost :math:`|x - y|^2`. Training works
    in coordinates in which both sides have mean zero and one covariance, so that the best linear map is where it
    starts. Twenty times in the course of the budget the dual value of the potential is computed on samples that are not
    trained on. The potential that is returned is the last one whose dual value is below the largest one by no more than
    two standard errors of their difference, and by no more than a hundredth: less than that is chance, and later
    potentials are trained at lower rates.

    Mass is neither created nor destroyed: both sides count as distributions, and unbalanced transport is left out.

    Args:
        source: Samples of the source: a tensor ``(n, dim)``, or a callable that draws ``(count, dim)`` from ``count``
            and a generator, for new points in each step.
        target: Samples of the target. A sample of one side is not paired with one of the other.
        potential: The potential to train, in place, with parameters of the dtype of the samples; an
            :class:`MLPPotential` of three layers of 128 with SiLU if None. With ``match_moments`` it is
            the ``potential`` of the :class:`MatchedPotential` that the map has, else that of the map itself.
        method: The method, or a chain of methods that train the same potential in turn, each for its share.
        budget: The number of steps, or the CPU time of the process as a :class:`datetime.timedelta`. The same steps
            give the same map.
        match_moments: Whether to match mean and covariance first.
        holdout: The share of the samples of a tensor that is not trained on: half of it chooses the potential, the
            other half is for the certificate.
        certify: Whether to compute the certificate.
        checkpoint: A file for the state of the training, from which the same call goes on after it was stopped; it is
            written twenty times, and removed at the end. None for no file.
        progress: Whether to show a progress bar.
        generator: The source of randomness, None for torch's own.

    Returns:
        The map. Ctrl-C ends the training and returns the best map so far; while the certificate is computed, which
        takes some 20 seconds at 32,768 samples of each side, it returns the map without one.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If a shape or a number does not fit, a sample is not finite, there are fewer than 48 of them, all
            are the same point, or the checkpoint is that of another call.
        RuntimeError: If no potential with a finite dual value was found.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> ring = lambda count, generator: torch.nn.functional.normalize(torch.randn(count, 2, generator=generator))
        >>> disk = lambda count, generator: ring(count, generator) * torch.rand(count, 1, generator=generator).sqrt()
        >>> fitted = fit_transport(disk, lambda n, g: 3 * disk(n, g) + 1, budget=60, generator=generator)
        >>> x = disk(500, generator)
        >>> torch.testing.assert_close(fitted.map(x), 3 * x + 1, rtol=0.1, atol=0.1)
        >>> certificate = fitted.certificate
        >>> assert certificate.lower < 4 * 0.5 + 2 < certificate.upper
    """
    check_generator(generator)
    check_flag("match_moments", match_moments)
    check_flag("certify", certify)
    check_flag("progress", progress)
    if not check_positive("holdout", holdout) < 0.6:
        raise ValueError(f"holdout: expected a share below 0.6, got {holdout!r}")
    if checkpoint is not None:
        check_instance("checkpoint", checkpoint, (str, Path), "a path or None")
    chain = _check_chain(method)
    clock = _Clock(budget)
    pair = Pair.build(source, target, holdout, generator)
    x, y = (take(own.name, own.samples, POINTS, generator) for own in (pair.source, pair.target))
    for name, points in (("source", x), ("target", y)):
        if bool((points == points[0]).all()):
            raise ValueError(f"{name}: expected points that differ from each other, got {points[0].tolist()} alone")
    if potential is not None:
        check_instance("potential", potential, Potential, "a Potential or None")
    seed = int(torch.randint(2**31, (), generator=generator, device=device_of(generator, x)))
    trained = default_potential(x, seed) if potential is None else potential
    if match_moments:
        coordinates = Coordinates.match(x, y)
        result: Potential = MatchedPotential(trained, coordinates)
    else:
        coordinates, result = None, trained

    def draw(count: int) -> tuple[Tensor, Tensor]:
        x, y = pair.draw(count, generator)
        return (x, y) if coordinates is None else (coordinates.source(x), coordinates.target(y))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trainings = [own.begin(trained, draw, generator) for own in chain]
    run = _Run(
        trained,
        result,
        trainings,
        [own.share for own in chain],
        [type(own).__name__ for own in chain],
        pair.validation(VALIDATION_POINTS, generator),
        clock,
    )
    signature = f"{chain!r} {budget!r} {x.shape[-1]} {x.dtype} {match_moments}"
    history = run.train(None if checkpoint is None else Path(checkpoint), signature, generator, show=progress)
    certificate = None
    if certify:
        bar = tqdm(total=1, desc="certificate", disable=not progress)
        with bar, suppress(KeyboardInterrupt):  # the map is not lost
            certificate = pair_certificate(result, pair.source.fresh, pair.target.fresh, generator=generator)
            bar.update()
    return TransportMap(result, certificate, history, x[:CANDIDATES].clone())


def _check_chain(method: TransportMethod | Sequence[TransportMethod]) -> list[TransportMethod]:
    chain = list(method) if isinstance(method, Sequence) and not isinstance(method, str) else [method]
    if not chain:
        raise ValueError("method: expected at least one method, got none")
    for own in chain:
        check_methods("method", own, ("begin",), "DualPotential(), another TransportMethod or a sequence of them")
    return chain


@dataclass
class _Clock:
    """The budget, in steps or in seconds of the CPU, and what is spent of it."""

    budget: int | timedelta
    steps: int = 0
    before: float = 0.0  # seconds of earlier processes

    def __post_init__(self) -> None:
        if isinstance(self.budget, timedelta):
            if self.budget <= timedelta(0):
                raise ValueError(f"budget: expected a positive time, got {self.budget}")
        elif isinstance(self.budget, int):
            check_count("budget", self.budget)
        else:
            raise TypeError(f"budget: expected a number of steps or a timedelta, got {describe(self.budget)}")
        self._begin = time.process_time()

    @property
    def seconds(self) -> float:
        return self.before + time.process_time() - self._begin

    @property
    def spent(self) -> float:
        """The share of the budget that is spent."""
        if isinstance(self.budget, timedelta):
            return self.seconds / self.budget.total_seconds()
        return self.steps / self.budget


@dataclass
class _Run:
    """A training: the potential, its methods in turn, and the best potential so far."""

    trained: Potential
    result: Potential
    trainings: list[Training]
    shares: list[float]
    names: list[str]
    validation: tuple[Tensor, Tensor]
    clock: _Clock
    stage: int = 0
    history: list[Validation] = field(default_factory=list)
    best: Mapping[str, Tensor] | None = None
    largest: DualValue | None = None

    def train(
        self, path: Path | None, signature: str, generator: torch.Generator | None, *, show: bool
    ) -> list[Validation]:
        """Train until the budget is spent or Ctrl-C, and leave the potential at its best."""
        if path is not None and path.exists():
            self._load(path, signature, generator)
        else:
            self._validate({})
        with suppress(KeyboardInterrupt):  # the best potential so far is returned
            self._loop(path, signature, generator, show=show)
        if self.best is None:
            raise RuntimeError("fit_transport: found no potential with a finite dual value; use a lower learning rate")
        self.trained.load_state_dict(self.best)
        if path is not None and self.clock.spent >= 1:
            path.unlink(missing_ok=True)
        return self.history

    def _loop(self, path: Path | None, signature: str, generator: torch.Generator | None, *, show: bool) -> None:
        ends = [sum(self.shares[: i + 1]) / sum(self.shares) for i in range(len(self.shares))]
        with tqdm(total=100.0, initial=100 * self.clock.spent, unit="%", disable=not show) as bar:
            while self.stage < len(self.trainings):
                begin = ends[self.stage - 1] if self.stage > 0 else 0.0
                end = ends[self.stage]
                measures: Mapping[str, float] = {}
                while (spent := self.clock.spent) < end:
                    measures = self.trainings[self.stage].step((spent - begin) / (end - begin))
                    self.clock.steps += 1
                    if int(self.clock.spent * VALIDATIONS) > int(spent * VALIDATIONS) and self.clock.spent < end:
                        self._validate(measures)
                        self._save(path, signature, generator)
                    bar.update(100 * min(self.clock.spent, 1.0) - bar.n)
                    if self.clock.steps % 10 == 0:
                        bar.set_postfix_str(" ".join(f"{name} {value:.4g}" for name, value in measures.items()))
                self._validate(measures)
                self.stage += 1
                self._save(path, signature, generator)

    def _validate(self, measures: Mapping[str, float]) -> None:
        """Compute the dual value on points that are not trained on, and keep the best potential."""
        found = dual_value(self.result, *self.validation)
        name = self.names[min(self.stage, len(self.names) - 1)]
        measures = {**measures, "not found": found.not_found}
        self.history.append(Validation(name, self.clock.steps, self.clock.seconds, found.mean, measures))
        if not math.isfinite(found.mean):
            return
        largest = found if self.largest is None or found.mean >= self.largest.mean else self.largest
        if largest.mean - found.mean <= min(ERRORS * found.error_from(largest), SHARE * abs(largest.mean)):
            self.best = copy.deepcopy(self.trained.state_dict())
        self.largest = largest

    def _save(self, path: Path | None, signature: str, generator: torch.Generator | None) -> None:
        if path is None:
            return
        state: dict[str, Any] = {
            "signature": signature,
            "stage": self.stage,
            "steps": self.clock.steps,
            "seconds": self.clock.seconds,
            "trained": self.trained.state_dict(),
            "result": self.result.state_dict(),
            "best": self.best,
            "largest": None if self.largest is None else tuple(self.largest),
            "trainings": [own.state() for own in self.trainings],
            "history": [own.as_dict() for own in self.history],
            "validation": self.validation,
            "random": torch.get_rng_state() if generator is None else generator.get_state(),
        }
        write_state(path, state)

    def _load(self, path: Path, signature: str, generator: torch.Generator | None) -> None:
        state = torch.load(path, weights_only=True)
        if state["signature"] != signature:
            raise ValueError(f"checkpoint: expected that of {signature}, got that of {state['signature']}")
        self.stage, self.clock.steps, self.clock.before = state["stage"], state["steps"], state["seconds"]
        self.result.load_state_dict(state["result"])
        self.trained.load_state_dict(state["trained"])
        self.best, self.validation = state["best"], tuple(state["validation"])
        self.largest = None if state["largest"] is None else DualValue(*state["largest"])
        for training, own in zip(self.trainings, state["trainings"], strict=True):
            training.load(own)
        self.history = [Validation(**own) for own in state["history"]]
        if generator is None:
            torch.set_rng_state(state["random"])
        else:
            generator.set_state(state["random"])
