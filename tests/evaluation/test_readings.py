"""Readings of health beside slow loops, closed forms and cases by hand; alarms at both sides of each line."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from references import loop_nt_xent
from scipy.special import hyp0f1
from torch import Tensor

from simclr_lib import RunConfig
from simclr_lib.data.embedded import generate
from simclr_lib.evaluation import health, readings

SIZES = [(2, 1), (2, 3), (7, 4), (12, 32)]  # images, dimensions
HEALTHY = {
    "finite": True,
    "positive_mean": 0.8,
    "other_mean": 0.1,
    "deviation": 0.9,
    "effective_rank_z": 20.0,
    "color_agreement": 0.2,
    "color_following": 0.2,
}
LOSS = 5.0
SETTING = dict(batch_size=256, temperature=0.5, optimizer="sgd", learning_rate=0.1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(np.random.randint(2**32))


def normal(rng: np.random.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def two_views(rng: np.random.Generator, n: int, p: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Projections of two views, somewhat alike, of very different norms."""
    common, norms = normal(rng, n, p), torch.from_numpy(10 ** rng.uniform(-4, 4, (2, n, 1)))
    return tuple(((common + normal(rng, n, p)) * norms[view]).to(dtype) for view in range(2))


def unit_rows(*parts: Tensor) -> list[list[float]]:
    rows = [row for part in parts for row in part.double().tolist()]
    return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def squared_distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def looped_pairs(z_a: Tensor, z_b: Tensor) -> tuple[list[float], list[float]]:
    n, rows, positives, others = len(z_a), unit_rows(z_a, z_b), [], []
    for i in range(2 * n):
        for j in range(i):
            (positives if i - j == n else others).append(cosine(rows[i], rows[j]))
    return positives, others


def looped_accuracy(z_a: Tensor, z_b: Tensor) -> float:
    n, rows, hits = len(z_a), unit_rows(z_a, z_b), 0
    for i in range(2 * n):
        partner = i + n if i < n else i - n
        negatives = [cosine(rows[i], rows[j]) for j in range(2 * n) if j not in (i, partner)]
        hits += cosine(rows[i], rows[partner]) > max(negatives)
    return hits / (2 * n)


def looped_deviation(z: Tensor) -> float:
    columns = list(zip(*unit_rows(z), strict=True))
    deviations = [math.sqrt(sum((x - sum(c) / len(c)) ** 2 for x in c) / len(c)) for c in columns]
    return sum(deviations) / len(columns) * math.sqrt(len(columns))


def looped_uniformity(z: Tensor) -> float:
    rows = unit_rows(z)
    potentials = [math.exp(-2 * squared_distance(rows[i], rows[j])) for i in range(len(rows)) for j in range(i)]
    return math.log(sum(potentials) / len(potentials))


def rank_of_shares(*values: float) -> float:
    shares = [value / sum(values) for value in values]
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "p"), SIZES)
def test_readings_of_projections_are_those_of_plain_loops(rng, n, p, dtype):
    z_a, z_b = two_views(rng, n, p, dtype)
    z, close = torch.cat([z_a, z_b]), lambda value: pytest.approx(value, rel=1e-9, abs=1e-12)
    positives, others = readings.similarities(z_a, z_b)
    expected_positives, expected_others = looped_pairs(z_a, z_b)
    assert positives.dtype == others.dtype == torch.float64
    assert sorted(positives.tolist()) == close(sorted(expected_positives))
    assert sorted(others.tolist()) == close(sorted(expected_others))
    between = [squared_distance(*pair) for pair in zip(unit_rows(z_a), unit_rows(z_b), strict=True)]
    assert readings.alignment(z_a, z_b) == close(sum(between) / n)
    assert readings.uniformity(z) == close(looped_uniformity(z))
    assert readings.deviation(z) == pytest.approx(looped_deviation(z), rel=1e-9, abs=1e-8)
    assert readings.effective_rank(z) == close(rank_of_shares(*np.linalg.svd(z.double().numpy(), compute_uv=False)))
    if p > 1:  # in one dimension all is tied
        assert readings.contrastive_accuracy(z_a, z_b) == close(looped_accuracy(z_a, z_b))


