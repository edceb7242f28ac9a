"""NT-Xent beside the paper's equation in plain loops, a peer, closed forms, and itself under symmetries."""

import math

import pytest
import torch
from torch import Tensor

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


def loop_loss(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    """Equation 1, anchor by anchor, numerator and denominator divided by the numerator."""
    z, n = torch.cat([z_a, z_b]), len(z_a)
    total = z.new_zeros(())
    for i in range(2 * n):
        positive = i + n if i < n else i - n
        similarity = [(z[i] @ z[k]) / (z[i].square().sum() * z[k].square().sum()).sqrt() for k in range(2 * n)]
        others = z.new_zeros(())
        for k in range(2 * n):
            if k not in (i, positive):
                others = others + torch.exp((similarity[k] - similarity[positive]) / temperature)
        total = total + torch.log1p(others)
    return total / (2 * n)


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
    actual, truth = (value_and_gradients(loss, *pair, temperature) for loss in (nt_xent, loop_loss))
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
    truth = value_and_gradients(loop_loss, *(z.double() for z in pair), temperature)
    value, *gradients = relative_errors(value_and_gradients(nt_xent, *pair, temperature), truth)
    assert value <= 1e-6
    assert max(gradients) <= 5e-5


@pytest.mark.parametrize("temperature", [0.05, 0.1])
@pytest.mark.parametrize("seed", [0, 1])
def test_float32_keeps_the_digits_of_the_small_loss_of_aligned_views(seed, temperature):
    pair = projections(8, 16, seed, "aligned", torch.float32)
    truth = value_and_gradients(loop_loss, *(z.double() for z in pair), temperature)
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
    with pytest.raises(ValueError, match="got 2 zero rows of 8: the model has collapsed"):
        nt_xent(z_a, z_b)


@pytest.mark.parametrize(("a", "b"), [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,)), ((2, 4, 3), (2, 4, 3))])
def test_shapes_that_are_not_one_n_by_p_are_refused(a, b):
    with pytest.raises(ValueError, match=r"same shape \(N, P\)"):
        nt_xent(torch.ones(a), torch.ones(b))


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match=r"got \(0, 3\)"):
        nt_xent(torch.ones(0, 3), torch.ones(0, 3))


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.int64, torch.int64)])
def test_mixed_and_integer_dtypes_are_refused(dtypes):
    with pytest.raises(ValueError, match="one floating dtype"):
        nt_xent(*(torch.ones(4, 3, dtype=dtype) for dtype in dtypes))


@pytest.mark.parametrize("temperature", [0, -0.5, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature):
    with pytest.raises(ValueError, match="positive, finite temperature"):
        nt_xent(torch.ones(4, 3), torch.ones(4, 3), temperature)
