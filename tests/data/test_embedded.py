"""The embedded set: deterministic, balanced, and colour says nothing about the class."""

import colorsys

import torch

from simclr_lib.data.embedded import PATTERNS, generate


def hue_of(image: torch.Tensor) -> int:
    """The hue of the mean colour, one of six, as the standard library has it."""
    hue, _, _ = colorsys.rgb_to_hsv(*(image.float().mean(dim=(1, 2)) / 255).tolist())
    return round(6 * hue) % 6


def test_the_same_seed_gives_the_same_images_and_another_seed_others():
    images, labels, names = generate("train")
    again, _, _ = generate("train")
    assert images.shape == (4000, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert torch.equal(images, again)
    assert not torch.equal(images, generate("train", seed=1)[0])
    assert names == list(PATTERNS)
    assert torch.equal(labels.bincount(), torch.full((len(names),), 4000 // len(names)))


def test_no_test_image_is_a_training_image():
    train, test = generate("train")[0].flatten(1), generate("test")[0].flatten(1)
    assert not (set(map(bytes, train.numpy())) & set(map(bytes, test.numpy())))


def test_color_and_class_are_independent():
    images, labels, names = generate("train")
    table = torch.zeros(len(names), 6)
    colors = torch.tensor([hue_of(image) for image in images])
    table.index_put_((labels, colors), torch.ones(len(labels)), accumulate=True)
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    chi_square = ((table - expected) ** 2 / expected).sum().item()
    degrees = (len(names) - 1) * (6 - 1)
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations


def test_each_image_has_a_single_hue():
    images, _, _ = generate("test")
    image = images[1].float()
    color = image.mean(dim=(1, 2))
    bright = image.amax(0) > image.amax(0).mean()
    for part in (image[:, bright].mean(1), image[:, ~bright].mean(1)):
        assert torch.cosine_similarity(part, color, dim=0) > 0.995
