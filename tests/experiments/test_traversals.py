"""The search for one latent coordinate and its bound."""

import pytest
import torch
from closed_forms import generator, normal
from toy_sequences import Toy, identity, to_bound

from latentflow_experiments.methods.autoencoder import (
    SingleDimension,
    Traversal,
    search_traversals,
    traversal_errors,
    traverse,
)
from latentflow_experiments.metrics.equivariance import measure_equivariance

DIM, STEPS = 3, 4
GRID = [round(-5 + 0.1 * n, 1) for n in range(101)]
Z0 = normal(0, 20, DIM)


def changes(z0, k, steps):
    """Each transformation moves one coordinate to a bound that is on the grid, between two, or beyond it."""
    return [to_bound(1, 2.3), to_bound(2, -4.97), to_bound(0, 8.0)][k](z0, k, steps)


def noisy(z0, k, steps):
    """No coordinate makes this: all move, and differently for each sequence."""
    way = normal(5 + k, 1, DIM) + 0.5 * z0.sin()
    return torch.stack([z0 + t / steps * way + 0.1 * (t > 0) * (3 * z0 + t).cos() for t in range(steps + 1)])


def brute_force(frames, decode):
    """The errors of all coordinates and all 101 bounds, one after another, of shape (dim, 101)."""
    z0, errors = frames[:, 0].flatten(1), torch.zeros(DIM, len(GRID), dtype=torch.float64)
    for dimension in range(DIM):
        for place, bound in enumerate(GRID):
            z = to_bound(dimension, bound)(z0, 0, frames.shape[1] - 1)[1:].transpose(0, 1)
            errors[dimension, place] = (decode(z) - frames[:, 1:].flatten(2)).abs().sum() / len(frames)
    return errors


def test_a_transformation_of_one_coordinate_is_found():
    """Catches an offset for a bound, a coordinate that is off by one, and a bound outside of [-5, 5]."""
    found = search_traversals(identity(DIM), Toy(Z0, changes))
    assert [(t.dimension, t.bound) for t in found] == [(1, 2.3), (2, -5.0), (0, 5.0)]
    assert found[0].error == pytest.approx(0, abs=1e-5)
    times = sum(t / STEPS for t in range(STEPS + 1))
    assert found[1].error == pytest.approx(0.03 * times, rel=1e-4)
    assert found[2].error == pytest.approx(3 * times, rel=1e-6)


@pytest.mark.parametrize("power", [1, 3])
def test_the_search_finds_what_all_candidates_have(power):
    """Catches a fine search around too few candidates, the error of the coarse images, and a worst for a best."""
    model, data = identity(DIM), Toy(Z0, noisy)
    model.decoder = lambda z: (z + 0.02 * z**power).reshape(-1, 1, 1, DIM)
    for k, found in enumerate(search_traversals(model, data)):
        errors = brute_force(data.sequence(data.starts(k), k), lambda z: z + 0.02 * z**power)
        dimension, place = divmod(int(errors.argmin()), len(GRID))
        assert (found.dimension, found.bound) == (dimension, GRID[place])
        assert found.error == pytest.approx(errors.min().item(), rel=1e-5)


def test_the_error_of_the_search_is_the_metric():
    """Catches a search that minimises something else, such as the error with time 0 or a mean over the steps."""
    model, data = identity(DIM), Toy(Z0, noisy)
    traversals = search_traversals(model, data)
    measured = measure_equivariance(SingleDimension(model, traversals), data).errors.values()
    assert [error.output for error in measured] == pytest.approx([t.error for t in traversals], rel=1e-5)


def test_it_is_chosen_on_the_sequences_that_are_given():
    """Catches a search that looks at sequences outside of the split, and one that is tuned on what is measured."""

    def both(z0, k, steps):
        early = (z0[:, :1] < 0).to(z0)
        return early * to_bound(1, 2.0)(z0, k, steps) + (1 - early) * to_bound(2, -3.0)(z0, k, steps)

    order = Z0[:, 0].argsort()
    below = int((Z0[:, 0] < 0).sum())
    ours, theirs = (Toy(Z0, both, first=first) for first in (order[:below], order[below:]))
    assert {(t.dimension, t.bound) for t in search_traversals(identity(DIM), ours)} == {(1, 2.0)}
    assert {(t.dimension, t.bound) for t in search_traversals(identity(DIM), theirs)} == {(2, -3.0)}


def test_few_sequences_for_the_coarse_search_and_more_for_the_fine_one():
    """Catches a search over a whole data set, and a fine one on the few sequences of the coarse one."""
    sizes = []

    class Counting(Toy):
        def sequence(self, indices, k):
            assert len(indices.unique()) == len(indices)
            sizes.append(len(indices))
            return super().sequence(indices, k)

    search_traversals(identity(DIM), Counting(normal(1, 300, DIM), changes, names=("one",)))
    assert sizes == [50, 200]


def test_candidates_are_evaluated_apart():
    """Catches bounds that see each other's latents, a mean over batches of unequal size, and a bound left out."""
    model, data = identity(DIM), Toy(Z0, noisy)
    model.decoder = lambda z: z.tanh().reshape(-1, 1, 1, DIM)
    frames = data.sequence(data.starts(0), 0)
    bounds = torch.tensor([-5.0, 0.0, 2.0, 0.5, 5.0], dtype=torch.float64)
    errors = traversal_errors(model, frames, 2, bounds)
    expected = brute_force(frames, torch.tanh)[2]
    torch.testing.assert_close(errors, expected[[GRID.index(b) for b in bounds.tolist()]])
    for size in (1, 7, 20):
        torch.testing.assert_close(traversal_errors(model, frames, 2, bounds, batch_size=size), errors)
    assert torch.equal(traversal_errors(model, frames, 2, bounds[[1]]), errors[[1]])


def test_a_path_ends_at_its_bound_in_equal_steps():
    """Catches a path that ends a step early, is offset by its start, or moves another coordinate."""
    method = SingleDimension(identity(DIM), tuple(Traversal(i, b, 0.0) for i, b in ((0, -2.0), (2, 4.5))))
    for k, (dimension, bound) in enumerate(((0, -2.0), (2, 4.5))):
        for steps in (1, 5, 8):
            path = method.follow(Z0, k, steps)
            torch.testing.assert_close(path, to_bound(dimension, bound)(Z0, k, steps))
            torch.testing.assert_close(path[-1, :, dimension], torch.full((20,), bound, dtype=torch.float64))
            assert torch.equal(path[0], Z0)
            others = [i for i in range(DIM) if i != dimension]
            assert torch.equal(path[..., others], Z0[:, others].expand(steps + 1, 20, 2))


def test_traversals_of_several_bounds():
    """Catches candidates along the wrong dimension, and latents of the caller that are overwritten."""
    z0 = torch.rand(2, DIM, generator=generator(3))
    kept, bounds = z0.clone(), torch.tensor([[1.0, 2.0], [-1.0, 0.0], [3.0, 4.0]])
    z = traverse(z0, 1, bounds, STEPS)
    assert z.shape == (3, 2, STEPS + 1, 2, DIM)
    for place, bound in ((index, float(bounds[index])) for index in ((0, 0), (1, 1), (2, 0))):
        torch.testing.assert_close(z[place], to_bound(1, bound)(z0, 0, STEPS))
    assert torch.equal(z0, kept)
