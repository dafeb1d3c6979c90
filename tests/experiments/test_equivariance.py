"""The equivariance error on models whose error is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from latentflow import DiffusionPrior, FlowVAE, HJResidual, MLPPotential, PotentialBank, Trajectory
from latentflow.vae import GaussianLikelihood
from latentflow_experiments.data import LabelledImages, TransformationSequences, TransformedImages
from latentflow_experiments.methods.method import FlowMotion
from latentflow_experiments.metrics.equivariance import bootstrap_interval, equivariance_table, measure_equivariance
from latentflow_experiments.reports.strips import draw_strips, strips

SHAPE = (3, 28, 28)
DIM = 3 * 28 * 28
SEQUENCES = TransformationSequences()


@pytest.fixture
def data():
    pixels = torch.randint(0, 256, (7, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return TransformedImages(LabelledImages(pixels, torch.tensor([0, 1, 2, 3, 4, 5, 7]), "noise", "test"))


class Static(FlowVAE):
    """The latent is the image itself, and no potential moves it."""

    def __init__(self):
        super().__init__(
            encoder=lambda x: Independent(Normal(x.flatten(1), 1.0), 1),
            decoder=lambda z: z.reshape(-1, *SHAPE),
            bank=PotentialBank([MLPPotential(DIM, (1,), output_scale=0.0) for _ in range(3)]),
            prior=DiffusionPrior(DIM, fields=3),
            residual=HJResidual(),
            likelihood=GaussianLikelihood(),
        )


class Oracle(Static):
    """Knows the transformed images."""

    def flow_of(self, k):
        def rollout(z0, steps, log_det=None):
            z = SEQUENCES(z0.reshape(-1, *SHAPE)[:, 0], k).flatten(2).transpose(0, 1)
            return Trajectory(torch.arange(steps + 1.0), z, None, torch.zeros(z.shape[:-1]))

        return SimpleNamespace(rollout=rollout)


def along(model):
    return FlowMotion(model.eval(), (0, 1, 2))


@pytest.mark.parametrize("batch_size", [7, 3])
def test_the_error_of_an_identity_decoder_is_the_change_of_the_images(data, batch_size):
    """Catches t = 0 counted, a mean for a sum over pixels, running means over transformations, short batches."""
    result = measure_equivariance(along(Static()), data, batch_size)
    for k, name in enumerate(SEQUENCES.names):
        frames = SEQUENCES(data.images.images, k).double()
        each = (frames[:, 1:] - frames[:, :1]).abs().sum((1, 2, 3, 4))
        error = result.errors[name]
        assert error.output == pytest.approx(each.mean().item(), rel=1e-5)
        assert error.output_standard_error == pytest.approx(each.std().item() / 7**0.5, rel=1e-5)
        assert error.output_per_pixel == pytest.approx(each.mean().item() / (8 * DIM), rel=1e-5)
        assert error.static == pytest.approx(error.output, rel=1e-6)
        by_step = (frames[:, 1:] - frames[:, :1]).abs().sum((2, 3, 4)).mean(0).tolist()
        assert error.output_by_step == pytest.approx(by_step, rel=1e-5)
        assert error.static_by_step == pytest.approx(by_step, rel=1e-5)
        assert error.latent == pytest.approx(error.output, rel=1e-5)
        assert error.latent_static == pytest.approx(error.output, rel=1e-5)
    assert result.reconstruction == pytest.approx(0, abs=1e-3)


def test_an_oracle_has_no_error_and_the_static_reference_stays(data):
    """Catches z_t compared with x_{t-1}, or a path that is never advanced."""
    result = measure_equivariance(along(Oracle()), data)
    static = measure_equivariance(along(Static()), data)
    for name, error in result.errors.items():
        assert error.output == pytest.approx(0, abs=1e-3)
        assert error.latent == pytest.approx(0, abs=1e-3)
        assert error.static == pytest.approx(static.errors[name].output, rel=1e-6)
        assert error.output_by_step == pytest.approx([0.0] * 8, abs=1e-3)
        assert error.static_by_step == pytest.approx(static.errors[name].output_by_step, rel=1e-6)


def test_the_reconstruction_reference_is_that_of_the_first_frame(data):
    """Catches a reference that encodes transformed frames, or that is not multiplied by the steps."""
    model = Static()
    model.decoder = lambda z: z.reshape(-1, *SHAPE) + 0.25
    assert measure_equivariance(along(model), data).reconstruction == pytest.approx(8 * DIM * 0.25, rel=1e-5)


def test_the_scaled_latent_error_has_no_units(data):
    """Catches a scale that is not each coordinate's standard deviation over the images, or a coordinate without one."""
    stretch = torch.linspace(0.5, 2, DIM)
    model = Static()
    model.encoder = lambda x: Independent(Normal(x.flatten(1) * stretch, 1.0), 1)
    error = measure_equivariance(along(model), data).errors["rotation"]
    red = SEQUENCES(data.images.images, 1)[:, :, 0].flatten(2).double()  # green and blue never vary and are left out
    change = (red[:, 1:] - red[:, :1]).abs().sum((0, 1)) / 7
    assert error.latent == pytest.approx((change * stretch[:784]).sum().item(), rel=1e-5)
    assert error.latent_scaled == pytest.approx((change / red[:, 0].std(0, correction=0)).sum().item(), rel=1e-5)


