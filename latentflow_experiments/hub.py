"""The model of a run as a folder that others load by one line, with a card that the records of the run fill in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from latentflow import FlowVAE
from latentflow.calculus.files import replacing
from latentflow.vae import LaplaceLikelihood
from latentflow.vae.pretrained import REPOSITORY, require_extra
from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.data import Source
from latentflow_experiments.errors import ExperimentError, UsageError, printable
from latentflow_experiments.methods.method import Choice
from latentflow_experiments.methods.pixels import LateLaplaceLikelihood
from latentflow_experiments.metrics.transport import certificate_in_words
from latentflow_experiments.reading import brief, reading
from latentflow_experiments.records import write_text
from latentflow_experiments.reports.comparison import likelihood_columns
from latentflow_experiments.reports.tables import table
from latentflow_experiments.residuals import RESIDUALS
from latentflow_experiments.runs import RunFolder, TrainedRun, open_run, read_evaluation

__all__ = ["push", "write_model"]

CARD, PICTURE = "README.md", "strips.png"

TITLE = """\
---
library_name: latentflow
tags: [latentflow, variational-autoencoder, latent-dynamics, optimal-transport]
---

# {title}

A flow-factorized variational autoencoder of [latentflow]: an encoder turns the first image of a sequence into a latent,
the flow of a transformation moves it, and a decoder shows it at every time. It was trained on `{data}`{synthetic} for
{steps:,} steps{unfinished}. This card was written from the records of the run.

[latentflow]: https://pypi.org/project/latentflow-torch/

![Test images: a row of the flow follows each row of the data](strips.png)

## Use

With `pip install "latentflow-torch[hub]"`:

```python
from latentflow import FlowVAE
model = FlowVAE.from_pretrained("{repository}")
frames = model.generate(images, k={first}, steps={frames})  # images: (batch, {shape}), in [0, 1]
```

{transformations}

The files hold numbers and the names of parts of the library; loading them runs no code of theirs.
"""

UNFINISHED = ", no more than the warm-up, so the numbers below are not those of a trained model"

ERRORS = """\
## Errors

The sum of the absolute differences between the frames of the flow and the transformed images, over {frames} steps and
all pixels, averaged over {images:,} test images of each transformation, with a bootstrap interval at 95 %; beside it
that of the reconstructed first image held still.

{errors}
"""

TRANSPORT = """\
## Transport

Optimal transport moves a distribution to another one at the least mean squared distance. The cost of a flow is at least
the squared Wasserstein distance W2^2 between the latents before and after. Both are measured on test images.

{certificates}
"""

LIKELIHOOD = """\
## Likelihood

Lower bounds of the log-likelihood of a frame by importance sampling, in nats, averaged over {images:,} test sequences
of each transformation.

{bounds}
"""

ORIGIN = """\
## How it was made

