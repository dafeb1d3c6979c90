"""The transformation sequences against closed forms."""

import math

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from kornia.enhance import adjust_hue

from latentflow_experiments.data import TransformationSequences


def uint8(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def blob(x, y, width=1.5, size=28):
    grid = torch.arange(size, dtype=torch.float32)
    return torch.exp(-((grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2) / (2 * width**2))[None]


def centroid(image):
    grid = torch.arange(image.shape[-1], dtype=image.dtype)
    return (
        torch.stack([(image.sum(-2) * grid).sum(-1), (image.sum(-1) * grid).sum(-1)], -1)
        / image.sum((-2, -1))[..., None]
    )


def test_default_states_are_those_of_the_paper():
    sequences = TransformationSequences()
    assert sequences.steps == 8
    assert sequences.names == ("scaling", "rotation", "coloring")
    assert sequences.scales == pytest.approx([1 + 0.1 * t for t in range(9)])
    assert sequences.angles == tuple(10.0 * t for t in range(9))
    assert sequences.hues == tuple(20.0 * t for t in range(9))


def test_coloring_is_the_closed_form_and_the_hue_of_whole_images():
    sequences = TransformationSequences()
    images = uint8(4, 28, 28)
    frames = sequences(images, 2)
    table = [
        (1, h / 60, 0) if h <= 60 else (2 - h / 60, 1, 0) if h <= 120 else (0, 1, (h - 120) / 60)
        for h in sequences.hues
    ]
    closed = torch.einsum("bhw,tc->btchw", images / 255, torch.tensor(table))
    torch.testing.assert_close(frames, closed, atol=1e-6, rtol=0)
    red = F.pad(images[:, None] / 255, (0, 0, 0, 0, 0, 2))
    whole = torch.stack([adjust_hue(red, math.radians(hue)) for hue in sequences.hues], 1)
    torch.testing.assert_close(frames, whole, atol=2e-6, rtol=0)


def test_hues_go_all_the_way_round_either_way():
    states = (0.0, 240.0, 300.0, 340.0, 360.0, -60.0)
    sequences = TransformationSequences((1.0,) * 6, (0.0,) * 6, states)
    colors = sequences(torch.full((1, 1, 1), 255, dtype=torch.uint8), 2)[0, :, :, 0, 0]
    expected = torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 1 / 3], [1, 0, 0], [1, 0, 1]])
    torch.testing.assert_close(colors, expected, atol=1e-6, rtol=0)


def test_a_quarter_turn_is_rot90_counter_clockwise():
    sequences = TransformationSequences((1.0, 1.0), (0.0, 90.0), (0.0, 0.0))
    images = uint8(5, 28, 28)
    turned = sequences(images, 1)[:, 1, 0]
    torch.testing.assert_close(turned, torch.rot90(images / 255, 1, (1, 2)), atol=1e-5, rtol=0)
    right = torch.zeros(1, 28, 28)
    right[0, 13:15, 24:27] = 1
    assert sequences(right, 1)[0, 1, 0, 1:4, 13:15].min() > 0.999


def test_scaling_magnifies_a_ramp_about_the_centre():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    frames = TransformationSequences((1.0, 2.0), (0.0, 0.0), (0.0, 0.0))((0.1 + 0.05 * x + 0.02 * y)[None], 0)
    expected = 0.1 + 0.05 * (3.5 + (x - 3.5) / 2) + 0.02 * (2.5 + (y - 2.5) / 2)
    torch.testing.assert_close(frames[0, 1, 0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (20, 31)])