@pytest.mark.slow
@pytest.mark.parametrize("repeat", range(20))
def test_readings_of_fresh_projections_are_those_of_plain_loops(rng, repeat):
    n, p = rng.integers(2, 30, 2).tolist()
    print(f"{repeat}: {n} images, {p} dimensions, {rng.bit_generator.state}")  # pytest shows it where the test fails
    for dtype in (torch.float32, torch.float64):
        test_readings_of_projections_are_those_of_plain_loops(rng, n, p, dtype)
    test_color_reading_is_that_of_plain_loops(rng, max(n, 8), 3, torch.float64)
    test_the_histograms_count_every_pair_once(rng)


def test_a_positive_is_never_among_the_others(rng):
    n = 9
    z = torch.eye(n, dtype=torch.float64)  # two views agree wholly, two images not at all: the value says which it is
    positives, others = readings.similarities(z, z * torch.from_numpy(rng.uniform(1, 9, (n, 1))))
    assert positives.tolist() == pytest.approx([1] * n)
    assert others.tolist() == pytest.approx([0] * (2 * n * (n - 1)), abs=1e-12)


def whole_reading(z_a: Tensor, z_b: Tensor, h: Tensor, palette: Tensor, order: list[int]) -> dict[str, float]:
    got = readings.reading(z_a[order], z_b[order], h[order], palette[order])
    return {name: value for name, value in got.items() if not isinstance(value, list)}


def test_neither_the_scale_nor_the_order_of_images_nor_of_views_matters(rng):
    n = 11
    z_a, z_b = two_views(rng, n, 6)
    h, palette = normal(rng, n, 5), readings.palettes(few_colors(rng, n))
    order, scales = list(range(n)), torch.from_numpy(10 ** rng.uniform(-5, 5, (2, n, 1)))
    expected = whole_reading(z_a, z_b, h, palette, order)
    shuffled = whole_reading(z_a, z_b, h, palette, rng.permutation(n).tolist())
    swapped = whole_reading(z_b, z_a, 1e-6 * h, palette, order)
    assert shuffled == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert swapped == pytest.approx(expected, rel=1e-9, abs=1e-9)
    scaled = whole_reading(z_a * scales[0], z_b * scales[1], h, palette, order)
    del scaled["effective_rank_z"], expected["effective_rank_z"]  # of z as it is, whose rows have norms
    assert scaled == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_effective_rank_is_of_the_singular_values_not_of_their_squares():
    assert readings.effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(rank_of_shares(3, 1))
    assert readings.effective_rank(torch.eye(7)[:, :5] * 40) == pytest.approx(5)
    assert readings.effective_rank(torch.zeros(4, 3)) == 1  # no direction at all, and no NaN


# Collapsed, and the reverse: what theory says of each.


