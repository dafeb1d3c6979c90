"""One valid call of every public constructor and function, by subpackage and name, for the contract test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch.distributions import Categorical, Independent, Normal

import latentflow as lf
from latentflow import calculus, flow, pde, potentials, priors, testing, transport, vae

DIM, BATCH, FIELDS, STEPS = 3, 4, 2, 2
SHAPE = (1, 4, 4)
FLOAT = frozenset({"double"})  # any precision will do
BATCHED = frozenset({"extra dim", "vector"})  # any batch shape will do
ANY_SIZE = frozenset({"wider"})
NO_SIZE = frozenset({"wider", "narrower"})


@dataclass(frozen=True)
class Case:
    """A call with arguments that are right.

    Attributes:
        name: The subpackage and the name, such as ``calculus.jet``.
        call: What is called.
        arguments: The arguments, by their names.
        accepts: The labels of the generated values that an argument may have as well, as its documentation says.
        generic: Arguments that are handed to a callable of the user's: only the first check is the library's.
    """

    name: str
    call: Callable[..., object]
    arguments: dict[str, object]
    accepts: dict[str, frozenset[str]] = field(default_factory=dict)


def square(z, t):
    """A field for points of any dimension and dtype."""
    return z.pow(3).sum(-1) * (1 + t) ** 2


def normal(dim=DIM):
    return Independent(Normal(torch.zeros(dim), torch.ones(dim)), 1)


def network(dim=DIM):
    return lf.MLPPotential(dim, (4,), output_scale=0.1)


def model(**options):
    parts = {
        "encoder": lf.MLPEncoder(SHAPE, DIM, (8,)),
        "decoder": lf.MLPDecoder(DIM, SHAPE, (8,)),
        "bank": lf.PotentialBank([network(), network()]),
        "prior": lf.DiffusionPrior(DIM, FIELDS),
        "residual": lf.HJResidual(),
    }
    return lf.FlowVAE(**(parts | options))


def parts_of_a_model():
    own = model()
    names = ("encoder", "decoder", "bank", "prior", "residual", "likelihood", "bound", "residual_weight", "dynamics")
    more = {
        "collocation": pde.AlongPath(),
        "decoded_frames": 2,
        "on_fold": "warn",
        "label_posterior": label_posterior(),
    }
    return {name: getattr(own, name) for name in names} | more


def classifier():
    return vae.MLPSequenceClassifier(SHAPE, STEPS + 1, FIELDS, (8,))


def label_posterior():
    return vae.LabelPosterior(classifier())


def trajectory():
    return lf.PotentialFlow(network()).rollout(points(), STEPS)


def points(*shape):
    source = torch.Generator().manual_seed(len(shape))
    return torch.randn(*(shape or (BATCH, DIM)), generator=source)


def frames():
    return torch.rand(BATCH, STEPS + 1, *SHAPE, generator=torch.Generator().manual_seed(0))


def labels():
    return torch.tensor([0, 1, 1, 0])


def spd(dim=DIM):
    root = points(dim, dim).double()
    return root @ root.mT + torch.eye(dim).double()


def log_prob_of(law):
    """The log-density with the name of torch's argument, which differs between its classes."""

    def log_prob(value):
        return law.log_prob(value)

    return log_prob


def joined(choices):
    """The points of one choice, by the name of the argument."""
    return pde.Together(choices)


def seeded():
    return torch.Generator().manual_seed(0)


