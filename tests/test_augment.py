"""The SimCLR views: each operation beside torchvision's on one image, the draws beside the paper's appendix A."""

import colorsys
import itertools
import math
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from simclr_lib import augment as module
from simclr_lib.augment import Augment, Draws

CLOSE = {"rtol": 0, "atol": 2e-5}  # torchvision's hue is in float32 whatever the image


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(n: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Smooth colours and noise, with black, white, grey, pure and tied colours among them."""
    images = torch.rand(n, 3, height, width, dtype=dtype)
    images[: n // 4] = (images[: n // 4] * 2).round() / 2
    images[n // 4 : n // 2] = images[n // 4 : n // 2, :, :1, :1] * 0.8 + 0.2 * images[n // 4 : n // 2]
    return images


def plain(n: int) -> Draws:
    """Draws that change nothing: the whole image, not flipped, no jitter, no grey, no blur."""
    return Draws(
        area=torch.ones(n, 10, dtype=torch.float64),
        ratio=torch.ones(n, 10, dtype=torch.float64),
        corner=torch.zeros(n, 2, dtype=torch.float64),
        flip=torch.zeros(n, dtype=torch.bool),
        factors=torch.ones(n, 3, dtype=torch.float64),
        hue=torch.zeros(n, dtype=torch.float64),
        turn=torch.arange(4).repeat(n, 1),
        grey=torch.zeros(n, dtype=torch.bool),
        sigma=torch.zeros(n, dtype=torch.float64),
    )


def slow_box(draws: Draws, i: int, height: int, width: int) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params with the random numbers taken from `draws`."""
    for area, ratio in zip(draws.area[i].tolist(), draws.ratio[i].tolist(), strict=True):
        w = round(math.sqrt(height * width * area * ratio))
        h = round(math.sqrt(height * width * area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = draws.corner[i].tolist()
            return math.floor(top * (height - h + 1)), math.floor(left * (width - w + 1)), h, w
    if width / height < 3 / 4:
        h, w = round(width / (3 / 4)), width
    elif width / height > 4 / 3:
        h, w = height, round(height * (4 / 3))
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


def same(view: Tensor, _: float) -> Tensor:
    """For a hue shift of 0, which torchvision would compute in float32."""
    return view


def slow_view(image: Tensor, draws: Draws, i: int, size: int) -> Tensor:
    """One image through torchvision's functions, one after the other."""
    box = slow_box(draws, i, *image.shape[-2:])
    view = TF.resized_crop(image, *box, [size, size], antialias=True)
    view = TF.horizontal_flip(view) if draws.flip[i] else view
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue if draws.hue[i] else same)
    amounts = [*draws.factors[i].tolist(), draws.hue[i].item()]
    for operation in sorted(range(4), key=lambda k: draws.turn[i, k]):
        view = adjust[operation](view, amounts[operation])
    view = TF.rgb_to_grayscale(view, num_output_channels=3) if draws.grey[i] else view
    side = 2 * (size // 20) + 1
    return TF.gaussian_blur(view, [side, side], [draws.sigma[i].item()] * 2) if draws.sigma[i] > 0 else view


def slow_views(images: Tensor, draws: Draws, size: int) -> Tensor:
    return torch.stack([slow_view(image, draws, i, size) for i, image in enumerate(images)])


# The whole, against one image at a time


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (50, 37, 16), (11, 14, 24), (60, 90, 40)])
def test_views_are_torchvisions_of_each_image(height: int, width: int, size: int):
    images, augment = random_images(32, height, width), Augment(size)
    draws = augment.draw(32)
    torch.testing.assert_close(augment.apply(images, draws), slow_views(images, draws, size), **CLOSE)


def test_every_order_of_the_jitter():
    turns = torch.tensor(list(itertools.permutations(range(4))))
    draws = replace(
        plain(24),
        turn=turns,
        factors=torch.rand(24, 3, dtype=torch.float64) * 1.6 + 0.2,
        hue=torch.rand(24, dtype=torch.float64) * 0.4 - 0.2,
    )
    images = random_images(1, 16, 16).expand(24, -1, -1, -1)
    views = Augment(16).apply(images, draws)
    torch.testing.assert_close(views, slow_views(images, draws, 16), **CLOSE)
    assert len({tuple(view.flatten().tolist()) for view in views}) > 12, "the orders should not all give one view"


# Each operation alone


@pytest.mark.parametrize(("height", "width"), [(32, 32), (47, 33), (8, 100), (100, 8), (7, 1)])
def test_crop_boxes_are_the_first_try_that_fits(height: int, width: int):
    draws = Augment(8).draw(300)
    expected = [slow_box(draws, i, height, width) for i in range(300)]
    assert module.crop_boxes(draws, height, width).tolist() == [list(box) for box in expected]


def test_crops_lie_anywhere_with_equal_chance():
    draws = replace(plain(6000), area=torch.full((6000, 10), 0.25), corner=Augment(8).draw(6000).corner)
    top, left, height, width = module.crop_boxes(draws, 16, 16).unbind(1)
    assert (height == 8).all()
    assert (width == 8).all()
    for corner in (top, left):
        counts = torch.bincount(corner.long(), minlength=9)
        assert len(counts) == 9
        assert (counts - 6000 / 9).abs().max() < 5 * math.sqrt(6000 / 9)


@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 8), (9, 12, 40), (30, 45, 30), (1, 1, 5)])
def test_crop_is_torchvisions_antialiased_resize_of_the_box(height: int, width: int, size: int):
    images = random_images(64, height, width, torch.float64)
    draws = replace(Augment(size).draw(64), flip=torch.zeros(64, dtype=torch.bool))
    boxes = [slow_box(draws, i, height, width) for i in range(64)]
    pairs = zip(images, boxes, strict=True)
    expected = [TF.resized_crop(image, *box, [size, size], antialias=True) for image, box in pairs]
    torch.testing.assert_close(module.crop_and_flip(images, draws, size), torch.stack(expected), rtol=0, atol=1e-12)


