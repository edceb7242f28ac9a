"""NT-Xent beside the paper's equation in plain loops, a peer, closed forms, and itself under symmetries."""

import itertools
import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from references import loop_nt_xent
from torch import Tensor

import simclr_lib.loss as module
from simclr_lib.loss import nt_xent

TEMPERATURES = [0.05, 0.1, 0.5, 1.0]
KINDS = ["random", "identical rows"]


def projections(n: int, p: int, seed: int, kind: str = "random", dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Two unlike views' projections; with identical rows, one positive pair is equal, and so are rows across images."""
    generator = torch.Generator().manual_seed(seed)
    z_a, z_b = torch.randn(2, n, p, generator=generator, dtype=torch.float64)
    z_b = 3 * z_b + 0.5
    if kind == "identical rows":
        z_b[0] = z_a[0]
        z_a[n // 2] = z_b[-1] = z_a[1]
    if kind == "aligned":
        z_b = z_a + 0.01 * z_b
    return [z_a.to(dtype), z_b.to(dtype)]


def value_and_gradients(loss, z_a: Tensor, z_b: Tensor, temperature: float) -> list[Tensor]:
    z_a, z_b = (z.clone().requires_grad_() for z in (z_a, z_b))
    value = loss(z_a, z_b, temperature)
    return [value.detach(), *torch.autograd.grad(value, [z_a, z_b])]


def relative_errors(actual: list[Tensor], truth: list[Tensor]) -> list[float]:
    return [((x.double() - y).norm() / y.norm()).item() for x, y in zip(actual, truth, strict=True)]


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "p", "seed"), [(4, 2, 0), (3, 5, 1), (8, 16, 2)])
def test_float64_equals_the_double_loop_to_1e_10(n, p, seed, kind, temperature):
    pair = projections(n, p, seed, kind)
    actual, truth = (value_and_gradients(loss, *pair, temperature) for loss in (nt_xent, loop_nt_xent))
    assert max(relative_errors(actual, truth)) <= 1e-10


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "p", "seed"), [(4, 8, 0), (32, 16, 1), (128, 128, 2)])
def test_float64_equals_lightly_to_1e_10(n, p, seed, kind, temperature):
    peer = pytest.importorskip("lightly.loss", reason="lightly is the peer of this loss")
    pair = projections(n, p, seed, kind)
    actual = value_and_gradients(nt_xent, *pair, temperature)
    truth = value_and_gradients(lambda a, b, t: peer.NTXentLoss(temperature=t)(a, b), *pair, temperature)
    assert max(relative_errors(actual, truth)) <= 1e-10


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "p", "seed"), [(6, 8, 0), (8, 16, 1), (8, 32, 2)])
def test_float32_is_within_1e_6_in_value_and_5e_5_in_gradient(n, p, seed, kind, temperature):
    pair = projections(n, p, seed, kind, torch.float32)
    truth = value_and_gradients(loop_nt_xent, *(z.double() for z in pair), temperature)
    value, *gradients = relative_errors(value_and_gradients(nt_xent, *pair, temperature), truth)
    assert value <= 1e-6
    assert max(gradients) <= 5e-5