def calculus_cases() -> Iterator[Case]:
    z, t = points(), 0.5
    at = {"z": BATCHED | FLOAT | ANY_SIZE, "t": frozenset({"zero", "negative", "scalar tensor"})}
    for name in ("gradient", "hessian", "second_time_derivative", "gradient_time_derivative", "forward_jet"):
        yield Case(f"calculus.{name}", getattr(calculus, name), {"u": square, "z": z, "t": t}, at)
    for dims, u in (
        ("a network", network()),
        ("a quadratic", lf.QuadraticPotential(DIM)),
        ("a wave", lf.FourierPotential(DIM)),
    ):
        own = {"z": BATCHED, "t": at["t"]}
        yield Case(f"calculus.jet of {dims}", calculus.jet, {"u": u, "z": z, "t": t, "laplacian": lf.Exact()}, own)
    yield Case("calculus.jet", calculus.jet, {"u": square, "z": z, "t": t, "requires": lf.Derivative.HESSIAN}, at)
    yield Case(
        "calculus.laplacian", calculus.laplacian, {"u": square, "z": z, "t": t, "estimator": lf.Hutchinson()}, at
    )
    more = {"u": square, "z": z, "t": t, "v": z}
    own = at | {"z": FLOAT | {"vector"}, "v": FLOAT | {"integer"}}
    yield Case("calculus.hessian_vector_product", calculus.hessian_vector_product, more, own)
    more = {"u": square, "z": z, "t": t, "estimator": lf.Hutchinson(2)}
    yield Case("calculus.estimate_laplacian", calculus.estimate_laplacian, more, at)
    more = {"u": square, "z": z, "t": t, "request": calculus.JetRequest()}
    yield Case("calculus.evaluate_jet", calculus.evaluate_jet, more, at)
    more = more | {"t": torch.full((BATCH,), t)}
    own = {"z": FLOAT | ANY_SIZE | {"extra dim"}, "t": frozenset({"double", "vector", "integer", "scalar", "number"})}
    yield Case("calculus.autodiff_jet", calculus.autodiff_jet, more, own)
    yield Case("calculus.PositiveParameter", calculus.PositiveParameter, {"value": 2.0})
    probes = points(BATCH, 2, DIM)
    free = {"probes": BATCHED | FLOAT | NO_SIZE | {"nan", "inf"}}
    yield Case("calculus.FixedProbes", calculus.FixedProbes, {"probes": probes}, free)
    more = {"derivatives": lf.Derivative.QUADRATIC, "probes": probes}
    yield Case("calculus.JetRequest", calculus.JetRequest, more, free)
    yield Case("calculus.Hutchinson", calculus.Hutchinson, {"probes": 2, "noise": "gaussian", "generator": seeded()})
    yield Case("calculus.Hutchinson.draw", calculus.Hutchinson(2).draw, {"z": z}, {"z": at["z"] | NO_SIZE | {"nan"}})
    yield Case(
        "calculus.HutchPlusPlus", calculus.HutchPlusPlus, {"probes": 3, "noise": "gaussian", "generator": seeded()}
    )
    core, factor = points(BATCH, 2, 2), points(2, DIM)
    free = BATCHED | FLOAT | NO_SIZE | {"nan", "inf", "empty"}
    yield Case(
        "calculus.InnerHessian", calculus.InnerHessian, {"core": core, "factor": factor}, {"core": free, "factor": free}
    )
    more = {"value": points(BATCH), "gradient": z, "time_derivative": points(BATCH)}
    free = {name: FLOAT | {"nan", "inf", "integer", "bool", "complex"} for name in more}
    free["gradient"] |= NO_SIZE
    yield Case("calculus.Jet", calculus.Jet, more, free)