def test_the_interval_is_that_of_the_mean():
    """Catches quantiles of the values, a standard deviation for an interval, another level, and unseeded resamples."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(3), dtype=torch.float64).exp()
    low, high = bootstrap_interval(values)
    draws = np.random.default_rng(0).choice(values.numpy(), (4000, 400)).mean(1)
    expected, width = np.quantile(draws, [0.025, 0.975]), high - low
    assert [low, high] == pytest.approx(expected, abs=0.1 * width)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(torch.full((5,), 2.5)) == (2.5, 2.5)


def test_every_error_has_its_own_interval(data):
    """Catches the interval of another transformation, of the sum over all, or of the static error."""
    for k, (name, error) in enumerate(measure_equivariance(along(Static()), data).errors.items()):
        frames = SEQUENCES(data.images.images, k).double()
        each = (frames[:, 1:] - frames[:, :1]).abs().sum((1, 2, 3, 4))
        assert error.output_interval == pytest.approx(bootstrap_interval(each), rel=1e-5), name


def test_the_mode_of_the_model_is_left_alone(data):
    """Catches an evaluation in the middle of training that switches training off."""
    model = Static().train()
    measure_equivariance(FlowMotion(model, (0, 1, 2)), data)
    assert model.training


def test_strips_show_the_data_above_the_flow(data, tmp_path):
    """Catches swapped rows, transposed images or a time axis that runs the wrong way."""
    picture = strips(along(Oracle()), data, 1, 2)
    truth = data.sequence(torch.tensor([2, 3]), 1)  # the first 2 and the first 3
    static = strips(along(Static()), data, 1, 2)
    for n in range(2):
        for t in range(9):
            columns = slice(28 * t, 28 * (t + 1))
            above, below = slice(56 * n, 56 * n + 28), slice(56 * n + 28, 56 * n + 56)
            torch.testing.assert_close(picture[above, columns], truth[n, t].permute(1, 2, 0))
            torch.testing.assert_close(picture[below, columns], truth[n, t].permute(1, 2, 0))
            torch.testing.assert_close(static[below, columns], truth[n, 0].permute(1, 2, 0))
    draw_strips(along(Static()), data, tmp_path / "strips.png", 2)
    assert (tmp_path / "strips.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_every_number(data):
    """Catches a column under the wrong heading."""
    result = measure_equivariance(along(Static()), data)
    lines = equivariance_table(result).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[2:4]] == ["E_k", "95 %"]
    low, high = result.errors["scaling"].output_interval
    assert lines[2].split("|")[3].strip() == f"{low:.2f} to {high:.2f}"
    assert lines[2].split("|")[1].strip() == "scaling"
    assert float(lines[2].split("|")[2]) == pytest.approx(result.errors["scaling"].output, abs=0.01)
    assert float(lines[4].split("|")[8]) == pytest.approx(result.errors["coloring"].latent_static, abs=0.01)
