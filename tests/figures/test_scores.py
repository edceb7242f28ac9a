"""What the figures that compare encoders show, and that a reader can read them."""

import math

import numpy as np
import pytest
from figure_reading import ENCODERS, assert_legible
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import BarContainer, ErrorbarContainer
from pandas import DataFrame, Series

from simclr_lib.figures.scores import score_bars

CALTECH = ["BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "gerenuk", "inline_skate", "windsor_chair"]
SCORES = DataFrame(
    {"untrained": [0.61, 0.11], "without colour": [0.2, 0.92], "with colour": [1.0, 0.0]}, index=["class", "colour"]
)


def bars_of(axes):
    """Name of the encoder -> the width of its bar, from the top to the bottom."""
    (bars,) = (part for part in axes.containers if isinstance(part, BarContainer))
    names = {round(y): label.get_text() for y, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    found = sorted(
        ((bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in bars), reverse=not axes.yaxis_inverted()
    )
    return {names[round(y)]: width for y, width in found}


def values_of(axes):
    """The values that are printed, from the top to the bottom."""
    texts = sorted(axes.texts, key=lambda text: text.xy[1], reverse=not axes.yaxis_inverted())
    return [text.get_text() for text in texts]


def chance_of(axes):
    return [line.get_xdata()[0] for line in axes.lines if line.is_dashed()]


def test_score_bars_are_the_rows_of_the_table_with_their_values_and_chance():
    figure = score_bars(SCORES, "kNN accuracy", chance=Series({"colour": 0.125, "class": 0.1}))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["class", "colour"]
    for axes, (metric, row) in zip(figure.axes, SCORES.iterrows(), strict=True):
        assert list(bars_of(axes).items()) == list(row.items())
        assert values_of(axes) == [f"{value:.3f}" for value in row]
        assert chance_of(axes) == [{"class": 0.1, "colour": 0.125}[metric]]
        assert axes.get_title(loc="right") == f"dashed: chance, {chance_of(axes)[0]:.3f}"
        assert axes.get_xlim()[0] == 0
        assert axes.get_xlim()[1] > 1
    assert_legible(figure)


def test_a_correlation_below_0_has_its_bar_and_its_value_to_the_left():
    figure = score_bars(DataFrame({"h": [-0.25], "z": [0.5]}, index=["following colour"]), "Colour")
    (axes,) = figure.axes
    assert bars_of(axes) == {"h": -0.25, "z": 0.5}
    assert axes.get_xlim()[0] < -1
    assert_legible(figure)
    places = {text.get_text(): text.get_window_extent() for text in axes.texts}
    ends = {value: axes.transData.transform((value, 0))[0] for value in (-0.25, 0.5)}
    assert places["-0.250"].x1 < ends[-0.25] < ends[0.5] < places["0.500"].x0


@pytest.mark.parametrize(
    ("chance", "lines"),
    [
        (None, [[], []]),
        (Series({"class": 0.02, "colour": 0.97}), [[0.02], [0.97]]),
        (Series({"class": 0.5, "colour": math.nan}), [[0.5], []]),
        (Series({"class": 0.5}), [[0.5], []]),
    ],
)
def test_score_bars_are_legible_wherever_chance_is(chance, lines):
    figure = score_bars(SCORES, chance=chance)
    assert [chance_of(axes) for axes in figure.axes] == lines
    assert [bool(axes.get_title(loc="right")) for axes in figure.axes] == [bool(at) for at in lines]
    assert_legible(figure)


def test_where_there_is_no_score_there_is_no_bar_and_colours_stay():
    table = DataFrame({"x": [0.1, math.nan], "y": [0.2, 0.3], "z": [0.4, math.nan]}, index=["a", "b"])
    figure = score_bars(table)
    upper, lower = (axes.patches for axes in figure.axes)
    assert np.isnan([bar.get_width() for bar in lower]).tolist() == [True, False, True]
    assert values_of(figure.axes[1]) == ["", "0.300", ""]
    assert upper[1].get_facecolor() == lower[1].get_facecolor()
    assert len({bar.get_facecolor() for bar in upper}) == 3
    assert_legible(figure)


def test_deviations_are_error_bars_and_the_values_stay_off_them():
    deviations = DataFrame(
        {"untrained": [0.05, math.nan], "without colour": [0.02, 0.01], "with colour": math.nan}, SCORES.index
    )
    figure = score_bars(SCORES, "With deviations", deviations=deviations)
    FigureCanvasAgg(figure).draw()
    for axes, (metric, row) in zip(figure.axes, SCORES.iterrows(), strict=True):
        (bars,) = (part for part in axes.containers if isinstance(part, ErrorbarContainer))
        (lines,) = bars.lines[2]
        ends = [segment[:, 0].tolist() for segment in lines.get_segments()]
        around = [
            value + deviation * np.array([-1, 1])
            for value, deviation in zip(row, deviations.loc[metric].fillna(0), strict=True)
        ]
        np.testing.assert_allclose(ends, around)
        for text, (_, end) in zip(axes.texts, around, strict=True):
            assert text.get_window_extent().x0 > axes.transData.transform((end, 0))[0]
        assert values_of(axes) == [f"{value:.3f}" for value in row]
    assert_legible(figure)


def test_more_encoders_than_colours_and_long_names_are_legible():
    table = DataFrame(np.linspace(0, 1, 16).reshape(2, 8), ["a", "b"], [*ENCODERS, "another", "one more"])
    assert_legible(score_bars(table, "Many", Series({"a": 0.3, "b": 0.6}), table * 0.1))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: score_bars(DataFrame()), r"scores: .*at least one"),
        (lambda: score_bars(DataFrame({"h": [math.nan]})), r"scores: .*at least one"),
        (lambda: score_bars(DataFrame({"x": [61.0]}, index=["a"])), r"scores: .*61.0; divide percentages by 100"),
    ],
)
def test_figures_say_what_they_expect(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