def potential_cases() -> Iterator[Case]:
    z, t = points(), torch.full((BATCH,), 0.5)
    embedding = potentials.SinusoidalEmbedding(4)
    scale = frozenset({"zero", "negative"})
    more = {"dim": DIM, "hidden": (4, 4), "time_embedding": embedding, "activation": torch.tanh, "output_scale": 0.1}
    yield Case("potentials.MLPPotential", potentials.MLPPotential, more, {"output_scale": scale})
    more = more | {"activation": torch.nn.functional.softplus, "curvature": 0.5}
    yield Case("potentials.ICNNPotential", potentials.ICNNPotential, more, {"curvature": frozenset({"zero"})})
    more = {"dim": DIM, "width": 4, "depth": 1, "rank": 2, "time_embedding": embedding, "output_scale": 0.1}
    yield Case("potentials.ResNetPotential", potentials.ResNetPotential, more, {"output_scale": scale})
    more = {"dim": DIM, "features": 4, "scale": 1.0, "time_scale": 1.0, "amplitude": 1.0, "generator": seeded()}
    zero = frozenset({"zero"})
    yield Case(
        "potentials.FourierPotential", potentials.FourierPotential, more, {"time_scale": zero, "amplitude": zero}
    )
    more = {"dim": DIM, "matrix": points(DIM, DIM), "vector": points(DIM), "constant": 1.0}
    yield Case("potentials.QuadraticPotential", potentials.QuadraticPotential, more, {"constant": scale})
    more = {"dim": DIM, "rank": 2, "time_embedding": embedding}
    yield Case("potentials.LowRankQuadratic", potentials.LowRankQuadratic, more)
    yield Case("potentials.FunctionPotential", potentials.FunctionPotential, {"function": square, "dim": DIM})
    yield Case("potentials.SumPotential", potentials.SumPotential, {"terms": [square, network()]})
    more = {"potential": square, "weight": 2.0}
    yield Case(
        "potentials.ScaledPotential", potentials.ScaledPotential, more, {"weight": scale | {"tensor", "scalar tensor"}}
    )
    yield Case("potentials.PotentialBank", potentials.PotentialBank, {"potentials": [square, network()]})
    bank = lf.PotentialBank([network(), network()])
    yield Case(
        "potentials.SelectedPotential", potentials.SelectedPotential, {"bank": bank, "k": 1}, {"k": zero | {"bank"}}
    )
    yield Case(
        "potentials.PotentialBank.select",
        bank.select,
        {"k": labels()},
        {"k": BATCHED | NO_SIZE | {"number", "empty", "scalar"}},
    )
    weights = torch.full((BATCH, FIELDS), 0.5)
    free = {"weights": BATCHED | FLOAT | {"nan", "inf", "empty"}}
    yield Case("potentials.MixedPotential", potentials.MixedPotential, {"bank": bank, "weights": weights}, free)
    yield Case("potentials.PotentialBank.mix", bank.mix, {"weights": weights}, free)
    more = {"potentials": [square, network()], "times": [4.0], "clock": "restart"}
    yield Case("potentials.SwitchedPotential", potentials.SwitchedPotential, more)
    yield Case("potentials.SinusoidalEmbedding", potentials.SinusoidalEmbedding, {"features": 4, "max_period": 10.0})
    more = {"features": 4, "scale": 2.0, "generator": seeded()}
    yield Case("potentials.FourierEmbedding", potentials.FourierEmbedding, more)
    times = {"t": BATCHED | FLOAT | NO_SIZE | {"scalar"}}
    for own in (potentials.IdentityEmbedding(), embedding, potentials.FourierEmbedding(4)):
        yield Case(f"potentials.{type(own).__name__}.forward", own.forward, {"t": t}, times)
    yield Case("potentials.log_cosh", potentials.log_cosh, {"a": z}, {"a": times["t"] | {"vector"}})
    fields = {
        "MLPPotential": network(),
        "ResNetPotential": lf.ResNetPotential(DIM, 4, 1, 2),
        "ICNNPotential": lf.ICNNPotential(DIM, (4,)),
        "FourierPotential": lf.FourierPotential(DIM, 4),
        "QuadraticPotential": lf.QuadraticPotential(DIM, torch.eye(DIM)),
        "LowRankQuadratic": potentials.LowRankQuadratic(DIM, 2),
        "SelectedPotential": bank.select(0),
        "MixedPotential": bank.mix(torch.ones(FIELDS)),
        "SwitchedPotential": lf.SwitchedPotential([network(), network()], [1.0]),
        "ScaledPotential": 2 * network(),
        "SumPotential": network() + network(),
    }
    for name, u in fields.items():
        free = {"z": BATCHED, "t": frozenset({"scalar", "double", "integer", "vector", "number"})}
        if name == "QuadraticPotential":  # the same at all times
            free["t"] |= {"nan", "inf", "empty", "wider", "narrower", "extra dim"}
        yield Case(f"potentials.{name}.forward", u.forward, {"z": z, "t": t}, free)
        yield Case(
            f"calculus.laplacian of {name}",
            lf.laplacian,
            {"u": u, "z": z, "t": 0.5},
            {
                "z": BATCHED | ({"nan"} if "Quadratic" in name else set()),
                "t": frozenset({"zero", "negative", "scalar tensor"}),
            },
        )


def pde_cases() -> Iterator[Case]:
    z, t = points(), 0.5
    zero = frozenset({"zero"})
    for name in ("HeatResidual", "WaveResidual", "ViscousHJResidual"):
        argument = {"HeatResidual": "diffusivity", "WaveResidual": "speed", "ViscousHJResidual": "viscosity"}[name]
        yield Case(f"pde.{name}", getattr(pde, name), {argument: 0.5}, {argument: zero})
    for name in ("FokkerPlanckResidual", "LogFokkerPlanckResidual", "LinearFokkerPlanckResidual"):
        yield Case(f"pde.{name}", getattr(pde, name), {"diffusion": 0.5, "drift": square}, {"diffusion": zero})
    yield Case("pde.ContinuityResidual", pde.ContinuityResidual, {"potential": square})
    yield Case(
        "pde.HJResidual",
        pde.HJResidual,
        {"force": pde.NonPositiveForce(DIM, (4,)), "force_penalty": 1.0},
        {"force_penalty": zero},
    )
    yield Case("pde.NonPositiveForce", pde.NonPositiveForce, {"dim": DIM, "hidden": (4,)})
    at = {"z": BATCHED, "t": frozenset({"zero", "negative", "scalar tensor"})}
    yield Case("pde.NonPositiveForce.forward", pde.NonPositiveForce(DIM, (4,)).forward, {"z": z, "t": t}, at)
    residuals = {
        "HJResidual": pde.HJResidual(),
        "HJInequality": pde.HJInequality(),
        "HeatResidual": pde.HeatResidual(0.5),
        "WaveResidual": pde.WaveResidual(0.5),
        "ViscousHJResidual": pde.ViscousHJResidual(0.5),
        "FokkerPlanckResidual": pde.FokkerPlanckResidual(0.5, square),
        "LogFokkerPlanckResidual": pde.LogFokkerPlanckResidual(0.5, square),
        "LinearFokkerPlanckResidual": pde.LinearFokkerPlanckResidual(0.5, square),
        "ContinuityResidual": pde.ContinuityResidual(square),
    }
    for name, residual in residuals.items():
        yield Case(f"pde.{name}.forward", residual.forward, {"u": network(), "z": z, "t": t}, at)
        more = {
            "u": network(),
            "where": trajectory(),
            "generator": seeded(),
            "collocation": pde.AlongPath(),
            "weights": torch.ones(STEPS, BATCH),
        }
        free = {"weights": FLOAT | {"vector", "scalar", "inf"}}
        yield Case(f"pde.{name}.loss", residual.loss, more, free)
    yield Case("pde.AlongPath", pde.AlongPath, {"detach": True})
    yield Case(
        "pde.InBox",
        pde.InBox,
        {"low": -1.0, "high": 1.0, "count": 3},
        {"low": zero | {"negative", "tensor", "scalar tensor"}, "high": zero | {"tensor", "scalar tensor"}},
    )
    more = {"low": torch.zeros(DIM), "high": torch.ones(DIM), "count": 3}
    free = FLOAT | {"scalar", "number", "vector"}
    yield Case("pde.InBox of tensors", pde.InBox, more, {"low": free, "high": free})
    for choice in (pde.AlongPath(), pde.InBox(-1.0, 1.0, 2), pde.Together(pde.AlongPath())):
        more = {"trajectory": trajectory(), "generator": seeded()}
        yield Case(f"pde.{type(choice).__name__}.points", choice.points, more)
    yield Case("pde.Together", joined, {"choices": pde.AlongPath()})
    yield Case("pde.CausalWeighting", pde.CausalWeighting, {"tolerance": 1.0, "bins": 4}, {"tolerance": zero})
    more = {"squared_residual": torch.ones(BATCH), "t": torch.arange(BATCH) / BATCH}
    yield Case("pde.CausalWeighting.call", pde.CausalWeighting(), more, dict.fromkeys(more, FLOAT))


