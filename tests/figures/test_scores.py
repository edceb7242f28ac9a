"""What the figures that compare encoders show, and that a reader can read them."""

import math

import numpy as np
import pytest
from figure_reading import ENCODERS, assert_legible
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import BarContainer, ErrorbarContainer
from pandas import DataFrame, Series

from simclr_lib.figures.scores import class_bars, score_bars

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


def scores_of(classes, encoders=2, seed=0):
    rng = np.random.default_rng(seed)
    names = (CALTECH + [f"class of things number {index}" for index in range(classes)])[:classes]
    return DataFrame({encoder: rng.uniform(0, 1, classes) for encoder in ENCODERS[:encoders]}, index=names)


def rows_of(figure):
    """Name of the class -> its row, as a reader finds it."""
    (axes,) = figure.axes
    labels = [label.get_text().rsplit(maxsplit=1)[0] for label in axes.get_yticklabels()]
    return dict(zip(labels, axes.get_yticks(), strict=True))


def test_classes_stand_best_first_with_the_value_of_the_first_encoder_and_dots_of_the_others():
    scores = DataFrame(
        {
            "trained": {"ant": 0.25, "bass": 1.0, "crab": 0.0, "lotus": 0.5},
            "untrained": {"ant": 0.5, "bass": 0.125, "crab": 1.0, "lotus": 0.0},
            "raw pixels": {"ant": 0.3, "bass": 0.2, "crab": math.nan, "lotus": 0.1},
        }
    )
    chance = Series({"lotus": 0.75, "bass": 0.0, "ant": 0.05})
    figure = class_bars(scores, chance, "Precision")
    (axes,) = figure.axes
    order = ["bass", "lotus", "ant", "crab"]
    assert rows_of(figure) == {name: row for row, name in enumerate(order)}
    assert axes.yaxis_inverted()
    (bars,) = (part for part in axes.containers if isinstance(part, BarContainer))
    assert [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in bars] == [
        (pytest.approx(row), scores["trained"][name]) for row, name in enumerate(order)
    ]
    drawn = {line.get_label(): line for line in axes.lines}
    for label, shares in (("untrained", scores["untrained"]), ("raw pixels", scores["raw pixels"]), ("chance", chance)):
        expected = [(shares.get(name, math.nan), row) for row, name in enumerate(order)]
        np.testing.assert_allclose(drawn[label].get_xydata(), expected)
    assert drawn["chance"].get_color() == "black"
    assert [label.get_text().split()[-1] for label in axes.get_yticklabels()] == ["1.00", "0.50", "0.25", "0.00"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["trained", "untrained", "raw pixels", "chance"]
    assert axes.get_xlim() == (0, 1)
    assert_legible(figure)


def test_of_many_classes_the_best_the_middle_and_the_worst_are_shown():
    scores = scores_of(101)
    figure = class_bars(scores)
    first = scores[ENCODERS[0]].to_dict()
    ranked = sorted(first, key=first.get, reverse=True)
    expected = [*ranked[:10], *ranked[45:55], *ranked[91:]]
    rows = rows_of(figure)
    assert list(rows) == expected
    assert list(rows.values()) == [*range(10), *range(11, 21), *range(22, 32)]
    left_out = {text.get_position()[1]: text.get_text() for text in figure.axes[0].texts}
    assert left_out == {10: "35 more", 21: "36 more"}
    assert_legible(figure)


@pytest.mark.parametrize("total", [1, 2, 29, 30, 31, 32, 33, 60, 101])
@pytest.mark.parametrize("most", [3, 4, 5, 30])
def test_no_class_is_lost_between_the_rows(total, most):
    figure = class_bars(scores_of(total, 1), most=most)
    first = scores_of(total, 1)[ENCODERS[0]].to_dict()
    ranked, rows = sorted(first, key=first.get, reverse=True), rows_of(figure)
    assert len(rows) == min(total, most)
    gaps = {text.get_position()[1]: text.get_text() for text in figure.axes[0].texts}
    rank = 0
    for row in range(len(rows) + len(gaps)):
        if row in gaps:
            rank += int(gaps[row].split()[0])
        else:
            assert rows[ranked[rank]] == row
            rank += 1
    assert rank == total
    assert {ranked[0], ranked[-1]} <= set(rows)


def test_classes_without_a_score_are_left_out_and_counted():
    scores = DataFrame({"trained": {"ant": math.nan, "bass": 0.5, "crab": math.nan}})
    figure = class_bars(scores)
    assert list(rows_of(figure)) == ["bass"]
    assert figure.axes[0].get_xlabel() == "precision\n(classes without a score, left out: 2)"
    assert_legible(figure)
    assert class_bars(scores.loc[["bass"]]).axes[0].get_xlabel() == "precision"


def test_a_marker_at_zero_stays_off_the_values():
    figure = class_bars(DataFrame({"trained": 0.5, "untrained": 0.0, "raw pixels": 0.0}, index=["ant"]))
    FigureCanvasAgg(figure).draw()
    (axes,), dots = figure.axes, figure.axes[0].lines[1]
    (name,) = axes.get_yticklabels()
    assert dots.get_marker() == "D"  # the widest, on its corner
    half = dots.get_markersize() / math.sqrt(2) * figure.dpi / 72
    assert name.get_window_extent().x1 < axes.transData.transform((0, 0))[0] - half


@pytest.mark.parametrize(("classes", "encoders", "most"), [(1, 1, 30), (7, 6, 30), (101, 3, 30), (50, 2, 101)])
def test_class_bars_are_legible(classes, encoders, most):
    scores = scores_of(classes, encoders)
    scores.loc["BACKGROUND_Google_with_a_name_that_no_margin_holds"] = 1.0
    figure = class_bars(scores, scores[ENCODERS[0]], "Precision at 10", most)
    assert_legible(figure)
    markers = [line.get_marker() for line in figure.axes[0].lines]
    assert len(set(markers)) == len(markers) == encoders


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: score_bars(DataFrame()), r"scores: .*at least one"),
        (lambda: score_bars(DataFrame({"h": [math.nan]})), r"scores: .*at least one"),
        (lambda: score_bars(DataFrame({"x": [61.0]}, index=["a"])), r"scores: .*61.0; divide percentages by 100"),
        (lambda: class_bars(DataFrame()), r"scores: .*at least one"),
        (lambda: class_bars(DataFrame({"h": []})), r"scores: .*at least one"),
        (lambda: class_bars(DataFrame({"h": [math.nan], "z": [0.5]}, index=["ant"])), r"scores: .*at least one"),
        (lambda: class_bars(DataFrame({"h": [61.0]}, index=["ant"])), r"scores: .*61.0; divide percentages by 100"),
    ],
)
def test_figures_say_what_they_expect(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