@pytest.mark.parametrize("p", [2, 7, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_at_one_point_is_no_spread_one_direction_and_no_positive_found(rng, p, dtype):
    z = normal(rng, 1, p, dtype=dtype).repeat(30, 1)
    assert readings.deviation(z) == pytest.approx(0, abs=1e-6)
    assert readings.uniformity(z) == pytest.approx(0, abs=1e-12)
    assert readings.effective_rank(z) == pytest.approx(1, abs=1e-6)
    assert readings.contrastive_accuracy(z[:15], z[15:]) == 0  # every negative ties with the positive
    assert readings.alignment(z[:15], z[15:]) == pytest.approx(0, abs=1e-12)


def test_a_line_through_0_has_one_direction_however_it_spreads():
    n, p = 20, 16
    sign = torch.tensor([1.0, -1.0]).repeat(n // 2)[:, None]
    z = sign * torch.linspace(0.5, 3, n)[:, None] * torch.ones(p)  # normalised: +1 or -1 times 1 / sqrt(p), evenly
    assert readings.effective_rank(z) == pytest.approx(1, abs=1e-6)
    assert readings.deviation(z) == pytest.approx(1)  # which the deviation alone would take for health
    alike, opposite = n / 2 * (n / 2 - 1), n**2 / 4  # pairs, at distances 0 and 2
    assert readings.uniformity(z) == pytest.approx(math.log((alike + opposite * math.exp(-8)) / (alike + opposite)))


def test_a_line_beside_0_has_two_directions():
    t = torch.tensor([-1.0, 1.0]).repeat(6)
    beside = torch.stack([torch.full_like(t, 2.0), t], dim=1)  # columns at right angles, of norms in ratio 2 to 1
    assert readings.effective_rank(beside) == pytest.approx(rank_of_shares(2, 1))


@pytest.mark.parametrize("p", [2, 8, 128])
def test_an_even_spread_over_the_sphere_has_the_values_of_its_closed_forms(rng, p):
    n = 1000
    z_a, z_b = normal(rng, n, p), normal(rng, n, p)
    z = torch.cat([z_a, z_b])
    # The mean of exp(k cos) over the sphere is 0F1(p / 2; k^2 / 4) (von Mises and Fisher's constant); d^2 = 2 - 2 cos.
    assert readings.uniformity(z) == pytest.approx(-4 + math.log(hyp0f1(p / 2, 4)), abs=0.03)
    assert readings.deviation(z) == pytest.approx(1, abs=0.02)
    _, others = readings.similarities(z_a, z_b)
    assert others.mean().item() == pytest.approx(0, abs=0.01)
    assert others.var().item() == pytest.approx(1 / p, rel=0.05)
    assert readings.alignment(z_a, z_b) == pytest.approx(2, abs=0.2)  # views without relation
    assert readings.contrastive_accuracy(z_a, z_b) < 0.02  # chance is 1 / (2n - 1)


@pytest.mark.parametrize(("n", "d"), [(3000, 12), (12, 3000)])
def test_noise_in_all_directions_has_nearly_the_full_rank(rng, n, d):
    assert 11.8 < readings.effective_rank(normal(rng, n, d)) <= 12


def test_alignment_goes_from_one_point_to_opposite_ones(rng):
    z = normal(rng, 10, 5)
    assert readings.alignment(z, 3 * z) == pytest.approx(0, abs=1e-12)
    assert readings.alignment(z, -0.2 * z) == pytest.approx(4)
    assert readings.similarities(z, 3 * z)[0].tolist() == pytest.approx([1] * 10)
    assert readings.contrastive_accuracy(z, 3 * z) == 1


def at_angles(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_contrastive_accuracy_by_hand():
    # Anchors 0, 90 and 10 have their partners (10, 40, 0) nearest; 40 has 90 at 50 degrees but 10 at 30.
    assert readings.contrastive_accuracy(at_angles(0, 90), at_angles(10, 40)) == 3 / 4
    # A third image: 200 has 300 at 100 and 90 at 110, a hit; 300 has 200 at 100 but 0 at 60, a miss.
    assert readings.contrastive_accuracy(at_angles(0, 90, 200), at_angles(10, 40, 300)) == 4 / 6


def test_a_tie_with_a_negative_is_a_miss():
    e = torch.eye(2)
    assert readings.contrastive_accuracy(e[[0, 0]], e[[0, 1]]) == 0
    e = torch.eye(4)
    assert readings.contrastive_accuracy(e[[0, 0, 2]], e[[0, 1, 2]]) == 2 / 6  # the third image's views are found


# Colour.


def few_colors(rng: np.random.Generator, n: int, side: int = 8) -> Tensor:
    """Images of a handful of colours each, so that their palettes overlap. With 64 pixels all shares are exact."""
    colors = rng.integers(0, 256, (6, 3))
    weights = rng.dirichlet(np.ones(6), n)
    picks = np.stack([rng.choice(6, (side, side), p=weight) for weight in weights])
    return torch.from_numpy(colors[picks]).permute(0, 3, 1, 2).to(torch.uint8)


def counted_palette(image: Tensor) -> Counter:
    """Share of each colour: (red, green, blue) in fifths of the range, in whole numbers."""
    pixels = image.flatten(1).T.tolist()
    counts = Counter(tuple(min(value * 5 // 255, 4) for value in pixel) for pixel in pixels)
    return Counter({color: count / len(pixels) for color, count in counts.items()})


def looped_similarity(images: Tensor) -> np.ndarray:
    counted = [counted_palette(image) for image in images]
    return np.array([[sum((a & b).values()) for a in counted] for b in counted])


def solid(*rgb: float, side: int = 4) -> Tensor:
    return torch.tensor(rgb).float()[:, None, None].expand(3, side, side).clone()


def test_contrast_is_the_median_deviation_of_the_channel_that_deviates_most(rng):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 5, 4), np.uint8))
    images[2] = 9  # one colour
    images[4, :2], images[4, 2] = 0, torch.arange(20).reshape(5, 4)  # blue alone differs
    by_hand = []
    for image in images.tolist():
        deviations = []
        for channel in image:
            values = [value for row in channel for value in row]
            mean = sum(values) / len(values)
            deviations.append(math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)))
        by_hand.append(max(deviations))
    assert readings.contrast(images) == pytest.approx(sorted(by_hand)[3], rel=1e-5)
    assert readings.contrast(images[2:3]) == 0
    assert readings.contrast(images[4:5]) == pytest.approx(math.sqrt((20**2 - 1) / 12), rel=1e-5)
    halves = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 3, 2, 1)
    assert readings.contrast(halves) == 127.5
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[None, :, None, None].expand(3, 3, 4, 4)
    assert readings.contrast(red) == 0  # channels that differ are a colour
    assert readings.contrast(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)) == 0