def flow_cases() -> Iterator[Case]:  # noqa: PLR0915 - a list
    z, times = points(), [0.0, 0.5, 1.0]
    own = lf.PotentialFlow(network())
    still = frozenset({"zero", "negative", "scalar tensor"})
    scheme = lf.Euler()
    euler = {"log_det": lf.SlogDet(), "solver": flow.Newton()}
    yield Case("flow.Euler", flow.Euler, euler)
    more = {
        "method": "dopri5",
        "rtol": 1e-4,
        "atol": 1e-4,
        "adjoint": False,
        "options": {"max_num_steps": 100},
        "divergence": lf.Exact(),
    }
    yield Case("flow.ODE", flow.ODE, more)
    yield Case("flow.SlogDet", flow.SlogDet, {"eigenvalues": True})
    yield Case("flow.FirstOrder", flow.FirstOrder, {"laplacian": lf.Exact()})
    more = {"terms": 4, "probes": 2, "noise": "gaussian", "roulette": 0.5, "generator": seeded()}
    yield Case("flow.LogDetSeries", flow.LogDetSeries, more)
    for name in ("Newton", "FixedPoint"):
        more = {"tolerance": 1e-5, "max_iterations": 20, "order": 1}
        yield Case(f"flow.{name}", getattr(flow, name), more)
    yield Case("flow.LBFGS", flow.LBFGS, {**more, "memory": 3, "shrink": True})
    yield Case("flow.PotentialFlow", flow.PotentialFlow, {"potential": square})
    yield Case("flow.HopfLaxFlow", flow.HopfLaxFlow, {"u0": square, "solver": flow.Newton(order=2)})
    yield Case("flow.HopfLaxPotential", flow.HopfLaxPotential, {"u0": square, "solver": flow.Newton(order=2)})
    at = {"z": BATCHED, "t": still}
    for name, one in (("PotentialFlow", own), ("HopfLaxFlow", lf.HopfLaxFlow(network()))):
        yield Case(f"flow.{name}.velocity", one.velocity, {"z": z, "t": 0.5}, at)
        more = {"z": z, "t": 0.5, "dt": 0.5, "log_det": lf.SlogDet()}
        yield Case(f"flow.{name}.step", one.step, more, at | {"dt": frozenset({"zero", "negative"})})
        more = {"z0": z, "times": times, "scheme": scheme, "running_cost": lf.HJResidual(), "on_fold": "ignore"}
        yield Case(f"flow.{name}.follow", one.follow, more, {"z0": BATCHED})
        more = {"z0": z, "steps": STEPS, "start": 0.0, "dt": 0.5, "log_det": lf.SlogDet(), "on_fold": "ignore"}
        free = {
            "z0": BATCHED,
            "steps": frozenset({"zero"}),
            "start": frozenset({"zero", "negative"}),
            "dt": frozenset({"negative"}),
        }
        yield Case(f"flow.{name}.rollout", one.rollout, more, free)
        more = {
            "z0": z,
            "times": times,
            "scheme": lf.ODE("euler"),
            "running_cost": lf.HJResidual(),
            "on_fold": "ignore",
        }
        yield Case(f"flow.{name}.integrate", one.integrate, more, {"z0": BATCHED})
        more = {"z": z, "times": times, "scheme": scheme, "on_fold": "ignore"}
        yield Case(f"flow.{name}.inverse", one.inverse, more, {"z": BATCHED})
        more = {"times": times, "scheme": scheme, "on_fold": "ignore"}
        yield Case(f"flow.{name}.transform", one.transform, more)
        more = {"base": normal(), "times": times, "scheme": scheme, "on_fold": "ignore", "validate_args": True}
        yield Case(f"flow.{name}.push_forward", one.push_forward, more)
    law = own.push_forward(normal(), times, scheme)
    yield Case("flow.PushForward.log_prob", law.log_prob, {"value": z}, {"value": BATCHED})
    more = {"flow": own, "times": times, "scheme": scheme, "on_fold": "ignore"}
    later = frozenset({"nan in it", "inf in it", "equal", "nested"})  # checked when the flow is followed
    yield Case("flow.FlowTransform", flow.FlowTransform, more, {"times": later})
    yield Case("flow.PushForward", flow.PushForward, {"base": normal(), "transform": own.transform(times, scheme)})
    potential = flow.HopfLaxPotential(network())
    more = {"z": z, "t": torch.full((BATCH,), 0.5)}
    free = {"z": BATCHED, "t": frozenset({"scalar", "double", "integer", "vector", "number"})}
    yield Case("flow.HopfLaxPotential.forward", potential.forward, more, free)
    yield Case(
        "flow.HopfLaxPotential.start",
        potential.start,
        {"z": z, "t": 0.5, "solver": flow.Newton(order=2)},
        {"z": BATCHED, "t": frozenset({"zero", "negative", "scalar tensor"})},
    )
    path = trajectory()
    yield Case("flow.Trajectory.sample", path.sample, {"generator": seeded(), "detach": True})
    more = {"times": path.times, "z": path.z, "log_det": path.log_det, "action": path.action}
    free = {name: FLOAT | {"nan", "inf"} for name in more}
    free["z"] |= NO_SIZE
    yield Case("flow.Trajectory", flow.Trajectory, more, free)