@pytest.mark.parametrize("temperature", [0.05, 0.1])
@pytest.mark.parametrize("seed", [0, 1])
def test_float32_keeps_the_digits_of_the_small_loss_of_aligned_views(seed, temperature):
    pair = projections(8, 16, seed, "aligned", torch.float32)
    truth = value_and_gradients(loop_nt_xent, *(z.double() for z in pair), temperature)
    assert truth[0] < 0.05
    # A float32 cosine is off by some 1e-7; divided by the temperature, that is this loss's relative error.
    value, *gradients = relative_errors(value_and_gradients(nt_xent, *pair, temperature), truth)
    assert value <= 1e-5
    assert max(gradients) <= 5e-5


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradients_agree_with_finite_differences(temperature):
    pair = [z.requires_grad_() for z in projections(3, 4, 0)]
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature), pair)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_all_rows_identical_is_chance(n, temperature):
    z = torch.tensor([[0.3, -2.0, 5.0]], dtype=torch.float64).expand(n, 3)
    assert nt_xent(z, 2 * z, temperature).item() == pytest.approx(math.log(2 * n - 1), rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_orthogonal_pairs_have_a_closed_form(n, temperature, sign):
    z = torch.eye(n, dtype=torch.float64)  # a positive at cosine 1 (or -1), 2N - 2 negatives at 0
    expected = math.log1p((2 * n - 2) * math.exp(-sign / temperature))
    assert nt_xent(z, sign * z, temperature).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_image_has_no_negatives_so_loss_and_gradient_are_zero(dtype):
    for part in value_and_gradients(nt_xent, *projections(1, 4, 0, dtype=dtype), 0.5):
        assert (part == 0).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_views_swap_images_permute_and_axes_turn_without_changing_the_loss(seed):
    z_a, z_b = projections(9, 6, seed)
    loss = nt_xent(z_a, z_b, 0.2)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    turn = torch.linalg.qr(z_a[:6])[0]
    for pair in ((z_b, z_a), (z_a[order], z_b[order]), (z_a @ turn, z_b @ turn)):
        torch.testing.assert_close(nt_xent(*pair, 0.2), loss, rtol=1e-12, atol=0)
    assert abs(nt_xent(z_a, z_b.roll(1, 0), 0.2) - loss) > 1e-3  # other pairs, another loss


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_no_scale_of_the_projections_changes_the_float32_loss_or_breaks_its_gradient(scale):
    z_a, z_b = projections(8, 16, 0, dtype=torch.float32)
    loss, gradient, _ = value_and_gradients(nt_xent, z_a, z_b, 0.1)
    scaled, scaled_gradient, other = value_and_gradients(nt_xent, z_a * scale, z_b, 0.1)
    torch.testing.assert_close(scaled, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(scaled_gradient.double() * scale, gradient.double(), rtol=1e-4, atol=1e-6)
    assert other.isfinite().all()
    rows = torch.logspace(-30, 30, 8)[:, None]
    torch.testing.assert_close(nt_xent(z_a * rows, z_b, 0.1), loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_is_perpendicular_to_every_projection(seed):
    z_a, z_b = projections(8, 16, seed)
    _, gradient, _ = value_and_gradients(nt_xent, z_a, z_b, 0.1)
    assert (gradient * z_a).sum(dim=1).abs().max() < 1e-12 < gradient.norm(dim=1).min()


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 1e4), (torch.float16, 1e-4), (torch.bfloat16, 1e30)])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_half_precision_neither_overflows_nor_computes_in_half(dtype, scale, temperature):
    pair = [(z.clamp(-6, 6) * scale).to(dtype) for z in projections(16, 32, 0, "identical rows")]
    loss, *gradients = value_and_gradients(nt_xent, *pair, temperature)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, nt_xent(*(z.float() for z in pair), temperature), rtol=0, atol=0)
    torch.testing.assert_close(loss.double(), nt_xent(*(z.double() for z in pair), temperature), rtol=1e-6, atol=0)
    assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_are_the_float64_ones_rounded(dtype):
    pair = [z.to(dtype) for z in projections(8, 16, 0)]
    truth = value_and_gradients(nt_xent, *(z.double() for z in pair), 0.1)
    errors = relative_errors(value_and_gradients(nt_xent, *pair, 0.1), truth)
    assert max(errors[1:]) <= torch.finfo(dtype).eps


def test_float32_and_float64_stay():
    for dtype in (torch.float32, torch.float64):
        assert nt_xent(*projections(4, 4, 0, dtype=dtype)).dtype == dtype


def test_autocast_around_the_loss_leaves_it_in_float32():
    pair = projections(16, 32, 0, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nt_xent(*pair, 0.05)
    torch.testing.assert_close(inside, nt_xent(*pair, 0.05), rtol=0, atol=0)


def test_the_default_temperature_is_a_half():
    pair = projections(4, 4, 0)
    assert nt_xent(*pair) == nt_xent(*pair, 0.5) != nt_xent(*pair, 0.4)


def test_zero_rows_are_refused_with_their_number():
    z_a, z_b = projections(4, 3, 0)
    z_a[1] = z_b[3] = 0
    with pytest.raises(ValueError, match=r"z: .*got 2 zero rows of 8"):
        nt_xent(z_a, z_b)


@pytest.mark.parametrize(("a", "b"), [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,)), ((2, 4, 3), (2, 4, 3))])
def test_shapes_that_are_not_one_n_by_p_are_refused(a, b):
    with pytest.raises(ValueError, match=r"z_a, z_b: .*\(N, P\).*got " + f".*{re.escape(str(a))}.*{re.escape(str(b))}"):
        nt_xent(torch.ones(a), torch.ones(b))


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match=r"z_a, z_b: .*got \(0, 3\)"):
        nt_xent(torch.ones(0, 3), torch.ones(0, 3))


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.int64, torch.int64)])
def test_mixed_and_integer_dtypes_are_refused(dtypes):
    with pytest.raises(ValueError, match=rf"z_a, z_b: .*dtype.*got .*{dtypes[0]}.*{dtypes[1]}"):
        nt_xent(*(torch.ones(4, 3, dtype=dtype) for dtype in dtypes))


