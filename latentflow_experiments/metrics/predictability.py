"""The variation predictability score: how well a network tells paths apart by their first and last image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.methods.method import Motion

TEST_BATCH = 250  # pairs in a batch when nothing is trained; it does not change the result


IMAGE_DIMS = 4


@dataclass(frozen=True)
class Pairs:
    r"""The two ends of decoded paths, grouped by transformation.

    Attributes:
        first: The images :math:`\mathrm{Dec}(z_0)`, of shape ``(n, channels, height, width)``, in [0, 1].
        last: The images :math:`\mathrm{Dec}(z_T)`, of the same shape.
        labels: The transformation of each pair, of shape ``(n,)``, int64.
    """

    first: Tensor
    last: Tensor
    labels: Tensor


@dataclass(frozen=True)
class VPScore:
    """The accuracy of the classifier on the pairs of the test part.

    Attributes:
        last: The accuracy after the last epoch, in [0, 1]. This is the one to report.
        best: The best accuracy over the epochs that were tested, in [0, 1]; chosen on the test pairs, so optimistic.
        standard_error: The binomial standard error of ``last`` over the test pairs. It does not cover another split or
            other initial weights of the classifier.
        chance: The accuracy of a guess, one over the number of classes.
        train_pairs: The number of pairs that the classifier was trained on.
        test_pairs: The number of pairs that it was tested on.
        classes: The number of transformations ``K``; scores of different ``K`` are not comparable.
    """

    last: float
    best: float
    standard_error: float
    chance: float
    train_pairs: int
    test_pairs: int
    classes: int


def make_pairs(
    motion: Motion,
    data: SequenceDataset,
    count: int,
    generator: torch.Generator | None = None,
    batch_size: int = TEST_BATCH,
) -> Pairs:
    r"""Decode the two ends of paths, :math:`(\mathrm{Dec}(z_0), \mathrm{Dec}(z_T))`, equally many of each kind.

    The start images are drawn without replacement. Where the split has fewer than ``count``, all are taken as often as
    they fit before any is drawn once more. A method without randomness then makes the same pair again, which may fall
    into both parts of a classifier's data.

    Args:
        motion: The motion of a model in evaluation mode.
        data: The sequences, on the device of the model.
        count: The number of pairs of each transformation.
        generator: The source of randomness, on the CPU, or None for torch's global one.
        batch_size: Sequences in a batch; it changes the result by roundoff only.

    Returns:
        The pairs, ``count`` of each transformation, on the device of the decoded images.

    Raises:
        ValueError: If ``count`` or ``batch_size`` is not positive, or the split has no sequence of a transformation.
    """
    _check_positive({"count": count, "batch_size": batch_size})
    kinds = len(data.names)
    drawn = [_draw(data.starts(k), count, generator) for k in range(kinds)]
    work = [(k, indices) for k, all_of_k in enumerate(drawn) for indices in torch.split(all_of_k, batch_size)]
    ends, done = torch.empty(0), 0
    with tqdm(total=kinds * count, unit="pair", desc="pairs") as bar:
        for k, indices in work:
            decoded = _decode_ends(motion, data, indices, k)
            if done == 0:
                ends = decoded.new_empty(2, kinds * count, *decoded.shape[2:])
            ends[:, done : done + len(indices)] = decoded
            done += len(indices)
            bar.update(len(indices))
    return Pairs(ends[0], ends[1], torch.arange(kinds, device=ends.device).repeat_interleave(count))


def _draw(starts: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw start images, each as often as any other give or take one."""
    if len(starts) == 0:
        raise ValueError("data: expected sequences of each transformation, got none of one")
    rounds = math.ceil(count / len(starts))
    order = torch.cat([torch.randperm(len(starts), generator=generator) for _ in range(rounds)])
    return starts[order[:count]]


