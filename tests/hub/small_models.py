"""A small model with every part that a file can name, none of whose arguments is the default."""

import inspect

import torch
from torch import nn

from latentflow import (
    ODE,
    DiffusionPrior,
    Euler,
    Exact,
    FlowVAE,
    FourierPotential,
    FunctionPotential,
    GaussianPrior,
    HopfLaxFlow,
    Hutchinson,
    ICNNPotential,
    LabelPosterior,
    MarginalBound,
    MixturePrior,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
    QuadraticPotential,
    ResNetPotential,
    SlogDet,
    SwitchedPotential,
    TransportedPrior,
    VampPrior,
    gaussian_transport_potential,
)
from latentflow.calculus import HutchPlusPlus, PositiveParameter
from latentflow.flow import LBFGS, FirstOrder, FixedPoint, HopfLaxPotential, LogDetSeries, Newton
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
from latentflow.potentials import (
    FourierEmbedding,
    IdentityEmbedding,
    LowRankQuadratic,
    MixedPotential,
    SinusoidalEmbedding,
)
from latentflow.priors import DiffusedPrior
from latentflow.transport import Coordinates, MatchedPotential
from latentflow.vae import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    ConvDecoder,
    ConvEncoder,
    ConvSequenceClassifier,
    ExactSum,
    GatedDecoder,
    GaussianLikelihood,
    JointBound,
    LaplaceLikelihood,
    MLPSequenceClassifier,
    StochasticBound,
    StraightThrough,
)

SHAPE, DIM, FRAMES = (1, 8, 8), 2, 3


def build(u=None, seed=0, **parts):
    """A model with some parts in place of its own, and weights that no constructor would draw."""
    torch.manual_seed(seed)
    mlp = MLPPotential(DIM, (5, 4), output_scale=0.1)
    chosen = {
        "encoder": MLPEncoder(SHAPE, DIM, (7, 6)),
        "decoder": MLPDecoder(DIM, SHAPE, (6, 5)),
        "bank": PotentialBank([mlp, mlp if u is None else u]),
        "prior": DiffusionPrior(DIM, fields=2),
        "residual": None,
        "residual_weight": 2.0,
        "on_fold": "ignore",
    }
    made = {
        name: part(chosen) if name == "prior" and inspect.isfunction(part) else part for name, part in parts.items()
    }
    model = FlowVAE(**(chosen | made))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model.eval()


def outputs(model):
    """All that a model computes of some sequences, with and without labels and noise."""
    dtype = next(model.parameters()).dtype
    frames = torch.rand(4, FRAMES, *SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype)
    k = torch.tensor([0, 1, 1, 0])
    torch.manual_seed(2)
    objective = model.train().objective(frames, k if model.label_posterior is None else None)
    terms = dict(vars(objective))
    if model.label_posterior is not None:
        terms["labels"] = model.label_posterior(frames).logits
    return terms | {"generated": model.eval().generate(frames[:, 0], 1, steps=2)}


def mlp(**arguments):
    return MLPPotential(DIM, (5,), output_scale=0.1, **arguments)


def with_log_det(log_det):
    return lambda: build(bound=MarginalBound(log_det))


def with_scheme(scheme, **more):
    return lambda: build(
        prior=lambda parts: TransportedPrior(GaussianPrior(DIM), parts["bank"], scheme, **more), bound=MarginalBound()
    )


def with_solver(solver):
    return lambda: build(HopfLaxPotential(mlp(), solver))


def with_classifier(network, estimator):
    return lambda: build(label_posterior=LabelPosterior(network, estimator, balance=3.0))


def coordinates():
    x = torch.randn(20, DIM)
    return Coordinates.match(x, x + 0.1 * torch.randn(20, DIM))