def test_palettes_of_plain_images():
    red, blue = solid(1, 0, 0), solid(0, 0, 1)
    half = red.clone()
    half[:, :, 2:] = blue[:, :, 2:]
    palette = readings.palettes(torch.stack([red, blue, half, half.flip(2), half.mT]))
    assert palette.shape == (5, 125)
    assert [sorted(row[row > 0].tolist()) for row in palette] == [[1], [1], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    assert (palette[2] == (palette[0] + palette[1]) / 2).all()
    assert torch.equal(palette[2], palette[3])  # places do not count
    assert torch.equal(palette[2], palette[4])
    expected = [[1, 0, 0.5], [0, 1, 0.5], [0.5, 0.5, 1]]
    assert readings.palette_similarity(palette[:3]).tolist() == expected


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_each_channel_has_five_even_levels_with_black_and_white_among_them(channel):
    values = torch.arange(256, dtype=torch.uint8)
    images = torch.full((256, 3, 1, 1), 100, dtype=torch.uint8)
    images[:, channel, 0, 0] = values
    together = readings.palette_similarity(readings.palettes(images))
    level = torch.tensor([min(5 * v // 255, 4) for v in range(256)])
    assert torch.equal(together, (level[:, None] == level).float())
    borders = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])[:, None, None, None].expand(6, 3, 2, 2)
    alike = readings.palette_similarity(readings.palettes(borders))
    assert torch.equal(alike.diagonal(1), torch.tensor([0.0, 0, 0, 0, 1]))  # 1.0 is of the last level, with 0.8


def test_125_colors_are_told_apart():
    middles = torch.cartesian_prod(*[torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])] * 3)
    palette = readings.palettes(middles[:, :, None, None])
    assert torch.equal(readings.palette_similarity(palette), torch.eye(125))


