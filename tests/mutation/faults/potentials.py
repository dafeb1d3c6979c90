"""Faults in potentials and their own derivatives."""

from __future__ import annotations

from tests.mutation.fault import Fault

LAYERED = ("latentflow/calculus/test_layered_jets.py", "latentflow/potentials/test_mlp.py")

SQUARES = ("latentflow/calculus/test_squares.py",)

FAULTS = (
    Fault(
        "the second derivative of tanh halved",
        "latentflow/potentials/features.py",
        "return value, first, -2 * value * first",
        "return value, first, -value * first",
        ("latentflow/potentials/test_activation.py", *LAYERED),
    ),
    Fault(
        "curvature of the last layer only",
        "latentflow/potentials/layered.py",
        "zip(self.curvatures, tangents, strict=True)]\n        return add_up(forms)",
        "zip(self.curvatures, tangents, strict=True)]\n        return forms[-1]",
        LAYERED,
    ),
    Fault(
        "the last layer left out of the Laplacian",
        "latentflow/potentials/layered.py",
        "return total + (last * squared_directions(directions, slope, self.hidden_weights[-1])).sum(-1)",
        "return total",
        LAYERED,
    ),
    Fault(
        "one slope missing in the matrix that is carried",
        "latentflow/potentials/layered.py",
        "carried = slope.unsqueeze(-1) * gram.unsqueeze(-3) * slope.unsqueeze(-2)",
        "carried = gram.unsqueeze(-3) * slope.unsqueeze(-2)",
        LAYERED,
    ),
    Fault(
        "factor 2 missing in a backward pass by hand",
        "latentflow/potentials/squares.py",
        "twice = 2 * grad",
        "twice = grad",
        SQUARES,
    ),
    Fault(
        "the gram matrices of each sample in the place of pairs of units, under a transform",
        "latentflow/potentials/layered.py",
        "by_gram = width <= dim if plain_operations() else 2 * width <= 3 * dim",
        "by_gram = 2 * width <= 3 * dim",
        SQUARES,
    ),
    Fault(
        "the gradient of shared directions of the last block only",
        "latentflow/potentials/squares.py",
        "by_own.add_(torch.mul(back, block.slopes, out=scaled)",
        "by_own.copy_(torch.mul(back, block.slopes, out=scaled)",
        SQUARES,
    ),
    Fault(
        "the product of the first block for all",
        "latentflow/potentials/squares.py",
        "read += adjoint.numel()",
        "read += 0",
        SQUARES,
    ),
    Fault(
        "the gradient of a weight of the last block only",
        "latentflow/potentials/squares.py",
        "by_weight.baddbmm_(_as_rows(adjoint).mT, _as_rows(scaled))",
        "by_weight.baddbmm_(_as_rows(adjoint).mT, _as_rows(scaled), beta=0)",
        SQUARES,
    ),
    Fault(
        "slopes for directions in a gradient that is differentiated again",
        "latentflow/potentials/squares.py",
        "return by_directions, (back * directions).sum(-2)",
        "return by_directions, (back * slopes.unsqueeze(-2)).sum(-2)",
        SQUARES,
    ),
    Fault(
        "pairs of units counted once in place of twice",
        "latentflow/potentials/squares.py",
        "            part[..., count:].mul_(2)\n",
        "            part[..., count:].mul_(1)\n",
        SQUARES,
    ),
    Fault(
        "the gradient of a gram matrix with pairs counted once",
        "latentflow/potentials/squares.py",
        "            of_gram[..., count:].mul_(2)\n",
        "            of_gram[..., count:].mul_(1)\n",
        SQUARES,
    ),
    Fault(
        "the gradient of one of both factors of a pair",
        "latentflow/potentials/squares.py",
        "            of_rest.add_(_times_rows(some, pulled))\n",
        "",
        SQUARES,
    ),
    Fault(
        "a copy of a compiled potential with the weights of the original",
        "latentflow/potentials/algebra.py",
        'COMPILED = ("_compiled_call_impl", "_compiled_rule")',
        'COMPILED = ("_compiled_call_impl",)',
        ("latentflow/flow/test_flow_compile.py",),
    ),
    Fault(
        "a residual step without its length",
        "latentflow/potentials/layered.py",
        "else h + self.residual * own",
        "else h + own",
        ("latentflow/potentials/test_resnet.py",),
    ),
    Fault(
        "the acceleration of the time features left out",
        "latentflow/potentials/layered.py",
        "return terms.quadratic(time_tangents()).squeeze(-1) + _along(pre_adjoints, accelerations)",
        "return terms.quadratic(time_tangents()).squeeze(-1)",
        ("latentflow/calculus/test_layered_jets.py",),
    ),
    Fault(
        "the derivative of time features without their frequency",
        "latentflow/potentials/features.py",
        "derivative = torch.cat([self.frequencies * cos, -self.frequencies * sin], dim=-1)",
        "derivative = torch.cat([cos, -sin], dim=-1)",
        ("latentflow/potentials/test_time_embedding.py", *LAYERED),
    ),
    Fault(
        "a matrix taken for symmetric",
        "latentflow/potentials/quadratic.py",
        "product = z @ matrix\n",
        "product = z @ self.matrix\n",
        ("latentflow/potentials/test_quadratic.py",),
    ),
    Fault(
        "1/2 missing in the value of a quadratic",
        "latentflow/potentials/quadratic.py",
        "return ((z @ self.symmetric / 2 + self.vector) * z).sum(-1) + self.constant",
        "return ((z @ self.symmetric + self.vector) * z).sum(-1) + self.constant",
        ("latentflow/potentials/test_quadratic.py", "latentflow/calculus/test_batches.py"),
    ),
    Fault(
        "the mean of potentials for their sum",
        "latentflow/potentials/algebra.py",
        "return torch.stack([term(z, t) for term in self.terms]).sum(0)",
        "return torch.stack([term(z, t) for term in self.terms]).mean(0)",
        ("latentflow/potentials/test_algebra.py",),
    ),
    Fault(
        "grouped samples not put back in order",
        "latentflow/potentials/bank.py",
        "flat = torch.empty_like(sorted_samples).index_copy(0, self.order, sorted_samples)",
        "flat = sorted_samples",
        ("latentflow/potentials/test_bank.py", "latentflow/potentials/test_switched.py"),
    ),
    Fault(
        "a switch one instant late",
        "latentflow/potentials/bank.py",
        "times, right=True)",
        "times, right=False)",
        ("latentflow/potentials/test_switched.py",),
    ),
    Fault(
        "a clock restarted at the wrong switch",
        "latentflow/potentials/bank.py",
        "torch.cat([times.new_zeros(1), times])[index]",
        "torch.cat([times, times[-1:]])[index]",
        ("latentflow/potentials/test_switched.py",),
    ),
)