CASES = {
    "Softplus": lambda: build(ICNNPotential(DIM, (4,), activation=nn.Softplus(beta=2.0), output_scale=0.1)),
    "GELU": lambda: build(mlp(activation=nn.GELU(approximate="tanh"))),
    "Tanh": lambda: build(mlp(activation=nn.Tanh())),
    "SiLU": lambda: build(mlp(activation=nn.SiLU())),
    "Sigmoid": lambda: build(mlp(activation=nn.Sigmoid())),
    "IdentityEmbedding": lambda: build(mlp(time_embedding=IdentityEmbedding())),
    "SinusoidalEmbedding": lambda: build(mlp(time_embedding=SinusoidalEmbedding(6, max_period=7.0))),
    "FourierEmbedding": lambda: build(mlp(time_embedding=FourierEmbedding(4, scale=0.5))),
    "FunctionPotential": lambda: build(FunctionPotential(mlp(), DIM)),
    "SumPotential": lambda: build(mlp() + mlp()),
    "ScaledPotential": lambda: build(torch.tensor(0.3) * (0.7 * (nn.Parameter(torch.tensor(0.4)) * mlp()))),
    "MLPPotential": lambda: build(MLPPotential(DIM, (5, 4, 3), activation=torch.nn.functional.silu, output_scale=0.1)),
    "ICNNPotential": lambda: build(ICNNPotential(DIM, (4, 3), curvature=0.2, output_scale=0.1)),
    "FourierPotential": lambda: build(FourierPotential(DIM, 5, scale=0.3, time_scale=0.2, amplitude=0.1)),
    "QuadraticPotential": lambda: build(QuadraticPotential(DIM, 0.1 * torch.eye(DIM), torch.ones(DIM), constant=2.0)),
    "LowRankQuadratic": lambda: build(LowRankQuadratic(DIM, 1, SinusoidalEmbedding(4))),
    "ResNetPotential": lambda: build(ResNetPotential(DIM, 4, depth=3, rank=2, activation=torch.tanh, output_scale=0.1)),
    "PotentialBank": lambda: build(bank=PotentialBank([mlp(), mlp()])),
    "SelectedPotential": lambda: build(PotentialBank([mlp(), mlp()]).select(1)),
    "MixedPotential": lambda: build(
        PotentialBank([mlp(), MixedPotential(PotentialBank([mlp()]), nn.Parameter(torch.ones(1)))]).mix(
            torch.tensor([0.25, 0.5])
        )
    ),
    "SwitchedPotential": lambda: build(SwitchedPotential([mlp(), mlp()], [0.5], clock="restart")),
    "HopfLaxPotential": lambda: build(HopfLaxPotential(mlp())),
    "MatchedPotential": lambda: build(MatchedPotential(mlp(), coordinates())),
    "GaussianTransportPotential": lambda: build(
        gaussian_transport_potential(torch.zeros(DIM), torch.eye(DIM), torch.ones(DIM), 1.2 * torch.eye(DIM))
    ),
    "Exact": with_log_det(FirstOrder(Exact("one probe", "gaussian"))),
    "Hutchinson": with_log_det(FirstOrder(Hutchinson(probes=3))),
    "HutchPlusPlus": with_log_det(FirstOrder(HutchPlusPlus(probes=6))),
    "SlogDet": with_log_det(SlogDet(eigenvalues=True)),
    "FirstOrder": with_log_det(FirstOrder()),
    "LogDetSeries": with_log_det(LogDetSeries(terms=3, probes=2, noise="gaussian", roulette=0.3)),
    "Newton": with_solver(Newton(tolerance=1e-4, max_iterations=20)),
    "FixedPoint": with_solver(FixedPoint(tolerance=1e-4)),
    "LBFGS": with_solver(LBFGS(memory=3, tolerance=1e-4)),
    "Euler": with_scheme(Euler(SlogDet(), Newton(tolerance=1e-4))),
    "ODE": with_scheme(ODE("rk4", options={"step_size": 0.5})),
    "TransportedPrior": with_scheme(Euler(), dynamics=HopfLaxFlow),
    "PositiveParameter": lambda: build(residual=HeatResidual(PositiveParameter(0.3))),
    "NonPositiveForce": lambda: build(residual=HJResidual(NonPositiveForce(DIM, (4, 3)))),
    "HJResidual": lambda: build(residual=HJResidual(NonPositiveForce(DIM, (4,)), force_penalty=0.3)),
    "HJInequality": lambda: build(residual=HJInequality()),
    "ViscousHJResidual": lambda: build(residual=ViscousHJResidual(0.2)),
    "FokkerPlanckResidual": lambda: build(residual=FokkerPlanckResidual.learnable(DIM)),
    "LogFokkerPlanckResidual": lambda: build(residual=LogFokkerPlanckResidual(0.3, mlp())),
    "LinearFokkerPlanckResidual": lambda: build(residual=LinearFokkerPlanckResidual(0.3)),
    "ContinuityResidual": lambda: build(residual=ContinuityResidual(mlp())),
    "HeatResidual": lambda: build(residual=HeatResidual(0.2)),
    "WaveResidual": lambda: build(residual=WaveResidual(1.5)),
    "AlongPath": lambda: build(residual=HJResidual(), collocation=AlongPath(detach=False)),
    "InBox": lambda: build(residual=HJResidual(), collocation=InBox(-1.0, torch.tensor([1.0, 2.5]), count=5)),
    "Together": lambda: build(residual=HJResidual(), collocation=Together(AlongPath(), InBox(-1.0, 1.0, count=2))),
    "GaussianPrior": lambda: build(prior=GaussianPrior(DIM)),
    "DiffusedPrior": lambda: build(prior=DiffusedPrior(MixturePrior(DIM, 3), 2, 0.2), bound=MarginalBound()),
    "DiffusionPrior": lambda: build(prior=DiffusionPrior(DIM, 2, 0.2), bound=MarginalBound()),
    "MixturePrior": lambda: build(prior=MixturePrior(DIM, 3)),
    "VampPrior": lambda: build(prior=lambda parts: VampPrior(parts["encoder"], torch.rand(3, *SHAPE))),
    "MLPEncoder": lambda: build(encoder=MLPEncoder(SHAPE, DIM, (9, 4, 5))),
    "ConvEncoder": lambda: build(encoder=ConvEncoder(SHAPE, DIM, (9, 4), channels=6)),
    "MLPDecoder": lambda: build(decoder=MLPDecoder(DIM, SHAPE, (4, 9))),
    "GatedDecoder": lambda: build(decoder=GatedDecoder(DIM, SHAPE, (4, 9))),
    "ConvDecoder": lambda: build(decoder=ConvDecoder(DIM, SHAPE, (9,), channels=6)),
    "MLPSequenceClassifier": with_classifier(MLPSequenceClassifier(SHAPE, FRAMES, 2, (5,)), ExactSum()),
    "ConvSequenceClassifier": with_classifier(ConvSequenceClassifier(SHAPE, FRAMES, 2, (5,), 4), StraightThrough(0.4)),
    "ExactSum": with_classifier(MLPSequenceClassifier(SHAPE, FRAMES, 2, (4,)), ExactSum()),
    "StraightThrough": with_classifier(MLPSequenceClassifier(SHAPE, FRAMES, 2, (4,)), StraightThrough(0.3)),
    "LabelPosterior": with_classifier(MLPSequenceClassifier(SHAPE, FRAMES, 2, (4, 3)), StraightThrough()),
    "BernoulliLikelihood": lambda: build(likelihood=BernoulliLikelihood()),
    "ContinuousBernoulliLikelihood": lambda: build(likelihood=ContinuousBernoulliLikelihood()),
    "GaussianLikelihood": lambda: build(likelihood=GaussianLikelihood(0.3)),
    "LaplaceLikelihood": lambda: build(likelihood=LaplaceLikelihood(0.3)),
    "JointBound": lambda: build(bound=JointBound()),
    "MarginalBound": lambda: build(bound=MarginalBound()),
    "StochasticBound": lambda: build(bound=StochasticBound(DIM, 0.1)),
    "FlowVAE": lambda: build(dynamics=HopfLaxFlow, decoded_frames=1, on_fold="warn"),
}
"""For every kind a function that builds a model with it."""