def test_what_lies_outside_the_crop_does_not_bleed_in():
    images = torch.zeros(1, 3, 16, 16)
    images[:, :, 4:12, 4:12] = 1
    draws = replace(plain(1), area=torch.full((1, 10), 0.25), corner=torch.full((1, 2), 4.5 / 9))
    for size in (3, 8, 20):
        torch.testing.assert_close(Augment(size).apply(images, draws), torch.ones(1, 3, size, size))


def test_flip_mirrors_left_to_right():
    images = random_images(2, 12, 12)
    views = Augment(12).apply(images, replace(plain(2), flip=torch.tensor([True, False])))
    torch.testing.assert_close(views, torch.stack([images[0].flip(2), images[1]]))


@pytest.mark.parametrize("operation", ["brightness", "contrast", "saturation", "hue"])
def test_each_color_operation_is_torchvisions(operation: str):
    images, adjust = random_images(32, 16, 16), getattr(TF, f"adjust_{operation}")
    amount = torch.rand(32, dtype=torch.float64)
    if operation == "hue":
        amount = amount - 0.5
        draws = replace(plain(32), hue=amount)
    else:
        amount = amount * 2
        factors = plain(32).factors
        factors[:, ["brightness", "contrast", "saturation"].index(operation)] = amount
        draws = replace(plain(32), factors=factors)
    expected = [adjust(image, by) for image, by in zip(images, amount.tolist(), strict=True)]
    torch.testing.assert_close(Augment(16, blur=False).apply(images, draws), torch.stack(expected), **CLOSE)


def test_hue_is_the_standard_librarys():
    images = random_images(8, 6, 6, torch.float64)
    images[0, :, 0, :4] = torch.tensor([[0, 0.3, 1, 0], [0, 0.3, 1, 0.7], [0, 0.3, 1, 0.7]])  # greys and a cyan
    turns = torch.rand(8, dtype=torch.float64) - 0.5
    expected = torch.empty_like(images)
    for i, y, x in itertools.product(range(8), range(6), range(6)):
        hue, saturation, value = colorsys.rgb_to_hsv(*images[i, :, y, x].tolist())
        shifted = colorsys.hsv_to_rgb((hue + turns[i].item()) % 1, saturation, value)
        expected[i, :, y, x] = torch.tensor(shifted, dtype=torch.float64)
    torch.testing.assert_close(module.shift_hue(images, turns), expected, rtol=0, atol=1e-12)


