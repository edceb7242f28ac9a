"""What the figures of numbers show, and that a reader can read them."""

import numpy as np
import pytest
from diagrams import curves, error_dots, histograms
from figure_reading import assert_legible, texts_of
from matplotlib import colors

ERRORS = {
    "convnet, float64": {"micro-batches of 4": 2e-15, "2 processes": 0.0, "control: plain accumulation": 0.46},
    "vit, float32": {"micro-batches of 4": 3e-6, "control: plain accumulation": 1.8},
}
TOLERANCES = {"float64": 1e-10, "float32": 1e-4}


def samples(count, size=500):
    rng = np.random.default_rng(0)
    return {f"quantity {index} (px)": (rng.uniform(0.1, 2, size), 0.1, 2) for index in range(count)}


def test_errors_stand_at_their_value_in_the_row_of_their_way():
    (axes,) = error_dots(ERRORS, TOLERANCES, "Gradient of a split step").axes
    dots, tolerances = axes.lines[:2], axes.lines[2:]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ERRORS["convnet, float64"])
    np.testing.assert_allclose(dots[0].get_xdata(), [2e-15, 1e-17, 0.46])
    np.testing.assert_allclose(dots[1].get_xdata(), [3e-6, 1.8])
    assert [list(np.round(line.get_ydata()).astype(int)) for line in dots] == [[0, 1, 2], [0, 2]]
    assert [line.get_xdata()[0] for line in tolerances] == [1e-10, 1e-4]
    low, high = axes.get_xlim()
    assert low < 1e-17 < 1.8 < high


def test_names_differ_in_more_than_colour():
    for figure in (error_dots(ERRORS, {}), curves({name: ([1, 2], [1, 2]) for name in "abcdef"}, "x", "y")):
        lines = figure.axes[0].lines
        assert len({line.get_marker() for line in lines}) == len(lines)
        assert len({colors.to_hex(line.get_color()) for line in lines}) == len(lines)


@pytest.mark.parametrize("names", [1, 4])
@pytest.mark.parametrize("ways", [1, 6])
def test_errors_are_legible(names, ways):
    rows = {f"2 processes, micro-batches of {way}": 10.0**-way for way in range(ways)}
    figure = error_dots({f"vit, float{name}": rows for name in range(names)}, TOLERANCES, "Split beside whole")
    assert_legible(figure)
    assert len(texts_of(figure)) == 1 + 1 + ways + names + len(TOLERANCES) + 9  # title, axis, ways, names, lines, ticks


def test_curves_go_through_their_points():
    lines = {"recorded": (range(3), [0.5, 1.0, 0.25]), "expected": (np.arange(2), np.array([1.0, 2.0]))}
    figure = curves(lines, "step", "learning rate / peak", "The rate of every step")
    for line, (name, (x, y)) in zip(figure.axes[0].lines, lines.items(), strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_xydata(), np.stack([x, y], axis=1))
    assert_legible(figure)


def test_curves_may_be_on_a_log_scale_that_zeros_leave_alone():
    (axes,) = curves({"drift": ([1, 2, 3], [0.0, 1e-8, 1e-6])}, "step", "relative error", log=True).axes
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert 1e-9 < low < 1e-8 < 1e-6 < high < 1e-5


def test_histograms_are_densities_beside_the_uniform_one():
    values = np.concatenate([np.linspace(0.2, 1.0, 400), np.linspace(1.0, 1.8, 100)])
    (axes,) = histograms({"brightness factor": (values, 0.2, 1.8)}, "Draws").axes
    (uniform,) = axes.lines
    assert max(uniform.get_ydata()) == pytest.approx(1 / 1.6)
    np.testing.assert_allclose(uniform.get_xdata(), [0.2, 0.2, 1.8, 1.8])
    heights = np.array([bar.get_height() for bar in axes.patches])
    assert sum(heights) * axes.patches[0].get_width() == pytest.approx(1)
    assert heights[:12].mean() == pytest.approx(4 * heights[13:].mean(), rel=0.05)


@pytest.mark.parametrize("count", [1, 3, 7, 8])
def test_histograms_are_legible_and_leave_no_empty_axes(count):
    figure = histograms(samples(count), "Draws beside the paper's densities")
    assert_legible(figure)
    assert len(figure.axes) == count
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == ["drawn", "uniform density"]
    assert [axes.get_xlabel() for axes in figure.axes[:count]] == list(samples(count))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: error_dots({}, TOLERANCES), r"errors: .*at least one"),
        (lambda: error_dots({"a": {"x": -0.5}}, {}), r"errors of a: .*at least 0, got {'x': -0.5}"),
        (lambda: error_dots({"a": {"x": float("nan")}}, {}), r"errors of a: .*at least 0"),
        (lambda: curves({}, "x", "y"), r"lines: .*at least one"),
        (lambda: curves({"a": ([1, 2], [1])}, "x", "y"), r"a: .*x and y.*got 2 and 1"),
        (lambda: curves({"a": ([], [])}, "x", "y"), r"a: .*x and y.*got 0 and 0"),
        (lambda: histograms({}), r"samples: .*at least one"),
        (lambda: histograms({"a": ([], 0, 1)}), r"a: .*at least one"),
        (lambda: histograms({"a": ([1.0], 1, 1)}), r"a: .*low.*high, got 1 and 1"),
    ],
)
def test_figures_say_what_they_expect(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