{facts}
"""


def push(
    folder: RunFolder,
    repository: str,
    source: Source | None = None,
    *,
    private: bool = False,
    dry_run: Path | None = None,
) -> str:
    """Write the model of an evaluated run with its card, and upload it to the Hugging Face hub.

    The token is that of ``huggingface_hub``: from ``hf auth login`` or the variable ``HF_TOKEN``.

    Args:
        folder: The run.
        repository: The name of the model on the hub, ``OWNER/NAME``; it is made if it is not there.
        source: Where the data files are.
        private: Whether a new repository is private.
        dry_run: A folder to write instead of uploading anything.

    Returns:
        Where the model is now: an address, or the folder.

    Raises:
        UsageError: If the name is no ``OWNER/NAME``, or the run is of another method than flow.
        ExperimentError: If the run is not evaluated or cannot be shared, or the upload fails.
    """
    if not REPOSITORY.fullmatch(repository):
        raise UsageError(f"repository: expected OWNER/NAME, got {repository!a}")
    if dry_run is not None:
        write_model(folder, repository, dry_run, source)
        return str(dry_run)
    hub = _hub()
    with tempfile.TemporaryDirectory(prefix="latentflow-push-") as place:
        write_model(folder, repository, Path(place), source)
        try:
            api = hub.HfApi(library_name="latentflow")
            address = api.create_repo(repository, private=private or None, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=place, commit_message="Upload a model of latentflow")
        except Exception as error:  # of the network or the hub: what there is differs between versions
            text = brief(" ".join(str(error).split()), 500).strip("'\"")
            raise ExperimentError(
                f"{repository}: expected an upload to the hub, got {type(error).__name__}: {text}"
            ) from error
    return str(address)


def _hub() -> ModuleType:
    try:
        return require_extra("huggingface_hub")
    except ModuleNotFoundError as error:
        raise ExperimentError(str(error)) from error


def write_model(folder: RunFolder, repository: str, place: Path, source: Source | None = None) -> None:
    """Write the model of an evaluated run, its card and its picture into a folder.

    Args:
        folder: The run.
        repository: The name under which the card loads the model.
        place: The folder to write, made where it is missing.
        source: Where the data files are.

    Raises:
        UsageError: If the run is of another method than flow.
        ExperimentError: If the run is not evaluated, or a part of its model is not of the library.
    """
    evaluation = read_evaluation(folder)
    if not folder.strips.is_file():
        raise ExperimentError(f"{folder.strips}: missing; use: latentflow evaluate")
    run = _open(folder, source)
    card = model_card(folder, run, evaluation, repository)
    try:
        shared_model(run).save_pretrained(place)
    except (TypeError, ModuleNotFoundError) as error:
        raise ExperimentError(f"{folder.path}: expected a model of parts of the library, got {error}") from error
    with replacing(place / PICTURE) as temporary:
        shutil.copyfile(folder.strips, temporary)
    write_text(place / CARD, card)


def _open(folder: RunFolder, source: Source | None = None) -> TrainedRun:
    """Open a run whose model has no part of the user's own, and refuse others before any code of theirs is run."""
    config = TrainConfig.from_json(folder.config)
    if config.model.pde not in RESIDUALS:
        raise ExperimentError(
            f"{folder.path}: expected a model of parts of the library, got the residual {config.model.pde}, which "
            "nobody else has; share its checkpoint and the code instead"
        )
    return open_run(folder, source)


def shared_model(run: TrainedRun) -> FlowVAE:
    """Return the model of a run with the library's own likelihood in place of that of its training.

    Args:
        run: The run.

    Returns:
        The model. Pixels that sharpened in the course of the training have the Laplace density of its end.

    Raises:
        UsageError: If it is no :class:`FlowVAE`.
    """
    model = run.model
    if not isinstance(model, FlowVAE):
        raise UsageError(f"run: expected one of --method flow, got one of --method {run.config.model.method}")
    likelihood = model.likelihood
    if isinstance(likelihood, LateLaplaceLikelihood):
        assert likelihood.scale is not None, "a model is built with the last density"
        model.likelihood = LaplaceLikelihood(likelihood.scale)
    return model


def model_card(folder: RunFolder, run: TrainedRun, evaluation: Mapping[str, Any], repository: str) -> str:
    """Write the card of a model from the records of its run.

    Args:
        folder: The run.
        run: The run, open.
        evaluation: What was found when it was evaluated.
        repository: The name of the model on the hub.

    Returns:
        The card, in Markdown.

    Raises:
        ExperimentError: If a record is damaged, or of another checkpoint than the newest.
    """
    steps = run.progress.steps
    with reading(folder.path, "the records of an evaluated run"):
        _check_steps(folder.evaluation, evaluation, steps)
        sessions = folder.sessions()
        facts = evaluation["provenance"]
        data = next((one["data"] for one in sessions if isinstance(one.get("data"), dict)), facts["data"])
        synthetic = bool(data.get("synthetic") or facts["data"].get("synthetic"))
        order = _order(run, evaluation)
        title = TITLE.format(
            title=repository.partition("/")[2],
            data=_plain(data["name"]),
            synthetic=", **a synthetic stand-in for the data of that name**," if synthetic else "",
            steps=steps,
            unfinished=UNFINISHED if steps <= run.config.warmup_steps else "",
            repository=repository,
            first=next(iter(order.values())),
            frames=run.data.steps,
            shape=", ".join(map(str, run.data.shape)),
            transformations=table(("transformation", "k"), [(_plain(name), str(k)) for name, k in order.items()]),
        )
        result = evaluation["result"]
        parts = [
            title,
            ERRORS.format(frames=result["steps"], images=result["images"], errors=_errors(result["errors"])),
            _transport(evaluation["transport"]),
            _likelihood(folder, steps),
            ORIGIN.format(facts=_origin(run, sessions, facts, data, synthetic)),
        ]
    return "\n".join(part for part in parts if part)


