"""The embedded set: deterministic, balanced, and colour says nothing about the class."""

import colorsys

import torch

from simclr_lib.data.embedded import HUES, PATTERNS, color_labels, generate


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


def test_color_labels_are_the_hue_as_the_standard_library_has_it():
    images, _, _ = generate("test")
    labels = color_labels(images)
    agree = 0
    for image, label in zip(images[:300], labels[:300], strict=True):
        hue, _, _ = colorsys.rgb_to_hsv(*(image.float().mean(dim=(1, 2)) / 255).tolist())
        agree += round(hue * len(HUES)) % len(HUES) == label
    assert agree >= 285  # the two notions of hue differ a little between the six corners


def test_pure_colors_have_their_names():
    pure = torch.tensor([[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255]])
    images = pure.to(torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4)
    assert color_labels(images).tolist() == list(range(len(HUES)))


def test_color_and_class_are_independent():
    images, labels, names = generate("train")
    table = torch.zeros(len(names), len(HUES))
    table.index_put_((labels, color_labels(images)), torch.ones(len(labels)), accumulate=True)
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    chi_square = ((table - expected) ** 2 / expected).sum().item()
    degrees = (len(names) - 1) * (len(HUES) - 1)
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations


def test_each_image_has_a_single_hue():
    images, _, _ = generate("test")
    image = images[1].float()
    color = image.mean(dim=(1, 2))
    bright = image.amax(0) > image.amax(0).mean()
    for part in (image[:, bright].mean(1), image[:, ~bright].mean(1)):
        assert torch.cosine_similarity(part, color, dim=0) > 0.995