def prior_cases() -> Iterator[Case]:
    zero = frozenset({"zero"})
    yield Case("priors.GaussianPrior", priors.GaussianPrior, {"dim": DIM})
    yield Case("priors.DiffusionPrior", priors.DiffusionPrior, {"dim": DIM, "fields": FIELDS, "diffusivity": 0.1})
    more = {"prior": lf.GaussianPrior(DIM), "fields": FIELDS, "diffusivity": 0.1}
    yield Case("priors.DiffusedPrior", priors.DiffusedPrior, more)
    yield Case("priors.MixturePrior", priors.MixturePrior, {"dim": DIM, "components": 4, "generator": seeded()})
    encoder = lf.MLPEncoder(SHAPE, DIM, (8,))
    more = {"encoder": encoder, "pseudo_inputs": torch.rand(5, *SHAPE)}
    free = {"pseudo_inputs": FLOAT | NO_SIZE | {"extra dim", "vector"}}
    yield Case("priors.VampPrior", priors.VampPrior, more, free)
    more = {"prior": lf.GaussianPrior(DIM), "potential": network(), "scheme": lf.Euler(), "dynamics": lf.PotentialFlow}
    yield Case("priors.TransportedPrior", priors.TransportedPrior, more, {"dynamics": frozenset({"class"})})
    made = {
        "GaussianPrior": lf.GaussianPrior(DIM),
        "DiffusionPrior": lf.DiffusionPrior(DIM, FIELDS),
        "MixturePrior": lf.MixturePrior(DIM, 4),
        "VampPrior": lf.VampPrior(encoder, torch.rand(5, *SHAPE)),
        "TransportedPrior": lf.TransportedPrior(lf.GaussianPrior(DIM), network()),
    }
    for name, prior in made.items():
        free = {"t": zero | {"scalar tensor", "tensor"}, "k": zero | {"none", "wider"}}
        if name == "DiffusionPrior":
            free["k"] = zero
        yield Case(f"priors.{name}.forward", prior.forward, {"t": 1.0, "k": 0}, free)
        times = {"t": torch.tensor([1.0, 2.0]), "k": torch.tensor([0, 0])}
        free = {
            "t": FLOAT | {"scalar", "vector", "integer", "extra dim", "number"},
            "k": frozenset({"number", "scalar", "vector", "extra dim"}),
        }
        if name != "DiffusionPrior":  # the others have no fields, or one potential for all
            free["k"] |= NO_SIZE | {"none", "too large", "empty"}
            free["t"] |= NO_SIZE | {"number", "empty"}
        yield Case(f"priors.{name}.forward of tensors", prior.forward, times, free)
        yield Case(
            f"priors.{name}.log_prob",
            log_prob_of(prior(1.0, 0)),
            {"value": points()},
            {"value": BATCHED | (set() if name == "TransportedPrior" else FLOAT)},
        )