@torch.inference_mode()
def _decode_ends(motion: Motion, data: SequenceDataset, indices: Tensor, k: int) -> Tensor:
    """Decode the first and the last latent of paths, shape ``(2, batch, channels, height, width)``."""
    z = motion.follow(motion.start(data.sequence(indices, k)), k, data.steps)
    mean: Tensor = motion.decode(torch.stack((z[0], z[-1]))).mean
    return mean


def shuffle_labels(labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Permute labels, so that they say nothing about the pairs: the score of the rest should be chance.

    Args:
        labels: Labels, of shape ``(n,)``.
        generator: The source of randomness, on the CPU, or None for torch's global one.

    Returns:
        The same labels in another order.

    Example:
        >>> shuffled = shuffle_labels(torch.arange(4).repeat(3), torch.Generator().manual_seed(0))
        >>> assert shuffled.bincount().tolist() == [3, 3, 3, 3]
    """
    return labels[torch.randperm(len(labels), generator=generator).to(labels.device)]


def vp_score(
    pairs_first: Tensor,
    pairs_last: Tensor,
    labels: Tensor,
    share: float,
    generator: torch.Generator | None = None,
    epochs: int = 60,
    batch_size: int = 32,
    learning_rate: float = 0.01,
    test_every: int = 5,
) -> VPScore:
    """Train a small network on few pairs to tell the transformations apart, and count what it gets right on the rest.

    The network sees both images of a pair, scaled to [-1, 1], as channels of one: four convolutions with batch
    normalisation, the mean over the pixels and a linear layer. It is trained by Adam on the cross-entropy. The same
    number of pairs of every class is drawn for training.

    Args:
        pairs_first: First images, of shape ``(n, channels, height, width)``, in [0, 1]. The network runs on their
            device, in float32.
        pairs_last: Last images, of the same shape.
        labels: The transformation of each pair, of shape ``(n,)``, int64; equally many of each of ``0, ..., K-1``.
        share: The share of the pairs that is trained on, rounded to at least one pair of each class; usually 0.01 or
            0.1.
        generator: The source of randomness, on the CPU, or None for torch's global one.
        epochs: The number of passes through the training pairs.
        batch_size: Pairs in a training batch, at least 2; a last batch of one pair is merged with the one before.
        learning_rate: The learning rate of Adam.
        test_every: The number of epochs from one test to the next; the last epoch is always tested.

    Returns:
        The accuracies.

    Raises:
        ValueError: If shapes or dtypes do not fit, images are not finite, classes are missing or not equally frequent,
            the share leaves no pair to test, or a number is out of range.

    References:
        | Learning Disentangled Representations with Latent Variation Predictability (Zhu et al., 2020)
        | https://arxiv.org/abs/2007.12885

    Example:
        >>> labels = torch.arange(2).repeat(20)
        >>> first = torch.rand(40, 1, 8, 8)
        >>> last = (first + labels[:, None, None, None]) / 2
        >>> score = vp_score(first, last, labels, share=0.1, generator=torch.Generator().manual_seed(0), epochs=1)
        >>> assert (score.train_pairs, score.test_pairs, score.chance) == (4, 36, 0.5)
    """
    _check_positive({"epochs": epochs, "test_every": test_every, "learning_rate": learning_rate})
    if batch_size < 2:
        raise ValueError(f"batch_size: expected at least 2, got {batch_size!r}")
    classes = _check_pairs(pairs_first, pairs_last, labels)
    labels = labels.to(pairs_first.device)
    train, test = _split(labels, classes, share, generator)
    network = _build(2 * pairs_first.shape[1], classes, generator).to(pairs_first.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    accuracies = []
    with torch.enable_grad(), tqdm(total=epochs, unit="epoch", desc="VP score") as bar:
        for epoch in range(1, epochs + 1):
            for batch in _batches(train[torch.randperm(len(train), generator=generator)], batch_size):
                loss = functional.cross_entropy(network(_join(pairs_first, pairs_last, batch)), _take(labels, batch))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
                optimizer.step()
            if epoch % test_every == 0 or epoch == epochs:
                accuracies.append(_accuracy(network, pairs_first, pairs_last, labels, test))
            bar.update()
    last = accuracies[-1]
    error = math.sqrt(last * (1 - last) / len(test))
    return VPScore(last, max(accuracies), error, 1 / classes, len(train), len(test), classes)


def _build(channels: int, classes: int, generator: torch.Generator | None) -> nn.Sequential:
    """Make the network on the CPU, its weights drawn from ``generator`` and not from torch's global state."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the accelerators
        return nn.Sequential(
            *_block(channels, 64, kernel=7, stride=2),
            *_block(64, 64),
            nn.MaxPool2d(3, stride=2, padding=1),
            *_block(64, 128),
            *_block(128, 256),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(256, classes),
        )


def _block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Split indices into batches; none has a single pair, which batch normalisation could not normalise."""
    batches = list(torch.split(order, size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _take(values: Tensor, indices: Tensor) -> Tensor:
    return values[indices.to(values.device)]


def _join(first: Tensor, last: Tensor, indices: Tensor) -> Tensor:
    """Put the images of pairs on top of each other as channels, and scale them to [-1, 1]."""
    return 2 * torch.cat((_take(first, indices), _take(last, indices)), dim=1).detach().float() - 1


@torch.no_grad()
def _accuracy(network: nn.Module, first: Tensor, last: Tensor, labels: Tensor, test: Tensor) -> float:
    """Count the share of test pairs whose first guess is right."""
    network.eval()
    right = torch.zeros((), dtype=torch.int64, device=labels.device)
    for batch in torch.split(test, TEST_BATCH):
        right += (network(_join(first, last, batch)).argmax(1) == _take(labels, batch)).sum()
    network.train()
    return int(right) / len(test)


def _split(labels: Tensor, classes: int, share: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw the training pairs, equally many of each class; return their indices and those of the rest."""
    each = len(labels) // classes
    count = max(1, round(share * each)) if 0 < share < 1 else each
    if count >= each:
        raise ValueError(f"share: expected more than 0 and pairs of each class left to test, got {share!r} of {each}")
    of_class = labels.cpu().argsort(stable=True).reshape(classes, each)
    drawn = torch.stack([rows[torch.randperm(each, generator=generator)] for rows in of_class])
    return drawn[:, :count].flatten(), drawn[:, count:].flatten()


def _check_pairs(first: Tensor, last: Tensor, labels: Tensor) -> int:
    """Check the images and the labels; return the number of classes."""
    if first.ndim != IMAGE_DIMS or first.numel() == 0:
        raise ValueError(f"pairs_first: expected shape (n, channels, height, width), got {tuple(first.shape)}")
    if last.shape != first.shape:
        raise ValueError(f"pairs_last: expected shape {tuple(first.shape)}, got {tuple(last.shape)}")
    for name, images in {"pairs_first": first, "pairs_last": last}.items():
        if not images.is_floating_point():
            raise ValueError(f"{name}: expected floating point numbers in [0, 1], got {images.dtype}")
        if not torch.stack(images.aminmax()).isfinite().all():  # without a mask as large as the images
            raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    if labels.shape != first.shape[:1] or labels.dtype != torch.int64:
        got = f"{tuple(labels.shape)} of {labels.dtype}"
        raise ValueError(f"labels: expected shape ({len(first)},) of torch.int64, got {got}")
    if labels.min() < 0:
        raise ValueError(f"labels: expected values of at least 0, got {int(labels.min())}")
    counts = labels.bincount().tolist()
    if len(counts) < 2 or len(set(counts)) > 1:
        raise ValueError(f"labels: expected equally many of at least two classes 0, ..., K-1, got counts {counts}")
    return len(counts)


def _check_positive(numbers: dict[str, float]) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name}: expected a positive number, got {number!r}")