def test_palettes_are_those_of_counting_and_alike_for_bytes_and_floats(rng):
    images = torch.cat([few_colors(rng, 6), torch.from_numpy(rng.integers(0, 256, (6, 3, 8, 8), np.uint8))])
    palette = readings.palettes(images)
    assert torch.equal(palette, readings.palettes(images.float() / 255))
    assert torch.equal(palette, readings.palettes(images.double() / 255))
    torch.testing.assert_close(palette.sum(1), torch.ones(12))
    np.testing.assert_allclose(readings.palette_similarity(palette), looped_similarity(images), atol=1e-6)


def average_ranks(values: np.ndarray) -> np.ndarray:
    return (values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2


def looped_color_reading(h: Tensor, images: Tensor, k: int) -> tuple[float, float]:
    n, rows, by_color = len(h), unit_rows(h), looped_similarity(images)
    by_h = np.array([[cosine(a, b) for a in rows] for b in rows])

    def near(table: np.ndarray) -> float:
        found = []
        for i in range(n):
            others = sorted((j for j in range(n) if j != i), key=lambda j: -table[i, j])
            found += [by_color[i, j] for j in others[:k]]
        return sum(found) / len(found)

    pairs = [(i, j) for i in range(n) for j in range(i)]
    of_h, of_color = (np.array([table[pair] for pair in pairs]) for table in (by_h, by_color))
    random = of_color.mean()
    agreement = (near(by_h) - random) / (near(by_color) - random)
    return agreement, np.corrcoef(average_ranks(of_h), average_ranks(of_color))[0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "k"), [(4, 1), (14, 3), (14, 5)])
def test_color_reading_is_that_of_plain_loops(rng, n, k, dtype):
    images, h = few_colors(rng, n), (normal(rng, n, 6) * 10 ** rng.uniform(-4, 4)).to(dtype)
    got = readings.color_reading(h, readings.palettes(images), k)
    agreement, following = looped_color_reading(h, images, k)
    assert got == pytest.approx({"color_agreement": agreement, "color_following": following}, rel=1e-5, abs=1e-5)


def test_five_neighbors_are_compared_unless_told_otherwise_or_there_are_fewer(rng):
    images, h = few_colors(rng, 12), normal(rng, 12, 4)
    palette = readings.palettes(images)
    assert readings.color_reading(h, palette) == readings.color_reading(h, palette, k=5)
    assert readings.color_reading(h, palette) != readings.color_reading(h, palette, k=2)
    assert readings.color_reading(h[:4], palette[:4]) == readings.color_reading(h[:4], palette[:4], k=3)


def test_an_embedding_in_the_order_of_color_alone_has_agreement_and_following_1():
    shares = torch.tensor([0, 1, 2, 4, 7, 11, 13, 20, 27, 35, 44, 53, 64])  # of red among 64 pixels; the rest is blue
    red = torch.arange(64) < shares[:, None]
    images = torch.stack([red, torch.zeros_like(red), ~red], dim=1).unflatten(2, (8, 8)).float()
    # Two palettes have 1 - |difference of shares| in common, which the cosine of the angle between follows.
    h = at_angles(*(shares * 45 / 64).tolist())
    got = readings.color_reading(h, readings.palettes(images))
    assert got == pytest.approx({"color_agreement": 1, "color_following": 1}, abs=2e-3)  # but for ties in the one


def test_the_palette_as_embedding_follows_color_and_noise_does_not(rng):
    images = generate("test", seed=int(rng.integers(1000)))[0][:256]
    palette = readings.palettes(images)
    by_palette, by_noise = (readings.color_reading(h, palette) for h in (palette, normal(rng, 256, 64)))
    assert by_palette["color_agreement"] > 0.9
    assert by_palette["color_following"] > 0.8
    assert by_noise["color_agreement"] == pytest.approx(0, abs=0.1)
    assert by_noise["color_following"] == pytest.approx(0, abs=0.1)