@pytest.mark.parametrize("temperature", [0, -0.5, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature: .*got {temperature}"):
        nt_xent(torch.ones(4, 3), torch.ones(4, 3), temperature)


# In tiles, and in shares


@pytest.mark.parametrize("seed", [0, pytest.param(None, marks=pytest.mark.slow, id="fresh")])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("tile", [1, 5, 16, 26, 1000])
def test_tiles_give_the_dense_value_and_gradient(tile, temperature, kind, seed):
    seed = torch.seed() if seed is None else seed
    pair = projections(13, 8, seed, kind)
    dense = value_and_gradients(nt_xent, *pair, temperature)
    tiled = value_and_gradients(partial(nt_xent, tile=tile), *pair, temperature)
    assert max(relative_errors(tiled, dense)) <= 1e-10, f"seed {seed}"
    value, *gradients = relative_errors(
        value_and_gradients(partial(nt_xent, tile=tile), *(z.float() for z in pair), temperature), dense
    )
    assert value <= 1e-6, f"seed {seed}"
    assert max(gradients) <= 5e-5, f"seed {seed}"


@pytest.mark.parametrize("tile", [None, 3])
@pytest.mark.parametrize("cuts", [[0, 12], [0, 4, 8, 12], [0, 5, 6, 12]])
def test_shares_of_the_anchors_add_up_to_the_whole(cuts, tile):
    pair = projections(12, 8, 0)
    shares = [
        value_and_gradients(partial(nt_xent, anchors=slice(start, stop), tile=tile), *pair, 0.2)
        for start, stop in itertools.pairwise(cuts)
    ]
    summed = [sum(parts) for parts in zip(*shares, strict=True)]
    assert max(relative_errors(summed, value_and_gradients(nt_xent, *pair, 0.2))) <= 1e-12


def test_a_share_is_the_sum_over_its_anchors_of_the_equation():
    z_a, z_b = projections(6, 4, 0)
    z = torch.nn.functional.normalize(torch.cat([z_a, z_b]))
    expected = 0.0
    for anchor in (2, 3, 8, 9):  # images 2 and 3, both views
        others = sum(math.exp(z[anchor] @ z[k] / 0.3) for k in range(12) if k != anchor)
        expected -= math.log(math.exp(z[anchor] @ z[(anchor + 6) % 12] / 0.3) / others)
    assert nt_xent(z_a, z_b, 0.3, anchors=slice(2, 4)).item() == pytest.approx(expected / 12, rel=1e-12)


def test_the_form_is_chosen_by_size(monkeypatch):
    used = []
    for name in ("anchor_losses", "tiled_losses"):
        form = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, form=form: used.append((name, *a[3:])) or form(*a))
    nt_xent(*projections(256, 4, 0))
    nt_xent(*projections(257, 4, 0))
    nt_xent(*projections(512, 4, 0), anchors=slice(0, 128))  # a process's share
    nt_xent(*projections(9, 4, 0), tile=3)
    assert used == [("anchor_losses",), ("tiled_losses", 512), ("anchor_losses",), ("tiled_losses", 3)]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradients_of_tiles_agree_with_finite_differences(temperature):
    pair = [z.requires_grad_() for z in projections(3, 4, 0)]
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature, anchors=slice(0, 2), tile=3), pair)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_image_in_tiles_has_no_negatives_either(dtype):
    for part in value_and_gradients(partial(nt_xent, tile=1), *projections(1, 4, 0, dtype=dtype), 0.5):
        assert (part == 0).all()


def test_autocast_around_tiles_and_their_backward_leaves_them_in_float32():
    pair = projections(16, 32, 0, dtype=torch.float32)
    expected = value_and_gradients(partial(nt_xent, tile=5), *pair, 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value_and_gradients(partial(nt_xent, tile=5), *pair, 0.05)
    assert all(torch.equal(a, b) for a, b in zip(inside, expected, strict=True))


def test_a_tile_below_one_is_refused():
    with pytest.raises(ValueError, match=r"tile: .*got 0"):
        nt_xent(*projections(4, 3, 0), tile=0)


def test_projections_on_two_devices_are_refused():
    with pytest.raises(ValueError, match=r"z_a, z_b: .*device.*got .*cpu.*meta"):
        nt_xent(torch.ones(4, 3), torch.ones(4, 3, device="meta"))


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PEAK = """
import sys, torch
from simclr_lib.loss import nt_xent
sys.path.insert(0, {benchmarks!r})
from memory import peak_of_this_process as peak
nt_xent(*torch.randn(2, 64, 128, requires_grad=True)).backward()
z = torch.randn(2, {n}, 128).requires_grad_()
before = peak()
loss = nt_xent(*z, 0.1)
loss.backward()
assert z.grad.isfinite().all() and z.grad.abs().sum() > 0
print(loss.item(), peak() - before)
"""


def value_and_extra_megabytes(n: int) -> tuple[float, float]:
    """Of the loss and its gradient, beyond the projections themselves, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK.format(n=n, benchmarks=str(BENCHMARKS))], capture_output=True, text=True, check=True
    )
    value, megabytes = map(float, done.stdout.split())
    return value, megabytes


def test_memory_is_that_of_a_tile():
    value, megabytes = value_and_extra_megabytes(6144)  # the logits alone, dense, are 576 MB, several times over
    assert math.log(2 * 6144 - 1) < value < 12
    assert megabytes < 100


@pytest.mark.slow
def test_32768_images_take_less_than_1500_megabytes():
    value, megabytes = value_and_extra_megabytes(32768)  # dense: 17 GB, several times over
    print(f"NT-Xent of 32,768 images: loss {value:.3f}, {megabytes:.0f} MB more than its inputs")
    assert math.log(2 * 32768 - 1) < value < 14
    assert megabytes < 1500