def transport_cases() -> Iterator[Case]:
    x, y = points(6, DIM), points(5, DIM) + 1
    weights = torch.full((6,), 1 / 6)
    many = {"x_weights": FLOAT, "y_weights": FLOAT}  # weights are converted
    more = {"x": x, "y": y, "x_weights": weights, "y_weights": torch.full((5,), 0.2), "blur": 0.05, "scaling": 0.5}
    yield Case("transport.wasserstein2", transport.wasserstein2, more | {"squared": True}, many)
    yield Case("transport.barycentric_map", transport.barycentric_map, more, many)
    more = {"x": points(6), "y": points(5), "x_weights": weights, "y_weights": torch.full((5,), 0.2), "squared": True}
    yield Case("transport.wasserstein2_1d", transport.wasserstein2_1d, more, many)
    m0, m1, S0, S1 = torch.zeros(DIM).double(), torch.ones(DIM).double(), spd(), 2 * spd()
    more = {"m0": m0, "S0": S0, "m1": m1, "S1": S1}
    yield Case(
        "transport.gaussian_wasserstein2",
        transport.gaussian_wasserstein2,
        more | {"squared": True},
        dict.fromkeys(more, BATCHED),
    )
    yield Case("transport.gaussian_transport_potential", transport.gaussian_transport_potential, more)
    yield Case(
        "transport.mccann_interpolation",
        transport.mccann_interpolation,
        {"x": x, "y": x + 1, "t": 0.5},
        {"t": frozenset({"zero", "negative", "scalar tensor"})},
    )
    yield Case(
        "transport.transport_defect",
        transport.transport_defect,
        {"u": network(), "z": x, "t": 0.5},
        {"z": BATCHED, "t": frozenset({"zero", "negative", "scalar tensor"})},
    )
    yield Case("transport.benamou_brenier_action", transport.benamou_brenier_action, {"trajectory": trajectory()})
    more = {
        "trajectory": trajectory(),
        "potential": network(),
        "samples": 4,
        "blur": 0.05,
        "scaling": 0.5,
        "level": 0.9,
        "resamples": 10,
        "generator": seeded(),
    }
    yield Case(
        "transport.transport_certificate", transport.transport_certificate, more, {"samples": frozenset({"huge"})}
    )
    made = transport.gaussian_transport_potential(m0, S0, m1, S1)
    cloud, other = points(64, DIM), points(64, DIM) + 1
    yield Case(
        "transport.fit_transport",
        transport.fit_transport,
        {
            "source": cloud,
            "target": other,
            "potential": network(),
            "method": transport.DualPotential(batch_size=8),
            "budget": 1,
            "match_moments": True,
            "holdout": 0.5,
            "certify": False,
            "checkpoint": None,
            "progress": False,
            "generator": seeded(),
        },
        {"checkpoint": frozenset({"text"})},
    )
    yield Case(
        "transport.DualPotential",
        transport.DualPotential,
        {"conjugate": flow.LBFGS(), "batch_size": 8, "learning_rate": 0.01, "share": 1.0},
    )
    yield Case(
        "transport.Reflow",
        transport.Reflow,
        {
            "rounds": 2,
            "coupling": transport.Independent(),
            "batch_size": 8,
            "learning_rate": 0.01,
            "steps": 4,
            "share": 1.0,
        },
    )
    yield Case(
        "transport.OptimalFlowMatching",
        transport.OptimalFlowMatching,
        {
            "search": flow.Newton(),
            "coupling": transport.Independent(),
            "batch_size": 8,
            "learning_rate": 0.01,
            "share": 1.0,
        },
    )
    yield Case("transport.MinibatchAssignment", transport.MinibatchAssignment, {"batch_size": 4})
    yield Case("transport.Independent", transport.Independent, {})
    yield Case(
        "transport.pair_certificate",
        transport.pair_certificate,
        {
            "potential": network(),
            "source": cloud,
            "target": other,
            "samples": 64,
            "level": 0.9,
            "resamples": 10,
            "search": flow.LBFGS(max_iterations=2),
            "generator": seeded(),
        },
        {"samples": frozenset({"huge"})},
    )
    matched = transport.Coordinates.match(cloud, other)
    yield Case(
        "transport.MatchedPotential", transport.MatchedPotential, {"potential": network(), "coordinates": matched}
    )
    moved = transport.TransportMap(made)
    anchored = {"potential": made, "anchors": cloud.double()}
    yield Case("transport.TransportMap", transport.TransportMap, anchored, {"anchors": FLOAT})
    yield Case("transport.TransportMap.map", moved.map, {"x": x.double()}, {"x": BATCHED})
    yield Case("transport.TransportMap.inverse", moved.inverse, {"y": x.double()}, {"y": BATCHED})
    bank = transport.TransportBank([moved, moved])
    first = {"k": frozenset({"zero"})}
    given = {"x": x.double(), "k": 1}
    yield Case("transport.TransportBank", transport.TransportBank, {"maps": [moved, moved]})
    yield Case("transport.TransportBank.map", bank.map, given, {"x": BATCHED, **first})
    yield Case("transport.TransportBank.inverse", bank.inverse, {"y": x.double(), "k": 1}, {"y": BATCHED, **first})
    yield Case("transport.TransportBank.flow", bank.flow, {"k": 1}, first)
    yield Case(
        "transport.TransportBank.interpolate",
        bank.interpolate,
        {**given, "t": 0.5},
        {"x": BATCHED, **first, "t": frozenset({"zero", "negative", "scalar tensor"})},
    )
    yield Case(
        "transport.GaussianTransportPotential",
        transport.GaussianTransportPotential,
        {"matrix": S0, "start": m0, "end": m1},
    )
    yield Case("transport.GaussianTransportPotential.transport", made.transport, {"z": x.double()}, {"z": BATCHED})
    law = torch.distributions.MultivariateNormal(m0, S0)
    yield Case(
        "transport.GaussianTransportPotential.interpolate",
        made.interpolate,
        {"normal": law, "t": 0.5},
        {"t": frozenset({"zero", "negative"})},
    )


