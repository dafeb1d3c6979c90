"""Faults of models in files, and of the cards of runs."""

from __future__ import annotations

from tests.mutation.fault import Fault

PRETRAINED, PUSH = ("hub/test_pretrained.py",), ("experiments/test_push.py",)
FILES, KINDS, CARDS = "latentflow/vae/pretrained.py", "latentflow/vae/kinds.py", "latentflow_experiments/hub.py"

FAULTS = (
    Fault(
        "models in files: a shared encoder written twice",
        FILES,
        'return {"same": self.places[id(part)]}',
        "pass",
        PRETRAINED,
    ),
    Fault(
        "models in files: a subclass taken for its parent",
        FILES,
        "if kind is None or type(part) is not kind.made:",
        "kind = next((kind for kind in KINDS.values() if isinstance(part, kind.made)), None)\n        if kind is None:",
        PRETRAINED,
    ),
    Fault(
        "models in files: shapes that nobody compares",
        FILES,
        'if expected != shapes.get(name, "none"):',
        "if name not in shapes:",
        PRETRAINED,
    ),
    Fault(
        "models in files: buffers left as they are initialized",
        FILES,
        "found = [*model.named_parameters(), *model.named_buffers()]",
        "found = [*model.named_parameters()]",
        PRETRAINED,
    ),
    Fault(
        "models in files: the widths of a decoder with its output",
        KINDS,
        'Kind(MLPDecoder, {**_PERCEPTRON_DECODER, "hidden": lambda d: _widths(d.layers)[:-1]}),',
        'Kind(MLPDecoder, {**_PERCEPTRON_DECODER, "hidden": lambda d: _widths(d.layers)}),',
        PRETRAINED,
    ),
    Fault(
        "a card with flows in the order of the potentials",
        CARDS,
        "range(len(names)) if flows is None else flows.order",
        "range(len(names)) if flows is None else sorted(flows.order)",
        PUSH,
    ),
    Fault(
        "a card that keeps quiet about a stand-in",
        CARDS,
        'synthetic = bool(data.get("synthetic") or facts["data"].get("synthetic"))',
        'synthetic = bool(facts["data"].get("synthetic"))',
        PUSH,
    ),
)