def test_every_state_samples_the_first_frame_on_the_inverse_grid(kind, height, width):
    sequences = TransformationSequences()
    images = uint8(3, height, width) / 255
    frames = sequences(images, kind)
    y, x = (height - 1) / 2, (width - 1) / 2
    down, right = torch.meshgrid(torch.arange(height) - y, torch.arange(width) - x, indexing="ij")
    for t in range(9):
        scale, angle = (sequences.scales[t], 0.0) if kind == 0 else (1.0, math.radians(sequences.angles[t]))
        u = (math.cos(angle) * right - math.sin(angle) * down) / (scale * x)
        v = (math.sin(angle) * right + math.cos(angle) * down) / (scale * y)
        grid = torch.stack([u, v], -1)[None].expand(3, -1, -1, -1)
        expected = F.grid_sample(images[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        torch.testing.assert_close(frames[:, t, 0], expected[:, 0], atol=2e-5, rtol=0)
    assert not frames[:, :, 1:].any()


def test_turning_back_returns_the_blob():
    image = blob(18, 10, width=3)
    turn, back = (TransformationSequences((1.0, 1.0), (0.0, angle), (0.0, 0.0)) for angle in (40.0, -40.0))
    there = turn(image, 1)[:, 1, 0]
    again = back(there, 1)[:, 1, 0]
    assert (there - image).abs().max() > 0.3
    assert (again - image).abs().max() < 0.05
    torch.testing.assert_close(centroid(again), centroid(image), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_centred_blob_does_not_drift(kind):
    centres = centroid(TransformationSequences()(blob(13.5, 13.5, width=2), kind)[0, :, 0])
    torch.testing.assert_close(centres, torch.full((9, 2), 13.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_the_first_frame_is_exactly_the_red_image(kind):
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    first = TransformationSequences()(images, kind)[:, 0]
    assert first.dtype == torch.float32
    assert torch.equal(first[:, 0], images.float() / 255)
    assert not first[:, 1:].any()


@settings(max_examples=25, deadline=None)
@given(kinds=st.lists(st.integers(0, 2), max_size=7), seed=st.integers(0, 1000))
def test_each_image_has_the_sequence_it_would_have_alone(kinds, seed):
    sequences = TransformationSequences()
    images, k = uint8(len(kinds), 9, 12, seed=seed), torch.tensor(kinds, dtype=torch.int64)
    frames = sequences(images, k)
    assert frames.shape == (len(kinds), 9, 3, 9, 12)
    assert torch.equal(frames[:, 0, 0], images / 255)
    for image, kind, sequence in zip(images, kinds, frames, strict=True):
        torch.testing.assert_close(sequence, sequences(image[None], kind)[0], atol=1e-6, rtol=0)
    assert not len(kinds) or 0 <= frames.min() <= frames.max() <= 1
    order = torch.randperm(len(kinds), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(sequences(images[order], k[order]), frames[order], atol=1e-6, rtol=0)


def test_an_empty_batch_and_other_float_types():
    sequences = TransformationSequences()
    for k in (0, 2, torch.zeros(0, dtype=torch.int64)):
        assert sequences(torch.zeros(0, 28, 28, dtype=torch.uint8), k).shape == (0, 9, 3, 28, 28)
    image = uint8(1, 28, 28)
    frames = sequences(image.double() / 255, 1)
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames, sequences(image, 1))


@pytest.mark.parametrize(
    ("images", "k", "message"),
    [
        (uint8(2, 1, 28, 28), 0, r"images: expected shape \(b, h, w\), got \(2, 1, 28, 28\)"),
        (uint8(2, 28, 28).int(), 0, r"images: expected dtype torch.uint8 or floating point, got torch.int32"),
        (uint8(2, 28, 28).float(), 0, r"images: expected floating-point values from 0 to 1, got 0 to 255"),
        (torch.full((2, 28, 28), math.nan), 0, r"images: expected floating-point values from 0 to 1, got nan"),
        (uint8(2, 28, 28), 3, r"k: expected values from 0 to 2, got 3"),
        (uint8(2, 28, 28), torch.tensor([0, -1]), r"k: expected values from 0 to 2, got -1"),
        (uint8(2, 28, 28), torch.tensor([0, 1, 2]), r"k: expected an int or shape \(2,\), got shape \(3,\)"),
        (uint8(2, 28, 28), torch.tensor([0.0, 1.0]), r"k: expected dtype torch.int64, got torch.float32"),
    ],
)
def test_wrong_arguments_of_a_call(images, k, message):
    with pytest.raises(ValueError, match=message):
        TransformationSequences()(images, k)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"scales": (1.0, 2.0)}, r"expected one length of at least 2, got lengths \(2, 9, 9\)"),
        ({"scales": (1.0,), "angles": (0.0,), "hues": (0.0,)}, r"at least 2, got lengths \(1, 1, 1\)"),
        ({"scales": (0.5,) * 9}, r"scales: expected the first state to be the identity 1, got 0.5"),
        ({"angles": (10.0,) * 9}, r"angles: expected the first state to be the identity 0, got 10.0"),
        ({"hues": (0.0,) * 8 + (math.inf,)}, r"hues: expected finite states, got"),
        ({"scales": (1.0,) * 8 + (0.0,)}, r"scales: expected positive states, got"),
    ],
)
def test_wrong_states(states, message):
    with pytest.raises(ValueError, match=message):
        TransformationSequences(**states)
