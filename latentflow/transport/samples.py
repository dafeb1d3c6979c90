"""Samples of the two distributions of a transport problem: from tensors or from callables."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from typing import TypeAlias

import torch
from torch import Tensor

from latentflow.calculus.checks import check_finite_tensor, check_tensor, describe

Samples: TypeAlias = Tensor | Callable[[int, torch.Generator | None], Tensor]
"""Samples: a tensor ``(n, dim)``, or a callable that draws ``(count, dim)`` from ``count`` and a generator."""

FEWEST = 16  # samples of a tensor


@dataclass(frozen=True)
class Cloud:
    """A distribution from which points are drawn, given by a tensor of samples or a callable.

    Of a tensor, points are drawn with replacement from all samples but those held out.

    Attributes:
        name: The name of the argument, for errors.
        samples: The samples, or the callable.
        validation: The samples to choose a potential by, of a tensor; else the callable.
        fresh: The samples that nothing depends on, of a tensor; else the callable.
    """

    name: str
    samples: Samples
    validation: Samples
    fresh: Samples

    @staticmethod
    def build(name: str, samples: Samples, holdout: float, generator: torch.Generator | None) -> Cloud:
        """Check samples, and hold out a share of those of a tensor."""
        if not isinstance(samples, Tensor):
            return Cloud(name, samples, samples, samples)
        check_tensor(name, samples, ("n", "dim"))
        held = max(FEWEST, round(holdout * len(samples) / 2))
        if len(samples) < 3 * held:
            raise ValueError(f"{name}: expected at least {3 * held} samples, got {len(samples)}")
        shuffled = take(name, samples, len(samples), generator)
        return Cloud(name, shuffled[2 * held :], shuffled[:held], shuffled[held : 2 * held])

    def draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Draw points ``(count, dim)`` to train on."""
        if isinstance(self.samples, Tensor):
            index = torch.randint(
                len(self.samples), (count,), generator=generator, device=device_of(generator, self.samples)
            )
            return self.samples[index.to(self.samples.device)]
        return take(self.name, self.samples, count, generator)


@torch.no_grad()
def take(name: str, samples: Samples, count: int, generator: torch.Generator | None) -> Tensor:
    """Check samples, and take ``count`` of them, or all in a random order where a tensor has no more."""
    if isinstance(samples, Tensor):
        check_tensor(name, samples, ("n", "dim"))
        check_finite_tensor(name, samples)
        if len(samples) < FEWEST:
            raise ValueError(f"{name}: expected at least {FEWEST} samples, got {len(samples)}")
        order = torch.randperm(len(samples), generator=generator, device=device_of(generator, samples))[:count]
        return samples.detach()[order.to(samples.device)]
    if not callable(samples):
        raise TypeError(f"{name}: expected a tensor or a callable (count, generator), got {describe(samples)}")
    try:
        points = samples(count, generator)
    except TypeError:
        _check_signature(name, samples, count, generator)
        raise
    check_tensor(name, points, ("count", "dim"))
    check_finite_tensor(name, points)
    if len(points) != count:
        raise ValueError(f"{name}: expected {count} points from the callable, got {len(points)}")
    return points


def _check_signature(name: str, samples: Callable[..., Tensor], *arguments: object) -> None:
    """Raise a TypeError that names a callable, if it does not take the arguments."""
    with suppress(ValueError):  # its signature is not known
        try:
            signature(samples).bind(*arguments)
        except TypeError as error:
            got = f"{describe(samples)}: {error}"
            raise TypeError(f"{name}: expected a callable (count, generator), got {got}") from None


@dataclass(frozen=True)
class Pair:
    """The source and the target of a transport problem.

    Attributes:
        source: The source.
        target: The target.
    """

    source: Cloud
    target: Cloud

    @staticmethod
    def build(source: Samples, target: Samples, holdout: float, generator: torch.Generator | None) -> Pair:
        """Check that both sides have the same number of coordinates and the same dtype."""
        pair = Pair(
            Cloud.build("source", source, holdout, generator), Cloud.build("target", target, holdout, generator)
        )
        x, y = pair.source.draw(2, generator), pair.target.draw(2, generator)
        check_tensor("target", target if isinstance(target, Tensor) else y, ("n", x.shape[-1]), like=x)
        return pair

    def draw(self, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draw points of both sides to train on."""
        return self.source.draw(count, generator), self.target.draw(count, generator)

    def validation(self, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return points of both sides to choose a potential by."""
        source, target = self.source, self.target
        return (
            take(source.name, source.validation, count, generator),
            take(target.name, target.validation, count, generator),
        )


def device_of(generator: torch.Generator | None, like: Tensor) -> torch.device:
    """Return the device to draw on: that of the generator, or of a tensor where there is none."""
    return like.device if generator is None else generator.device
