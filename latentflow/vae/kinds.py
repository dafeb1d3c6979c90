"""The parts of a model that a file can name: how each is described by plain values, and built again from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from latentflow.calculus import Exact, Hutchinson, HutchPlusPlus, PositiveParameter
from latentflow.flow import (
    LBFGS,
    ODE,
    Euler,
    FirstOrder,
    FixedPoint,
    HopfLaxFlow,
    HopfLaxPotential,
    LogDetSeries,
    Newton,
    PotentialFlow,
    SlogDet,
)
from latentflow.pde import (
    AlongPath,
    ContinuityResidual,
    FokkerPlanckResidual,
    HeatResidual,
    HJInequality,
    HJResidual,
    InBox,
    LinearFokkerPlanckResidual,
    LogFokkerPlanckResidual,
    NonPositiveForce,
    Together,
    ViscousHJResidual,
    WaveResidual,
)
from latentflow.pde.equations import Constant, restoring_drift
from latentflow.potentials import (
    FourierEmbedding,
    FourierPotential,
    FunctionPotential,
    ICNNPotential,
    IdentityEmbedding,
    LowRankQuadratic,
    MixedPotential,
    MLPPotential,
    PotentialBank,
    QuadraticPotential,
    ResNetPotential,
    ScaledPotential,
    SelectedPotential,
    SinusoidalEmbedding,
    SumPotential,
    SwitchedPotential,
    log_cosh,
)
from latentflow.priors import (
    DiffusedPrior,
    DiffusionPrior,
    GaussianPrior,
    MixturePrior,
    TransportedPrior,
    VampPrior,
)
from latentflow.transport import Coordinates, GaussianTransportPotential, MatchedPotential
from latentflow.vae.bounds import JointBound, MarginalBound, StochasticBound
from latentflow.vae.convolutional import ConvDecoder, ConvEncoder, Convolution, ConvSequenceClassifier
from latentflow.vae.flow_vae import FlowVAE
from latentflow.vae.label_posterior import ExactSum, LabelPosterior, MLPSequenceClassifier, StraightThrough
from latentflow.vae.networks import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    GatedDecoder,
    GaussianLikelihood,
    LaplaceLikelihood,
    MLPDecoder,
    MLPEncoder,
)

Arguments: TypeAlias = Mapping[str, str | Callable[[Any], object]]
"""How to read each argument off an object: the name of an attribute, or a function of the object."""


@dataclass(frozen=True)
class Kind:
    """A class whose objects a file can describe.

    Attributes:
        made: The class.
        arguments: The arguments. What the tensors of the object say, such as initial values, is no argument.
        build: Builds an object from the arguments; the class itself by default. It is called on the meta device, where
            sizes cost nothing.
    """

    made: type[Any]
    arguments: Arguments
    build: Callable[..., object] | None = None

    def read(self, part: object) -> dict[str, object]:
        """Read the arguments off an object of the class."""
        return {name: getattr(part, how) if isinstance(how, str) else how(part) for name, how in self.arguments.items()}


def _same(*names: str) -> Arguments:
    """Read arguments off attributes of the same names."""
    return {name: name for name in names}


def _of_fields(made: type[Any]) -> Kind:
    return Kind(made, _same(*(field.name for field in fields(made) if field.init)))


def _widths(module: nn.Module) -> list[int]:
    """List the widths behind the linear layers of a module."""
    return [layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear)]


def _channels(module: nn.Module) -> int:
    """Return the channels behind the last convolution of a module."""
    return [len(layer.weight) for layer in module.modules() if isinstance(layer, Convolution)][-1]


def _latents(encoder: MLPEncoder | ConvEncoder) -> int:
    return encoder.head.linear.out_features // 2


def _coefficient(name: str) -> Callable[[Any], object]:
    """Read a coefficient: a number, or a module that learns one."""

    def read(part: object) -> object:
        value = getattr(part, name)
        return value.value if isinstance(value, Constant) else value

    return read


def _plain(name: str) -> Callable[[Any], object]:
    """Read a number, or the numbers of a small tensor."""

    def read(part: object) -> object:
        value = getattr(part, name)
        return value.tolist() if isinstance(value, Tensor) else value

    return read


def _mlp_widths(u: MLPPotential) -> list[int]:
    return [u.point.out_features, *_widths(u.hidden)]


def _curvature(u: ICNNPotential) -> float:
    return 0.0 if u.remainder is None else float(u.remainder.get_buffer("curvature"))


def _resnet(dim: int, width: int, rank: int, blocks: Sequence[int], **others: Any) -> ResNetPotential:  # noqa: ANN401 - as written
    """Build a residual network with as many layers as are listed: a number would cost what it likes."""
    return ResNetPotential(dim, width, len(blocks), rank, **others)


def _one_index(u: SelectedPotential) -> int:
    if u.shared is None:
        raise TypeError("k: expected one index for all samples, got one for each sample of a batch")
    return u.shared


def _bank_of_mixed(u: MixedPotential) -> PotentialBank:
    if u.per_sample:
        raise TypeError("weights: expected one weight for each potential, got weights for each sample of a batch")
    return u.bank


def _mixed(bank: PotentialBank, learned: bool) -> MixedPotential:
    return MixedPotential(bank, _placeholder((len(bank),), learned))


def _factor(u: ScaledPotential) -> float | None:
    if isinstance(u.weight, Tensor) and u.weight.ndim > 0 and not isinstance(u.weight, nn.Parameter):
        raise TypeError("weight: expected one number for all samples, got one for each sample of a batch")
    return None if isinstance(u.weight, Tensor) else u.weight


def _scaled(potential: nn.Module, weight: float | None, shape: Sequence[int] | None, learned: bool) -> ScaledPotential:
    return ScaledPotential(potential, _placeholder(shape or (), learned) if weight is None else weight)


def _placeholder(shape: Sequence[int], learned: bool) -> Tensor:
    return nn.Parameter(torch.empty(tuple(shape))) if learned else torch.empty(tuple(shape))


def _coordinates(potential: nn.Module, dim: int) -> MatchedPotential:
    square, vector = torch.empty(dim, dim), torch.empty(dim)
    return MatchedPotential(potential, Coordinates(square, square, vector, vector, torch.empty(())))


def _gaussian_transport(dim: int) -> GaussianTransportPotential:
    return GaussianTransportPotential(torch.empty(dim, dim), torch.empty(dim), torch.empty(dim))


def _box(low: float | Sequence[float], high: float | Sequence[float], count: int) -> InBox:
    def corner(value: float | Sequence[float]) -> float | Tensor:
        return torch.tensor(value, dtype=torch.float64, device="cpu") if isinstance(value, Sequence) else value

    return InBox(corner(low), corner(high), count)


_LAYERED = {"time_embedding": "embedding", "activation": "activation"}
_PERCEPTRON_DECODER = _same("dim", "shape")
_DRIFT: Arguments = {"diffusion": _coefficient("diffusion"), "drift": "drift"}

_ACTIVATIONS = (
    Kind(nn.Softplus, _same("beta", "threshold")),
    Kind(nn.GELU, _same("approximate")),
    *(Kind(made, {}) for made in (nn.Tanh, nn.SiLU, nn.Sigmoid)),
)
_POTENTIALS = (
    Kind(IdentityEmbedding, {}),
    Kind(SinusoidalEmbedding, _same("features")),
    Kind(FourierEmbedding, _same("features")),
    Kind(FunctionPotential, _same("function", "dim")),
    Kind(SumPotential, _same("terms")),
    Kind(
        ScaledPotential,
        {
            "potential": "potential",
            "weight": _factor,
            "shape": lambda u: list(u.weight.shape) if isinstance(u.weight, Tensor) else None,
            "learned": lambda u: isinstance(u.weight, nn.Parameter),
        },
        _scaled,
    ),
    Kind(MLPPotential, {"dim": "dim", "hidden": _mlp_widths, **_LAYERED}),
    Kind(ICNNPotential, {"dim": "dim", "hidden": lambda u: _widths(u.points), **_LAYERED, "curvature": _curvature}),
    Kind(FourierPotential, {"dim": "dim", "features": lambda u: len(u.phases)}),
    Kind(QuadraticPotential, _same("dim")),
    Kind(LowRankQuadratic, {"dim": "dim", "rank": lambda u: u.point.out_features, "time_embedding": "embedding"}),
    Kind(
        ResNetPotential,
        {
            "dim": "dim",
            "width": lambda u: u.point.out_features,
            "rank": lambda u: u.quadratic.point.out_features,
            "blocks": lambda u: _widths(u.blocks),
            **_LAYERED,
        },
        _resnet,
    ),
    Kind(PotentialBank, _same("potentials")),
    Kind(SelectedPotential, {"bank": "bank", "k": _one_index}),
    Kind(
        MixedPotential,
        {"bank": _bank_of_mixed, "learned": lambda u: isinstance(u.weights, nn.Parameter)},
        _mixed,
    ),
    Kind(SwitchedPotential, {"potentials": "potentials", "times": _plain("times"), "clock": "clock"}),
    Kind(HopfLaxPotential, _same("u0", "solver")),
    Kind(MatchedPotential, _same("potential", "dim"), _coordinates),
    Kind(GaussianTransportPotential, _same("dim"), _gaussian_transport),
)
_SCHEMES = tuple(
    map(
        _of_fields,
        (Exact, Hutchinson, HutchPlusPlus, SlogDet, FirstOrder, LogDetSeries, Newton, FixedPoint, LBFGS, Euler, ODE),
    )
)
_EQUATIONS = (
    Kind(PositiveParameter, {}, lambda: PositiveParameter(1.0)),
    Kind(NonPositiveForce, {"dim": lambda f: f.root.dim, "hidden": lambda f: _mlp_widths(f.root)}),
    Kind(HJResidual, _same("force", "force_penalty")),
    Kind(HJInequality, {}),
    Kind(ViscousHJResidual, {"viscosity": _coefficient("viscosity")}),
    Kind(FokkerPlanckResidual, _DRIFT),
    Kind(LogFokkerPlanckResidual, _DRIFT),
    Kind(LinearFokkerPlanckResidual, _DRIFT),
    Kind(ContinuityResidual, _same("potential")),
    Kind(HeatResidual, {"diffusivity": _coefficient("diffusivity")}),
    Kind(WaveResidual, {"speed": _coefficient("speed")}),
    _of_fields(AlongPath),
    Kind(InBox, {"low": _plain("low"), "high": _plain("high"), "count": "count"}, _box),
    Kind(Together, {"choices": "choices"}, lambda choices: Together(*choices)),
)
_PRIORS = (
    Kind(GaussianPrior, _same("dim")),
    Kind(DiffusedPrior, {"prior": "prior", "fields": lambda p: len(p.raw)}),
    Kind(DiffusionPrior, {"dim": "dim", "fields": lambda p: len(p.raw)}),
    Kind(MixturePrior, {"dim": lambda p: p.mean.shape[1], "components": lambda p: p.mean.shape[0]}),
    Kind(
        VampPrior,
        {"encoder": "encoder", "shape": lambda p: list(p.raw.shape)},
        lambda encoder, shape: VampPrior(encoder, torch.empty(tuple(shape))),
    ),
    Kind(TransportedPrior, _same("prior", "potential", "scheme", "dynamics")),
)
_MODELS = (
    Kind(MLPEncoder, {"shape": "shape", "dim": _latents, "hidden": lambda e: _widths(e.layers)}),
    Kind(
        ConvEncoder,
        {"shape": "shape", "dim": _latents, "hidden": lambda e: _widths(e.layers), "channels": _channels},
    ),
    Kind(MLPDecoder, {**_PERCEPTRON_DECODER, "hidden": lambda d: _widths(d.layers)[:-1]}),
    Kind(GatedDecoder, {**_PERCEPTRON_DECODER, "hidden": lambda d: [*_widths(d.layers), d.output.in_features]}),
    Kind(
        ConvDecoder,
        {
            **_PERCEPTRON_DECODER,
            "hidden": lambda d: _widths(d.dense)[:-1],
            "channels": lambda d: d.coarsest[-1],
        },
    ),
    Kind(
        MLPSequenceClassifier,
        {
            "shape": "shape",
            "frames": "frames",
            "classes": lambda c: _widths(c)[-1],
            "hidden": lambda c: _widths(c)[:-1],
        },
    ),
    Kind(
        ConvSequenceClassifier,
        {
            "shape": "shape",
            "frames": "frames",
            "classes": lambda c: _widths(c)[-1],
            "hidden": lambda c: _widths(c)[:-1],
            "channels": _channels,
        },
    ),
    Kind(BernoulliLikelihood, {}),
    Kind(ContinuousBernoulliLikelihood, {}),
    Kind(GaussianLikelihood, _same("scale")),
    Kind(LaplaceLikelihood, _same("scale")),
    _of_fields(JointBound),
    _of_fields(MarginalBound),
    Kind(StochasticBound, {"dim": lambda b: None if b.raw_gain is None else len(b.raw_gain)}),
    _of_fields(ExactSum),
    _of_fields(StraightThrough),
    Kind(LabelPosterior, _same("network", "estimator", "balance")),
    Kind(
        FlowVAE,
        _same(
            "encoder",
            "decoder",
            "bank",
            "prior",
            "residual",
            "likelihood",
            "bound",
            "residual_weight",
            "dynamics",
            "collocation",
            "label_posterior",
            "decoded_frames",
            "on_fold",
        ),
    ),
)

KINDS: dict[str, Kind] = {
    kind.made.__name__: kind for kind in (*_ACTIVATIONS, *_POTENTIALS, *_SCHEMES, *_EQUATIONS, *_PRIORS, *_MODELS)
}
"""The kinds, by the names of their classes."""

NAMED: dict[str, object] = {
    "tanh": torch.tanh,
    "functional.tanh": nn.functional.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": nn.functional.softplus,
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "mish": nn.functional.mish,
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": torch.exp,
    "log_cosh": log_cosh,
    "restoring_drift": restoring_drift,
    "PotentialFlow": PotentialFlow,
    "HopfLaxFlow": HopfLaxFlow,
}
"""The functions, and the classes of flows, by their names in a file."""
