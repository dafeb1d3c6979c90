"""Faults in derivatives and their estimates."""

from __future__ import annotations

from tests.mutation.fault import Fault

OPERATORS = ("latentflow/calculus/test_operators.py",)
ESTIMATORS = ("latentflow/calculus/test_estimators.py", "latentflow/calculus/test_hutch_plus_plus.py")
HUTCH = ("latentflow/calculus/test_hutch_plus_plus.py",)
FORWARD = ("latentflow/calculus/test_forward_laplacian.py",)
INTEGRATE = ("latentflow/flow/test_flow_integrate.py",)

FAULTS = (
    Fault(
        "row sum for the trace",
        "latentflow/calculus/jets.py",
        "second[Derivative.LAPLACIAN] = hessian().diagonal(dim1=-2, dim2=-1).sum(-1)",
        "second[Derivative.LAPLACIAN] = hessian().sum((-2, -1))",
        OPERATORS,
    ),
    Fault(
        "mean over coordinates for the trace",
        "latentflow/calculus/jets.py",
        "second[Derivative.LAPLACIAN] = hessian().diagonal(dim1=-2, dim2=-1).sum(-1)",
        "second[Derivative.LAPLACIAN] = hessian().diagonal(dim1=-2, dim2=-1).mean(-1)",
        OPERATORS,
    ),
    Fault(
        "the time counted in the trace",
        "latentflow/calculus/jets.py",
        "        hessian=hessian,\n        products=products,",
        "        laplacian=lambda: hessian().diagonal(dim1=-2, dim2=-1).sum(-1)\n"
        "        + jvp(lambda t: derivatives(z, t)[2], (t,), (torch.ones_like(t),))[1],\n"
        "        hessian=hessian,\n"
        "        products=products,",
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
        "second_time_derivative=lambda: change[1],",
        "second_time_derivative=lambda: change[0].sum(-1),",
        ("latentflow/calculus/test_second_derivatives.py",),
    ),
    Fault(
        "the time of the first sample for all",
        "latentflow/calculus/checks.py",
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
        "return JetRequest(Derivative.QUADRATIC, self.draw(z))",
        "return JetRequest(Derivative.QUADRATIC, self.draw(z) * self.probes**0.5)",
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
    Fault(
        "row sum for the trace of a Hessian that was requested too",
        "latentflow/calculus/jets.py",
        "second[Derivative.HESSIAN].diagonal(dim1=-2, dim2=-1).sum(-1)",
        "second[Derivative.HESSIAN].sum((-2, -1))",
        ("latentflow/calculus/test_derivatives.py", "latentflow/calculus/test_layered_jets.py"),
    ),
    Fault(
        "a request of the estimator that is forgotten",
        "latentflow/calculus/operators.py",
        "request = JetRequest() if laplacian is None else laplacian.request(u, z, t)\n",
        "request = JetRequest() if laplacian is None else laplacian.request(u, z, t)\n"
        "    request = JetRequest(request.derivatives & ~Derivative.HESSIAN, request.probes)\n",
        ("latentflow/testing/test_check_estimator.py",),
    ),
    Fault(
        "an answer that nobody checks",
        "latentflow/calculus/jets.py",
        "jet = _rule_of(u, request)(z, time, request)\n        check_answer(jet, request)",
        "jet = _rule_of(u, request)(z, time, request)",
        ("latentflow/calculus/test_arguments.py",),
    ),
    Fault(
        "forward: the curvature of a function left out",
        "latentflow/calculus/carried.py",
        "bent = curvature * x.tangents.square().sum(0)",
        "bent = None",
        FORWARD,
    ),
    Fault(
        "forward: half of the mixed term of a product",
        "latentflow/calculus/carried.py",
        "2 * (xt * yt).sum(0)",
        "(xt * yt).sum(0)",
        FORWARD,
    ),
    Fault(
        "forward: half of the mixed term of a product of matrices",
        "latentflow/calculus/carried_layers.py",
        "2 * vmap(product)(xt, yt).sum(0)",
        "vmap(product)(xt, yt).sum(0)",
        FORWARD,
    ),
    Fault(
        "forward: the bias of a layer in its derivatives",
        "latentflow/calculus/carried_layers.py",
        "None if part is None else F.linear(part, weight) for part in whole",
        "None if part is None else F.linear(part, weight, bias) for part in whole",
        FORWARD,
    ),
    Fault(
        "forward: the bias of a convolution in its derivatives",
        "latentflow/calculus/carried_layers.py",
        "function(part, weight, None, *args, **kwargs)",
        "function(part, weight, bias, *args, **kwargs)",
        FORWARD,
    ),
    Fault(
        "forward: the squares of a softmax not centered",
        "latentflow/calculus/carried_layers.py",
        "parts[1] = plus(parts[1], p * centered(squares))",
        "parts[1] = plus(parts[1], p * squares)",
        FORWARD,
    ),
    Fault(
        "forward: a constant that pads the derivatives too",
        "latentflow/calculus/carried.py",
        "return linear_map(x, lambda part: F.pad(part, pad, mode), F.pad(x.value, pad, mode, value))",
        "return linear_map(x, lambda part: F.pad(part, pad, mode, value))",
        FORWARD,
    ),
    Fault(
        "forward: the derivatives of the other branch",
        "latentflow/calculus/carried.py",
        "torch.where(condition, *both)",
        "torch.where(condition, *reversed(both))",
        FORWARD,
    ),
    Fault(
        "forward: the sign of what is subtracted",
        "latentflow/calculus/carried.py",
        "plus(a, times(b, -alpha))",
        "plus(a, times(b, alpha))",
        FORWARD,
    ),
    Fault(
        "forward: the time carried as a coordinate",
        "latentflow/calculus/forward_laplacian.py",
        "Carried(t, rate=t.new_ones(()).expand((1,) * t.ndim))",
        "Carried(t, eye[..., 0], rate=t.new_ones(()).expand((1,) * t.ndim))",
        FORWARD,
    ),
    Fault(
        "forward: every piece of the points at the times of the first",
        "latentflow/calculus/jets.py",
        "pieces = [carry(*piece) for piece in zip(torch.split(z, samples), torch.split(time, samples), strict=True)]",
        "pieces = [carry(piece, time[: len(piece)]) for piece in torch.split(z, samples)]",
        FORWARD,
    ),
    Fault(
        "forward: a field with a tensor for each sample only in pieces",
        "latentflow/calculus/jets.py",
        "        except Exception:  # a field",
        "        except KeyError:  # a field",
        FORWARD,
    ),
    Fault(
        "forward: a tensor that is written in place",
        "latentflow/calculus/carried.py",
        '@rule("add", "__add__", "__radd__")',
        '@rule("add", "__add__", "__radd__", "add_")',
        FORWARD,
    ),
    Fault(
        "normalized layers by torch's own derivatives",
        "latentflow/calculus/forward_laplacian.py",
        "    F.layer_norm: layer_norm,\n",
        "",
        FORWARD,
    ),
    Fault(
        "a boolean mask of attention upside down",
        "latentflow/calculus/carried_layers.py",
        "torch.where(attn_mask, scores, scores.new_full((), -torch.inf))",
        "torch.where(~attn_mask, scores, scores.new_full((), -torch.inf))",
        FORWARD,
    ),
    Fault(
        "the gradient of the trace in place of that of the probe",
        "latentflow/calculus/estimators.py",
        "return None, grad\n",
        "return grad, None\n",
        ("latentflow/calculus/test_one_probe.py",),
    ),
    Fault(
        "a gradient of one probe that is differentiated again",
        "latentflow/calculus/estimators.py",
        "        if torch.is_grad_enabled():\n            raise RuntimeError",
        "        if not torch.is_grad_enabled() and grad is None:\n            raise RuntimeError",
        ("latentflow/calculus/test_one_probe.py",),
    ),
    Fault(
        "the trace compiled too",
        "latentflow/calculus/jets.py",
        "compiled is None or Derivative.LAPLACIAN in request or transformed()",
        "compiled is None or transformed()",
        ("latentflow/flow/test_flow_compile.py",),
    ),
)