def test_greyscale_is_torchvisions():
    images, grey = random_images(6, 10, 10), torch.tensor([True, False] * 3)
    views = Augment(10).apply(images, replace(plain(6), grey=grey))
    expected = torch.where(grey[:, None, None, None], TF.rgb_to_grayscale(images, 3), images)
    torch.testing.assert_close(views, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "side"), [(8, 1), (20, 3), (32, 3), (96, 9), (224, 23)])
def test_blur_is_torchvisions_with_a_tenth_of_the_side(size: int, side: int):
    images = random_images(4, size, size, torch.float64)
    sigma = torch.tensor([0.0, 0.1, 0.7, 2.0], dtype=torch.float64)
    views = Augment(size).apply(images, replace(plain(4), sigma=sigma))
    pairs = zip(images[1:], sigma[1:].tolist(), strict=True)
    blurred = [TF.gaussian_blur(image, [side, side], [by, by]) for image, by in pairs]
    torch.testing.assert_close(views, torch.stack([images[0], *blurred]), rtol=0, atol=1e-12)


# The draws, against the paper


def share(chosen: Tensor) -> float:
    return chosen.double().mean().item()


def is_uniform(values: Tensor, low: float, high: float) -> bool:
    """Within [low, high], the empirical distribution nowhere far from the straight line (Kolmogorov and Smirnov)."""
    values = values.double().sort().values
    line = (values - low) / (high - low)
    steps = torch.arange(len(values)) / len(values)
    return bool(line.min() >= 0 and line.max() <= 1 and (line - steps).abs().max() < 2 / math.sqrt(len(values)))


def test_draws_follow_the_paper():
    draws = Augment(32).draw(20_000, generator())
    jittered = draws.hue != 0
    near = {"abs": 0.015}
    assert share(draws.flip) == pytest.approx(0.5, **near)
    assert share(jittered) == pytest.approx(0.8, **near)
    assert share(draws.grey) == pytest.approx(0.2, **near)
    assert share(draws.sigma > 0) == pytest.approx(0.5, **near)
    assert is_uniform(draws.area.flatten(), 0.08, 1)
    assert is_uniform(draws.ratio.flatten().log(), math.log(3 / 4), math.log(4 / 3))
    assert is_uniform(draws.corner.flatten(), 0, 1)
    assert is_uniform(draws.sigma[draws.sigma > 0], 0.1, 2.0)
    assert is_uniform(draws.hue[jittered], -0.2, 0.2)
    assert all(is_uniform(factor, 0.2, 1.8) for factor in draws.factors[jittered].unbind(1))
    assert (draws.factors[~jittered] == 1).all()
    assert torch.equal(draws.turn.sort(dim=1).values, torch.arange(4).expand(20_000, 4))
    orders = torch.unique(draws.turn, dim=0, return_counts=True)[1]
    assert len(orders) == 24
    assert (orders - 20_000 / 24).abs().max() < 5 * math.sqrt(20_000 / 24)


@pytest.mark.parametrize(("strength", "low", "high"), [(0.5, 0.6, 1.4), (2.0, 0.0, 2.6)])
def test_strength_scales_the_jitter(strength: float, low: float, high: float):
    draws = Augment(32, color_strength=strength).draw(20_000, generator())
    jittered = draws.hue != 0
    assert is_uniform(draws.hue[jittered], -0.2 * strength, 0.2 * strength)
    assert all(is_uniform(factor, low, high) for factor in draws.factors[jittered].unbind(1))


def columns(draws: Draws) -> Tensor:
    """(N, F): one number from everything that is drawn."""
    first = (
        draws.area[:, 0],
        draws.ratio[:, 0],
        *draws.corner.unbind(1),
        *draws.factors.unbind(1),
        *draws.turn.unbind(1),
    )
    return torch.stack([x.double() for x in (*first, draws.hue, draws.flip, draws.grey, draws.sigma)], dim=1)


def test_draws_are_independent_over_images_views_and_operations():
    g, n = generator(1), 20_000
    augment = Augment(32)
    a, b = columns(augment.draw(n, g)), columns(augment.draw(n, g))
    pairs = torch.corrcoef(torch.cat([a[:-1], a[1:], b[:-1]], dim=1).T)  # an image, the next one, the other view
    f = a.shape[1]
    turn, jitter = slice(7, 11), slice(4, 7)
    between, within = pairs[:f, f:], pairs[:f, :f].clone().fill_diagonal_(0)
    within[turn, turn] = 0  # a permutation
    assert between.abs().max() < 5 / math.sqrt(n)
    assert within.abs().max() < 5 / math.sqrt(n)
    assert a[:, jitter].unique(dim=0).shape[0] > 0.75 * n