def network_cases() -> Iterator[Case]:
    x, z = frames()[:, 0], points()
    yield Case("vae.MLPEncoder", vae.MLPEncoder, {"shape": SHAPE, "dim": DIM, "hidden": (8,)})
    yield Case("vae.MLPDecoder", vae.MLPDecoder, {"dim": DIM, "shape": SHAPE, "hidden": (8,)})
    yield Case("vae.GatedDecoder", vae.GatedDecoder, {"dim": DIM, "shape": SHAPE, "hidden": (8,)})
    yield Case("vae.GatedDecoder.forward", vae.GatedDecoder(DIM, SHAPE, (8,)).forward, {"z": z}, {"z": BATCHED})
    conv = {"shape": SHAPE, "hidden": (8,), "channels": 4}
    yield Case("vae.ConvEncoder", vae.ConvEncoder, {**conv, "dim": DIM})
    yield Case("vae.ConvDecoder", vae.ConvDecoder, {**conv, "dim": DIM})
    yield Case("vae.ConvSequenceClassifier", vae.ConvSequenceClassifier, {**conv, "frames": 3, "classes": 2})
    yield Case("vae.ConvEncoder.forward", vae.ConvEncoder(SHAPE, DIM, (8,), 4).forward, {"x": x})
    yield Case("vae.ConvDecoder.forward", vae.ConvDecoder(DIM, SHAPE, (8,), 4).forward, {"z": z}, {"z": BATCHED})
    made = vae.ConvSequenceClassifier(SHAPE, 3, 2, (8,), 4)
    yield Case("vae.ConvSequenceClassifier.forward", made.forward, {"x": frames()})
    more = {"shape": SHAPE, "frames": 3, "classes": 2, "hidden": (8,)}
    yield Case("vae.MLPSequenceClassifier", vae.MLPSequenceClassifier, more)
    yield Case("vae.MLPEncoder.forward", lf.MLPEncoder(SHAPE, DIM, (8,)).forward, {"x": x})
    yield Case("vae.MLPDecoder.forward", lf.MLPDecoder(DIM, SHAPE, (8,)).forward, {"z": z}, {"z": BATCHED})
    yield Case("vae.MLPSequenceClassifier.forward", classifier().forward, {"x": frames()})