def _check_steps(path: Path, record: Mapping[str, Any], steps: int) -> None:
    noted = record["provenance"]["steps"]
    if noted != steps:
        raise ExperimentError(
            f"{path}: expected numbers of the newest checkpoint, with {steps:,} steps, got those of {noted:,} steps; "
            "evaluate or measure it again"
        )


def _order(run: TrainedRun, evaluation: Mapping[str, Any]) -> dict[str, int]:
    """Return the index of the potential of each transformation."""
    names = list(evaluation["result"]["errors"])
    flows = run.config.model.described.flows(run.model, Choice.from_values(evaluation["choice"]))
    order: Sequence[int] = range(len(names)) if flows is None else flows.order
    return dict(zip(names, order, strict=True))


UNMARKED = str.maketrans("|`<>[]", "/'()()")
"""Replaces what Markdown reads as marks."""


def _plain(text: object) -> str:
    """Write a name from a record so that it changes nothing in Markdown."""
    return printable(str(text), 200).translate(UNMARKED)


def _errors(errors: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (_plain(name), f"{e['output']:.1f}", "{:.1f} to {:.1f}".format(*e["output_interval"]), f"{e['static']:.1f}")
        for name, e in errors.items()
    ]
    return table(("transformation", "error", "95 %", "held still"), rows)


def _transport(certificates: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"- {_plain(name)}: {certificate_in_words(entry)}" for name, entry in certificates.items()]
    return TRANSPORT.format(certificates="\n".join(lines)) if lines else ""


def _likelihood(folder: RunFolder, steps: int) -> str:
    columns = likelihood_columns(folder)
    if not columns:
        return ""
    path = folder.metric("likelihood")
    record = folder.read_metric(path)
    _check_steps(path, record, steps)
    images = min(found["bounds"]["images"] for found in record["result"].values())
    return LIKELIHOOD.format(images=images, bounds=table(("pixels: proposal", "bound"), columns.items()))


def _origin(
    run: TrainedRun,
    sessions: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    data: Mapping[str, Any],
    synthetic: bool,
) -> str:
    """List where the model comes from: one line for each fact."""
    trained = sessions or [facts]
    commits = ", ".join(dict.fromkeys(str(one.get("commit") or "not noted") for one in trained))
    test = facts["data"]
    lines = [
        *(f"command: `{_plain(one['command'])}` ({_plain(one['date'])})" for one in trained),
        f"latentflow {_plain(trained[-1]['latentflow'])}, commit {_plain(commits)}, PyTorch "
        f"{_plain(trained[-1]['packages']['torch'])}",
        f"seed {run.config.seed}, {run.progress.steps:,} steps, {run.progress.seconds / 60:.0f} minutes of training",
        f"data: `{_plain(data['name'])}`{', synthetic' if synthetic else ''}; its {_plain(data['split'])} split "
        f"has the SHA-256 `{_plain(data['sha256'])}`, its {_plain(test['split'])} split `{_plain(test['sha256'])}`",
    ]
    model = run.model
    if isinstance(model, FlowVAE) and isinstance(model.likelihood, LateLaplaceLikelihood):
        lines.append(
            f"pixels: Laplace variables of the scale {model.likelihood.scale:g}, as at the end of the training, which "
            "began with Bernoulli variables"
        )
    return "\n".join(f"- {line}" for line in lines)
