"""Faults in derivatives and their estimates."""

from __future__ import annotations

from tests.mutation.fault import Fault

OPERATORS = ("latentflow/calculus/test_operators.py",)
ESTIMATORS = ("latentflow/calculus/test_estimators.py", "latentflow/calculus/test_hutch_plus_plus.py")
HUTCH = ("latentflow/calculus/test_hutch_plus_plus.py",)
INTEGRATE = ("latentflow/flow/test_flow_integrate.py",)

FAULTS = (
    Fault(
        "row sum for the trace",
        "latentflow/calculus/jets.py",
        "laplacian = columns.diagonal(dim1=-2, dim2=-1).sum(-1) if",
        "laplacian = columns.sum((-2, -1)) if",
        OPERATORS,
    ),
    Fault(
        "mean over coordinates for the trace",
        "latentflow/calculus/jets.py",
        "laplacian = columns.diagonal(dim1=-2, dim2=-1).sum(-1) if",
        "laplacian = columns.diagonal(dim1=-2, dim2=-1).mean(-1) if",
        OPERATORS,
    ),
    Fault(
        "the time counted in the trace",
        "latentflow/calculus/jets.py",
        "laplacian = columns.diagonal(dim1=-2, dim2=-1).sum(-1) if",
        "bend = jvp(lambda t: derivatives(z, t)[2], (t,), (torch.ones_like(t),))[1]\n"
        "        laplacian = bend + columns.diagonal(dim1=-2, dim2=-1).sum(-1) if",
        OPERATORS,
    ),
    Fault(
        "the time derivative summed over the batch",
        "latentflow/calculus/jets.py",
        "gradient, time_derivative = result[1](torch.ones_like(value))\n",
        "gradient, time_derivative = result[1](torch.ones_like(value))\n"
        "        time_derivative = time_derivative.sum().expand_as(value)\n",
        OPERATORS,
    ),
    Fault(
        "the change of the time derivative for that of the gradient",
        "latentflow/calculus/jets.py",
        "second_time = change[1] if",
        "second_time = change[0].sum(-1) if",
        ("latentflow/calculus/test_second_derivatives.py",),
    ),
    Fault(
        "the time of the first sample for all",
        "latentflow/calculus/jets.py",
        "return time.expand(batch)",
        "return time.expand(batch) if 0 in batch else time.flatten()[0].expand(batch)",
        ("latentflow/calculus/test_arguments.py", "latentflow/calculus/test_operators.py"),
    ),
    Fault(
        "a weight along the last axis of a field",
        "latentflow/calculus/jets.py",
        "own.reshape((*batch, *(1,) * (field.ndim - len(batch))))",
        "own.reshape((*(1,) * (field.ndim - len(batch)), *batch))",
        ("latentflow/calculus/test_jets.py",),
    ),
    Fault(
        "probes of unit norm",
        "latentflow/calculus/estimators.py",
        "return 2 * bits - 1",
        "return (2 * bits - 1) / z.shape[-1] ** 0.5",
        ESTIMATORS,
    ),
    Fault(
        "probes of zeros and ones",
        "latentflow/calculus/estimators.py",
        "return 2 * bits - 1",
        "return bits",
        ESTIMATORS,
    ),
    Fault(
        "probes that all samples share",
        "latentflow/calculus/estimators.py",
        "bits = torch.randint(0, 2, shape, generator=generator, dtype=z.dtype, device=z.device)",
        "bits = torch.randint(0, 2, shape[-2:], generator=generator, dtype=z.dtype, device=z.device).expand(shape)",
        ESTIMATORS,
    ),
    Fault(
        "a sum over the probes",
        "latentflow/calculus/estimators.py",
        'return _forms(jet).mean(-1)\n\n    def standard_error(self, jet: Jet) -> Tensor:\n        """Estimate',
        'return _forms(jet).sum(-1)\n\n    def standard_error(self, jet: Jet) -> Tensor:\n        """Estimate',
        ESTIMATORS,
    ),
    Fault("the error of a population", "latentflow/calculus/estimators.py", "/ (count - 1))", "/ count)", HUTCH),
    Fault(
        "probes drawn at every stage of a solver",
        "latentflow/calculus/estimators.py",
        "return FixedProbes(self.draw(z))",
        "return self",
        (*HUTCH, *INTEGRATE),
    ),
    Fault(
        "the subspace of Hutch++ correlated with its probes",
        "latentflow/calculus/estimators.py",
        "return FixedHutchPlusPlus(sketch, draw_probes(z, self.probes // 3, self.noise, self.generator))",
        "return FixedHutchPlusPlus(sketch, sketch)",
        ("latentflow/catalogue/test_drawn_noise.py", *HUTCH),
    ),
    Fault(
        "Hutch++ without its projection",
        "latentflow/calculus/estimators.py",
        "outside = self.rest - (self.rest @ basis.mT) @ basis",
        "outside = self.rest",
        HUTCH,
    ),
    Fault(
        "the rest of Hutch++ summed",
        "latentflow/calculus/estimators.py",
        "return inside.sum(-1) + outside.mean(-1)",
        "return inside.sum(-1) + outside.sum(-1)",
        HUTCH,
    ),
    Fault(
        "second derivatives in bfloat16 under autocast",
        "latentflow/calculus/jets.py",
        "with torch.autocast(z.device.type, enabled=False):",
        "with torch.autocast(z.device.type, dtype=torch.bfloat16, enabled=True):",
        ("latentflow/calculus/test_autocast.py",),
    ),
)