@pytest.mark.filterwarnings("error")  # as a correlation of constants would give
def test_where_color_cannot_be_told_it_reads_0(rng):
    one_palette = readings.palettes(solid(0.2, 0.5, 0.9).repeat(20, 1, 1, 1))
    nothing = {"color_agreement": 0.0, "color_following": 0.0}
    assert readings.color_reading(normal(rng, 20, 8), one_palette) == nothing
    assert readings.color_reading(torch.ones(20, 8), one_palette) == nothing


@pytest.mark.filterwarnings("error")
def test_one_embedding_for_all_images_says_nothing_of_color(rng):
    palette = readings.palettes(torch.cat([few_colors(rng, 10), solid(0, 0, 0, side=8).byte().repeat(10, 1, 1, 1)]))
    one = normal(rng, 1, 8).repeat(20, 1)
    assert readings.color_reading(one, palette) == {"color_agreement": 0.0, "color_following": 0.0}


# The whole reading.


def test_a_reading_has_every_number_in_its_place(rng):
    z_a, z_b = two_views(rng, 8, 5)
    images, h = few_colors(rng, 8), normal(rng, 8, 7)
    agreement, following = looped_color_reading(h, images, 5)
    positives, others = map(np.array, looped_pairs(z_a, z_b))
    z = torch.cat([z_a, z_b])
    expected = {
        "finite": True,
        "positive_mean": positives.mean(),
        "other_mean": others.mean(),
        "alignment": (2 - 2 * positives).mean(),
        "uniformity": (looped_uniformity(z_a) + looped_uniformity(z_b)) / 2,
        "deviation": looped_deviation(z),
        "effective_rank_z": rank_of_shares(*np.linalg.svd(z.numpy(), compute_uv=False)),
        "effective_rank_h": rank_of_shares(*np.linalg.svd(h.numpy(), compute_uv=False)),
        "contrastive_accuracy": looped_accuracy(z_a, z_b),
        "color_agreement": agreement,
        "color_following": following,
    }
    got = readings.reading(z_a, z_b, h, readings.palettes(images))
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert all(type(got[name]) in (bool, float) for name in expected)
    assert set(got) == {*expected, "positives", "others"}
    json.dumps(got)


def test_the_histograms_count_every_pair_once(rng):
    z_a, z_b = two_views(rng, 24, 5)
    got = readings.reading(z_a, z_b, z_a, readings.palettes(few_colors(rng, 24)))
    for name, cosines in zip(("positives", "others"), looped_pairs(z_a, z_b), strict=True):
        assert len(cosines) == sum(got[name]) == {"positives": 24, "others": 2 * 24 * 23}[name]
        assert max(cosines) - min(cosines) > 0.5  # over more than ten bins
        assert got[name] == np.histogram(cosines, 40, (-1, 1))[0].tolist()


@pytest.mark.parametrize("sign", [1, -1])
def test_pairs_that_round_beyond_1_are_counted_too(rng, sign):
    beyond, palette = 0, readings.palettes(few_colors(rng, 16))
    for _ in range(20):
        z = normal(rng, 1, 33).repeat(16, 1)
        positives, others = readings.similarities(z, sign * z)
        beyond += int((positives.abs() > 1).sum() + (others.abs() > 1).sum())
        got = readings.reading(z, sign * z, z, palette)
        assert got["positives"] == ([0] * 39 + [16] if sign == 1 else [16] + [0] * 39)
        assert sum(got["others"]) == got["others"][0] + got["others"][-1] == 2 * 16 * 15
    assert beyond  # there was such a pair