def test_crops_do_not_depend_on_the_other_settings():
    a = Augment(32).draw(20, generator())
    b = Augment(96, color_strength=0, blur=False).draw(20, generator())
    for name in ("area", "ratio", "corner", "flip"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert not b.sigma.any()


@pytest.mark.parametrize("crop_area", [(0.08, 1.0), (0.2, 0.6), (0.5, 0.5), (1.0, 1.0)])
def test_crops_cover_a_share_of_the_image_within_crop_area(crop_area: tuple[float, float]):
    least, largest = crop_area
    draws = Augment(8, crop_area=crop_area).draw(2000, generator())
    assert draws.area.min() >= least
    assert draws.area.max() <= largest
    if least < largest:
        assert is_uniform(draws.area.flatten(), least, largest)
    assert torch.equal(draws.ratio, Augment(8).draw(2000, generator()).ratio), "shapes should be drawn as ever"

    # In an image of 1,000 x 1,000 pixels, where rounding a side changes the area by about a thousandth at most: what
    # fits covers its share; where no try fits, the fallback is the whole of a square image.
    height, width = module.crop_boxes(draws, 1000, 1000)[:, 2:].unbind(1)
    covered, whole = height * width / 1e6, (height == 1000) & (width == 1000)
    assert ((covered > least - 0.004) & (covered < largest + 0.004) | whole).all()
    if largest < 0.75:  # then every ratio of 3 / 4 to 4 / 3 fits
        torch.testing.assert_close(covered, draws.area[:, 0], rtol=0, atol=0.004)


def test_crop_area_1_leaves_a_square_image_and_its_mirror():
    images, augment = random_images(40, 20, 20), Augment(20, color_strength=0, blur=False, crop_area=(1.0, 1.0))
    draws = augment.draw(40)
    views = augment.apply(images, draws)
    expected = torch.where(draws.flip[:, None, None, None], images.flip(3), images)
    torch.testing.assert_close(views, expected)
    assert 0 < draws.flip.sum() < 40


def test_by_default_the_crops_are_those_of_the_paper():
    default, said = (augment.draw(50, generator()) for augment in (Augment(32), Augment(32, crop_area=(0.08, 1.0))))
    u = torch.rand(50, 35, generator=generator(), dtype=torch.float64)  # the first ten numbers of a view are its areas
    assert torch.equal(default.area, 0.08 + (1.0 - 0.08) * u[:, :10])
    assert torch.equal(default.area, said.area)


# Reproducing


def test_generator_decides_all():
    images, augment = random_images(9, 20, 20), Augment(16)
    state = torch.get_rng_state()
    first = augment(images, generator(3))
    assert torch.equal(state, torch.get_rng_state()), "a given generator should leave the global one alone"
    assert torch.equal(first, augment(images, generator(3)))
    assert not torch.equal(first, augment(images, generator(4)))
    torch.manual_seed(3)
    assert torch.equal(first, augment(images)), "no generator: the global one"


def test_two_views_differ():
    images, g, augment = random_images(9, 20, 20), generator(), Augment(16)
    assert ((augment(images, g) - augment(images, g)).abs().amax(dim=(1, 2, 3)) > 0.01).all()


def test_slices_of_draws_give_slices_of_views(monkeypatch: pytest.MonkeyPatch):
    images, augment = random_images(23, 20, 20), Augment(24)
    draws = augment.draw(23, generator())
    whole = augment.apply(images, draws)
    for rows in (slice(0, 5), slice(5, 6), slice(6, 23), torch.tensor([7, 2, 2, 22])):
        torch.testing.assert_close(augment.apply(images[rows], draws[rows]), whole[rows], rtol=0, atol=1e-6)
    monkeypatch.setattr(module, "CPU_PIXELS", 4 * 24 * 24)
    torch.testing.assert_close(augment.apply(images, draws), whole, rtol=0, atol=1e-6)


# Kinds of images and settings


def test_bytes_floats_and_doubles_agree():
    pixels, augment = torch.randint(0, 256, (8, 3, 20, 20), dtype=torch.uint8), Augment(24)
    views = augment(pixels, generator())
    doubles = augment(pixels.double() / 255, generator())
    assert views.dtype == torch.float32
    assert doubles.dtype == torch.float64
    torch.testing.assert_close(views, augment(pixels.float() / 255, generator()))
    torch.testing.assert_close(views.double(), doubles, rtol=0, atol=1e-5)


def test_float64_is_kept_inside():
    images = random_images(16, 20, 20, torch.float64)
    augment = Augment(24, blur=False)
    draws = replace(augment.draw(16), hue=torch.zeros(16, dtype=torch.float64))
    torch.testing.assert_close(augment.apply(images, draws), slow_views(images, draws, 24), rtol=0, atol=1e-12)


def test_views_lie_in_range_and_images_stay_as_they_were():
    images = random_images(64, 24, 24)
    before = images.clone()
    views = Augment(24, color_strength=2.5)(images)
    assert views.min() >= 0
    assert views.max() <= 1
    assert torch.equal(images, before)
    assert Augment(24)(torch.ones(64, 3, 24, 24)).max() <= 1


def test_any_layout_and_no_images_at_all():
    augment = Augment(16)
    images = random_images(6, 20, 20)
    strided = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(augment(strided, generator()), augment(images, generator()))
    assert augment(images[:0]).shape == (0, 3, 16, 16)


def test_autocast_does_not_lower_the_precision():
    images, augment = random_images(6, 20, 20), Augment(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = augment(images, generator())
    assert torch.equal(views, augment(images, generator()))


def test_strength_zero_leaves_colors_alone():
    augment = Augment(24, color_strength=0)
    colors = torch.rand(200, 3, 1, 1)
    views = augment(colors.expand(200, 3, 20, 20))
    torch.testing.assert_close(views, colors.expand(200, 3, 24, 24))
    draws = augment.draw(200)
    assert not draws.grey.any()
    assert not draws.hue.any()
    assert (draws.factors == 1).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 0),
        ("color_strength", -0.1),
        ("color_strength", 2.6),
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (-0.1, 0.5)),
        ("crop_area", (0.6, 0.5)),
        ("crop_area", (0.5, 1.1)),
        ("crop_area", (math.nan, 1.0)),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, value: float | tuple):
    with pytest.raises(ValueError, match=rf"^{name}: expected .*got {re.escape(str(value))}"):
        Augment(**{"image_size": 32, name: value})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 8, 8), r"\(N, 3, H, W\).*got \(3, 8, 8\)"),
        (torch.rand(2, 8, 8, 3), r"\(N, 3, H, W\).*got \(2, 8, 8, 3\)"),
        (torch.rand(2, 3, 0, 8), r"got \(2, 3, 0, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), r"uint8, float32 or float64.*got .*int64"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.float16), r"uint8, float32 or float64.*got .*float16"),
        (torch.full((2, 3, 8, 8), 200.0), r"\[0, 1\].*got 200 to 200.*255"),
        (torch.rand(2, 3, 8, 8) - 0.5, r"\[0, 1\]"),
        (torch.full((2, 3, 8, 8), math.nan), r"\[0, 1\].*got nan"),
    ],
)
def test_other_images_are_refused(images: Tensor, message: str):
    with pytest.raises(ValueError, match="images: .*" + message):
        Augment(8)(images)


def test_draws_of_another_batch_are_refused():
    augment = Augment(8)
    with pytest.raises(ValueError, match=r"draws: .* 2 images, got 3"):
        augment.apply(torch.rand(2, 3, 8, 8), augment.draw(3))


# Compiling


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])  # half a minute
def test_compiled_equals_eager(backend: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    images = random_images(16, 20, 20)
    compiled, eager = Augment(16, compile=True), Augment(16)
    torch.testing.assert_close(compiled(images, generator()), eager(images, generator()), **CLOSE)


def test_failing_to_compile_is_no_silence(monkeypatch: pytest.MonkeyPatch):
    def no_compiler(*arguments: object):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function: no_compiler)
    with pytest.raises(RuntimeError, match="no compiler"):
        Augment(16, compile=True)(random_images(5, 20, 20), generator())