def vae_cases() -> Iterator[Case]:
    x, z = frames()[:, 0], points()
    zero = frozenset({"zero"})
    yield Case("vae.GaussianLikelihood", vae.GaussianLikelihood, {"scale": 0.5})
    yield Case("vae.LaplaceLikelihood", vae.LaplaceLikelihood, {"scale": 0.5})
    bounded = (vae.BernoulliLikelihood(), vae.ContinuousBernoulliLikelihood())
    for likelihood in (*bounded, vae.GaussianLikelihood(), vae.LaplaceLikelihood()):
        name = f"vae.{type(likelihood).__name__}"
        yield Case(f"{name}.call", likelihood, {"decoded": x}, {"decoded": BATCHED | FLOAT | NO_SIZE | {"inf"}})
        yield Case(f"{name}.log_prob", likelihood(x).log_prob, {"value": x}, {"value": FLOAT | BATCHED})
    yield Case("vae.StraightThrough", vae.StraightThrough, {"temperature": 0.5})
    posterior = Categorical(probs=torch.full((BATCH, FIELDS), 0.5))
    for estimator in (vae.StraightThrough(), vae.ExactSum()):
        more = {"posterior": posterior, "generator": seeded()}
        free = (
            {"generator": frozenset({"text", "number", "tensor", "class", "list", "stranger"})}
            if isinstance(estimator, vae.ExactSum)
            else {}
        )
        yield Case(f"vae.{type(estimator).__name__}.assign", estimator.assign, more, free)
    more = {"step": 10.0, "rate": 1e-3, "floor": 0.1}
    yield Case("vae.annealed_temperature", vae.annealed_temperature, more, {"step": zero, "rate": zero})
    more = {"network": classifier(), "estimator": vae.ExactSum(), "balance": 1.0}
    yield Case("vae.LabelPosterior", vae.LabelPosterior, more, {"balance": zero})
    yield Case("vae.LabelPosterior.forward", label_posterior().forward, {"frames": frames()})
    yield Case("vae.LabelPosterior.divergence", label_posterior().divergence, {"posterior": posterior})
    yield Case("vae.LabelPosterior.collapse_penalty", label_posterior().collapse_penalty, {"posterior": posterior})
    yield Case("vae.MarginalBound", vae.MarginalBound, {"log_det": lf.SlogDet()})
    yield Case("vae.StochasticBound", vae.StochasticBound, {"dim": DIM, "diffusion": 0.1})
    yield Case(
        "vae.FlowVAE", lf.FlowVAE, parts_of_a_model(), {"residual_weight": zero, "dynamics": frozenset({"class"})}
    )
    own = model(label_posterior=label_posterior())
    more = {"frames": frames(), "k": labels(), "generator": seeded()}
    yield Case("vae.FlowVAE.objective", own.objective, more, {"k": frozenset({"none"})})
    yield Case("vae.FlowVAE.forward", own.forward, more, {"k": frozenset({"none"})})
    yield Case("vae.FlowVAE.bounds", own.bounds, {"frames": frames(), "generator": seeded()})
    yield Case("vae.FlowVAE.encode", own.encode, {"x": x})
    yield Case("vae.FlowVAE.decode", own.decode, {"z": z}, {"z": BATCHED})
    yield Case("vae.FlowVAE.flow_of", own.flow_of, {"k": 1}, {"k": zero})
    yield Case("vae.FlowVAE.generate", own.generate, {"x0": x, "k": 1, "steps": STEPS}, {"k": zero, "steps": zero})
    for bound in (vae.MarginalBound(), vae.JointBound(), vae.StochasticBound()):
        more = {"flow": lf.PotentialFlow(network()), "z0": z, "steps": STEPS, "on_fold": "ignore"}
        free = {"z0": BATCHED | {"empty"}, "steps": zero}
        if isinstance(bound, vae.StochasticBound):
            free["on_fold"] = frozenset({"nonsense", "number", "no text", "list", "tensor", "stranger"})
        yield Case(f"vae.{type(bound).__name__}.rollout", bound.rollout, more, free)
    for name in ("importance_weighted_bound", "effective_sample_size", "largest_weight_share"):
        more = {"log_weights": points(8, BATCH), "samples": 2}
        free = {"log_weights": BATCHED | FLOAT | NO_SIZE}
        yield Case(f"vae.{name}", getattr(vae, name), more, free)


def testing_cases() -> Iterator[Case]:
    yield Case(
        "testing.check_estimator",
        testing.check_estimator,
        {"estimator": lf.Exact(), "dim": 2, "draws": 100, "seed": 0},
        {"seed": frozenset({"zero"})},
    )
    more = {"u": lf.QuadraticPotential(2), "dim": 2, "batch": (2,), "seed": 0, "tolerance": 1e-6}
    yield Case(
        "testing.check_potential",
        testing.check_potential,
        more,
        {"seed": frozenset({"zero"}), "batch": frozenset({"empty"})},
    )
    more = {"residual": lf.HJResidual(), "dim": 2, "batch": (2,), "seed": 0}
    yield Case(
        "testing.check_residual",
        testing.check_residual,
        more,
        {"seed": frozenset({"zero"}), "batch": frozenset({"empty"})},
    )


def all_cases() -> list[Case]:
    """Collect the cases of all subpackages."""
    torch.manual_seed(0)
    groups = (
        calculus_cases,
        potential_cases,
        pde_cases,
        flow_cases,
        prior_cases,
        transport_cases,
        network_cases,
        vae_cases,
        testing_cases,
    )
    return [case for group in groups for case in group()]