@pytest.mark.parametrize("which", ["z_a", "z_b", "h"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_said_and_nothing_else(rng, which, value):
    rows = {name: normal(rng, 6, 4) for name in ("z_a", "z_b", "h")}
    rows[which][3, 2] = value
    assert readings.reading(**rows, palette=readings.palettes(few_colors(rng, 6))) == {"finite": False}


# Alarms.


def ringing(setting: dict | None = None, loss: float = LOSS, **reading) -> dict[str, str]:
    return health.alarms({**HEALTHY, **reading}, loss, RunConfig(**{**SETTING, **(setting or {})}))


def test_a_healthy_reading_rings_nothing():
    assert ringing() == {}


@pytest.mark.parametrize(
    ("name", "beyond", "before"),
    [
        ("collapse", {"deviation": 0.0999}, {"deviation": 0.1001}),
        ("collapse", {"effective_rank_z": 1.99}, {"effective_rank_z": 2.0}),
        ("alike", {"positive_mean": 0.1499}, {"positive_mean": 0.1501}),
        ("alike", {"other_mean": 0.7501}, {"other_mean": 0.7499}),
        ("alike", {"other_mean": 0.9}, {"other_mean": -0.9}),
        ("color", {"color_agreement": 0.51, "color_following": 0.51}, {"color_agreement": 0.51}),
        ("color", {"color_agreement": 0.9, "color_following": 0.51}, {"color_agreement": 0.9, "color_following": 0.5}),
        ("color", {"color_agreement": 0.51, "color_following": 0.9}, {"color_agreement": 0.5, "color_following": 0.9}),
    ],
)
def test_an_alarm_rings_just_beyond_its_threshold_and_not_before(name, beyond, before):
    assert list(ringing(**beyond)) == [name]
    assert ringing(**before) == {}


@pytest.mark.parametrize(("batch_size", "temperature"), [(4, 0.5), (8, 0.1), (6, 2.0)])
def test_chance_is_within_a_fiftieth_of_guessing_on_the_way_to_telling_all_apart(batch_size, temperature):
    one_point, all_apart = torch.ones(batch_size, 3, dtype=torch.float64), torch.eye(batch_size, dtype=torch.float64)
    guessing, best = (loop_nt_xent(z, z, temperature).item() for z in (one_point, all_apart))
    setting = {"batch_size": batch_size, "temperature": temperature, "learning_rate": 0.1 * batch_size / 256}
    beyond, before = (guessing - share * (guessing - best) for share in (0.0199, 0.0201))
    for loss in (beyond, guessing, guessing + 1):
        assert list(ringing(setting, loss)) == ["chance"]
    for loss in (before, best):
        assert ringing(setting, loss) == {}
    text = ringing(setting, beyond)["chance"]
    for expected in (f"{beyond:.3f}", f"{guessing:.3f}", f"{best:.2f}", "views differ", "learning_rate", "warm-up"):
        assert expected in text


@pytest.mark.parametrize(("optimizer", "at_256"), [("sgd", 0.1), ("lars", 0.3), ("adamw", 1.5e-4)])
@pytest.mark.parametrize("batch_size", [64, 256, 4096])
def test_the_learning_rate_may_be_ten_times_off_the_rule_of_its_optimizer(optimizer, at_256, batch_size):
    rule = at_256 * batch_size / 256
    setting, loss = {"optimizer": optimizer, "batch_size": batch_size}, math.log(batch_size)
    for factor, rings in ((0, 1), (0.099, 1), (0.101, 0), (1, 0), (9.9, 0), (10.1, 1), (1e9, 1)):
        names = list(ringing({**setting, "learning_rate": rule * factor}, loss))
        assert names == ["learning rate"] * rings, factor
    by_scaling = {**setting, "learning_rate": at_256, "lr_scaling": "linear"}
    assert ringing(by_scaling, loss) == {}
    text = ringing({**setting, "learning_rate": 100 * rule}, loss)["learning rate"]
    for expected in (f"{100 * rule:g}", f"{rule:g}", f"{at_256:g}", optimizer, f"{batch_size:,}", "lr_scaling"):
        assert expected in text


@pytest.mark.parametrize("batch_size", [16, 256, 4096])
def test_under_square_root_scaling_the_rule_is_that_of_square_roots(batch_size):
    setting, loss = {"optimizer": "lars", "batch_size": batch_size, "lr_scaling": "sqrt"}, math.log(batch_size)
    assert ringing({**setting, "learning_rate": 0.075}, loss) == {}  # SimCLR's own, times sqrt(batch)
    at_one = 0.3 / 16  # the rule at a batch of one
    for factor, rings in ((0.099, 1), (0.101, 0), (9.9, 0), (10.1, 1)):
        names = list(ringing({**setting, "learning_rate": at_one * factor}, loss))
        assert names == ["learning rate"] * rings, factor
    text = ringing({**setting, "learning_rate": 100 * at_one}, loss)["learning rate"]
    assert "0.3 x sqrt(batch / 256)" in text
    assert f"{at_one * math.sqrt(batch_size):g}" in text


@pytest.mark.parametrize(
    ("reading", "name", "told"),
    [
        ({"deviation": 0.0425}, "collapse", ["0.04", "20.0", "learning_rate", "warmup_epochs", "norm", "batches"]),
        ({"positive_mean": 0.973, "other_mean": 0.957}, "alike", ["0.973", "0.957", "augmentation", "temperature"]),
        ({"color_agreement": 0.83, "color_following": 0.71}, "color", ["83%", "0.71", "Raise color_strength"]),
    ],
)
def test_an_alarm_says_its_figures_and_its_remedy(reading, name, told):
    text = ringing(**reading)[name]
    assert [expected for expected in told if expected not in text] == []


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_what_is_not_finite_rings_alone(loss):
    config = RunConfig(**SETTING)
    of_loss = ringing(loss=loss, deviation=0.0)
    of_embedding = health.alarms({"finite": False}, LOSS, config)
    of_both = health.alarms({"finite": False}, loss, config)
    for alarms in (of_loss, of_embedding, of_both):
        assert list(alarms) == ["non-finite"]
        assert "learning_rate" in alarms["non-finite"]
        assert "warmup_epochs" in alarms["non-finite"]
    assert "loss" in of_loss["non-finite"]
    assert "embedding" in of_embedding["non-finite"]


def point(rng):
    z = normal(rng, 1, 16).repeat(60, 1)
    return z, z


def line(rng):
    z = torch.tensor([[1.0], [-1.0]]).repeat(30, 1) * normal(rng, 1, 16).sign()
    return z, 2 * z


def plane(rng):
    z = normal(rng, 60, 2) @ normal(rng, 2, 16)
    return z, z


def unrelated(rng):  # of so many dimensions that the positives' mean is within 0.05 of 0 at six deviations
    return normal(rng, 60, 256), normal(rng, 60, 256)


def related(rng):
    z = normal(rng, 60, 16)
    return z, z + 0.3 * normal(rng, 60, 16)


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        (point, ["collapse", "alike"]),
        (line, ["collapse"]),  # it tells images apart, but in two kinds only
        (plane, ["collapse"]),  # whose two directions are never quite even
        (unrelated, ["alike"]),
        (related, []),
    ],
)
def test_constructed_projections_ring_what_they_are(rng, views, expected):
    reading = readings.reading(*views(rng), normal(rng, 60, 16), readings.palettes(few_colors(rng, 60)))
    assert list(health.alarms(reading, LOSS, RunConfig(**SETTING))) == expected


def test_an_embedding_of_color_alone_rings_color_and_one_of_color_among_much_else_does_not(rng):
    palette = readings.palettes(few_colors(rng, 60))
    color = palette.double() - palette.double().mean(0)
    for h, expected in ((color, ["color"]), (color + 2 * normal(rng, *color.shape), [])):
        reading = readings.reading(*related(rng), h, palette)
        assert list(health.alarms(reading, LOSS, RunConfig(**SETTING))) == expected, reading
