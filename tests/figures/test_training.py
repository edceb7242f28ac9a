"""What the figures of a run's training show, and that a reader can read them."""

import math

import numpy as np
import pytest
from figure_reading import assert_legible, steps, texts_of
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh

from simclr_lib.figures.training import health_curves, loss_curve, similarity_history, training_curves

NUMBERS = [
    *("deviation", "contrastive_accuracy", "alignment", "uniformity"),
    *("effective_rank_h", "effective_rank_z", "color_agreement", "color_following"),
]


def readings(count, not_finite=(), every=1):
    """Similarities that spread over training, counted as `probe` counts them."""
    rng, health = np.random.default_rng(1), []
    for index in range(count):
        record = {"kind": "health", "step": 10 * index, "epochs": every * index, "finite": index not in not_finite}
        health.append(record)
        if index in not_finite:
            continue
        spread = 1 - 0.98 / (index + 1)
        for name, mean, pairs in (("positive", 0.95 - 0.2 * spread, 64), ("other", 0.95 - 0.9 * spread, 2000)):
            cosines = rng.normal(mean, 0.02 + 0.2 * spread, pairs).clip(-1, 1)
            record[f"{name}s"] = np.histogram(cosines, 40, (-1, 1))[0].tolist()
            record[f"{name}_mean"] = float(cosines.mean())
        record |= {name: float(value) for name, value in zip(NUMBERS, rng.uniform(0, 1, 8), strict=True)}
        record["uniformity"] *= -4
        record["effective_rank_h"] *= 60
    return health


def test_the_chance_line_is_at_ln_2n_minus_1_and_says_so():
    figure = loss_curve({"run": steps(100)}, batch_size=64)
    *_, chance = figure.axes[0].lines
    assert list(chance.get_ydata()) == [math.log(127)] * 2
    assert any("ln(2·64−1)\n= 4.84" in text.get_text() for text in texts_of(figure))


@pytest.mark.parametrize("count", [1, 2, 99, 100, 530])
def test_the_bold_line_is_the_mean_of_the_steps_around(count):
    run = steps(count)
    every_step, mean = loss_curve({"run": run}, batch_size=8).axes[0].lines[:2]
    losses, expected = [record["loss"] for record in run], []
    for step in range(count):  # as many steps back as ahead, though no more than there are
        reach = min(step, count // 100)
        expected.append(np.mean([losses[near] for near in range(step - reach, step + reach + 1) if near < count]))
    np.testing.assert_allclose(every_step.get_ydata(), losses)
    np.testing.assert_allclose(mean.get_ydata(), expected)
    assert mean.get_linewidth() > 2 * every_step.get_linewidth()
    assert count > 1 or mean.get_marker() == "o"


def test_runs_differ_in_more_than_colour():
    lines = loss_curve({f"run {index}": steps(9) for index in range(8)}, 8).axes[0].lines[1:-1:2]
    signs = [(line.get_color(), line.get_marker()) for line in lines]
    assert len(set(signs)) == 8
    assert len({marker for _, marker in signs[:6]}) == len({color for color, _ in signs[:6]}) == 6


def test_runs_share_a_figure_and_a_legend():
    other = [{"step": 0, "knn": 0.3}, *steps(30)]  # a line without a loss is not a step
    figure = loss_curve({"with colour": other, "without colour": steps(40, seed=1)}, 16, "Two runs")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["with colour", "without colour"]
    assert len(figure.axes[0].lines[0].get_ydata()) == 30
    assert_legible(figure)


@pytest.mark.parametrize("count", [1, 8])
def test_a_loss_curve_is_legible_with_one_step_and_with_many_runs(count):
    assert_legible(loss_curve({f"a run of number {index}": steps(1 + index) for index in range(count)}, 4096, "Runs"))


def test_the_legend_hides_no_data():
    figure = loss_curve({"run": steps(50)}, 64)
    FigureCanvasAgg(figure).draw()
    assert not figure.legends[0].get_window_extent().overlaps(figure.axes[0].get_window_extent())


def test_the_loss_is_that_of_loss_curve_and_the_rate_is_below_on_the_same_axis():
    records = [{"kind": "step", "step": 0, "knn": 0.3}, *steps(120)]
    figure = training_curves(records, health=[], batch_size=64, title="Loss and learning rate")
    upper, lower = figure.axes
    alone = loss_curve({"run": steps(120)}, 64).axes[0]
    for drawn, expected in zip(upper.lines, alone.lines, strict=True):
        np.testing.assert_array_equal(drawn.get_xydata(), expected.get_xydata())
    (rate,) = lower.lines
    np.testing.assert_allclose(rate.get_xydata(), [(record["step"], record["learning_rate"]) for record in steps(120)])
    assert upper.get_xlim() == lower.get_xlim()
    assert any(f"= {math.log(127):.2f}" in text.get_text() for text in texts_of(figure))
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("NT-Xent loss", "learning rate")
    assert upper.get_position().height > 2 * lower.get_position().height


@pytest.mark.parametrize("read", [0, 2])
@pytest.mark.parametrize(("count", "rate"), [(1, 0.3), (2, 0.0), (3000, 1.5e-4)])
def test_loss_and_rate_are_legible(count, rate, read):
    figure = training_curves(steps(count, rate), readings(read), 4096, "A run")
    assert_legible(figure)
    lower = next(axes for axes in figure.axes if axes.get_ylabel() == "learning rate")
    low, high = lower.get_ylim()
    assert low == 0 < rate + 1e-9 < high
    assert count > 1 or lower.lines[0].get_marker() == "o"


def meshes_of(figure):
    return [next(part for part in axes.collections if isinstance(part, QuadMesh)) for axes in figure.axes[:2]]


@pytest.mark.parametrize("count", [1, 5, 400])
def test_beside_the_loss_stands_the_health_at_a_glance(count):
    health = readings(count, not_finite=(2,))
    figure = training_curves(steps(30), health, 64, "convnet on cifar10, epochs: 100")
    panels = {axes.get_ylabel() or axes.get_title(): axes for axes in figure.axes}
    left, right = panels.pop("NT-Xent loss"), panels.pop("health, on images never trained on")
    assert list(panels) == ["learning rate"]
    np.testing.assert_allclose(left.lines[0].get_ydata(), [record["loss"] for record in steps(30)])
    for line, name in zip(right.lines, ("contrastive_accuracy", "deviation", "color_agreement"), strict=True):
        expected = [record.get(name, math.nan) for record in health]
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), expected)
    assert len({line.get_marker() for line in right.lines}) == 3
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named[:3] == ["loss", "contrastive accuracy", "spread per dimension of z"]  # as `health_curves` calls them
    assert_legible(figure)


def test_each_column_is_the_shares_of_its_epochs_pairs():
    health = readings(20)
    for mesh, name in zip(meshes_of(similarity_history(health)), ("positives", "others"), strict=True):
        drawn = mesh.get_array().reshape(40, 20)
        np.testing.assert_allclose(drawn.sum(axis=0), 1)
        for column, record in enumerate(health):
            np.testing.assert_allclose(drawn[:, column], [count / sum(record[name]) for count in record[name]])


def test_cells_lie_at_their_epoch_and_similarity():
    mesh = meshes_of(similarity_history(readings(3)))[0]
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], [-0.5, 0.5, 1.5, 2.5])
    np.testing.assert_allclose(corners[:, 0, 1], [-1 + 0.05 * edge for edge in range(41)], atol=1e-12)
    uneven = [dict(record, epochs=epochs) for record, epochs in zip(readings(3), (0, 2, 10), strict=True)]
    np.testing.assert_allclose(
        meshes_of(similarity_history(uneven))[1].get_coordinates()[0, :, 0], [-0.5, 1.5, 9.5, 10.5]
    )
    (lone,) = [dict(record, epochs=7) for record in readings(1)]
    np.testing.assert_allclose(meshes_of(similarity_history([lone]))[0].get_coordinates()[0, :, 0], [6.5, 7.5])


def test_all_pairs_in_one_bin_have_the_top_of_the_colour_bar_and_none_the_bottom():
    one = dict(readings(1)[0], positives=[0] * 39 + [64])
    figure = similarity_history([one])
    mesh = meshes_of(figure)[0]
    FigureCanvasAgg(figure).draw()
    shown = mesh.get_facecolors().reshape(40, 4)
    np.testing.assert_allclose(shown[39], mesh.cmap(1.0))
    np.testing.assert_allclose(shown[:39], [mesh.cmap(0.0)] * 39)
    assert mesh.norm(0.25) == pytest.approx(0.5)  # a spread-out histogram is not all dark
    bar = figure.axes[2]
    assert bar.get_ylabel() == "share of the pairs"
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0", "0.01", "0.05", "0.25", "0.5", "1"]
    assert meshes_of(figure)[1].norm.vmax == mesh.norm.vmax == 1


def test_the_line_is_the_mean_and_says_so():
    health = readings(5)
    figure = similarity_history(health)
    for axes, name, heading in zip(figure.axes, ("positive_mean", "other_mean"), ("two", "different"), strict=False):
        (line,) = axes.lines
        np.testing.assert_allclose(line.get_xydata(), [(record["epochs"], record[name]) for record in health])
        assert heading in axes.get_title()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean"]


def test_readings_that_were_not_finite_stay_blank_and_the_legend_says_so():
    figure = similarity_history(readings(6, not_finite=(2, 5)))
    for axes, mesh in zip(figure.axes, meshes_of(figure), strict=False):
        blank = np.ma.getmaskarray(mesh.get_array()).reshape(40, 6).all(axis=0)
        assert blank.tolist() == [False, False, True, False, False, True]
        assert np.isnan(axes.lines[0].get_ydata()).tolist() == blank.tolist()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean", "not finite"]
    assert_legible(figure)


@pytest.mark.parametrize("count", [1, 3, 20, 300])
def test_histories_are_legible(count):
    for draw in (similarity_history, health_curves):
        figure = draw(readings(count), f"The probe after each of {count} epochs")
        assert_legible(figure)
        assert min(text.get_fontsize() for text in texts_of(figure)) >= 8.5
        axes = figure.axes[1 if draw is similarity_history else 7]
        epochs = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        assert all(epoch == int(epoch) for epoch in epochs)
        assert 1 <= len(epochs) <= 7


def test_the_colours_of_the_similarities_are_told_apart():
    grey = [
        colors.to_rgba(color)[:3] @ np.array([0.3, 0.59, 0.11])
        for color in meshes_of(similarity_history(readings(2)))[0].cmap(np.linspace(0, 1, 9))
    ]
    assert (np.diff(grey) > 0.03).all()  # lighter is more, without any hue


def test_health_curves_go_through_their_readings():
    health = readings(7, not_finite=(3,))
    figure = health_curves(health, "Health")
    headings = ["spread", "contrastive accuracy", "alignment", "uniformity"]
    headings += ["effective rank of h", "effective rank of z", "colours of the neighbours", "rank correlation"]
    for axes, name, heading in zip(figure.axes, NUMBERS, headings, strict=True):
        points = [(epoch, record.get(name, np.nan)) for epoch, record in enumerate(health)]
        np.testing.assert_allclose(axes.lines[0].get_xydata(), points)
        assert axes.get_title(loc="left").startswith(heading)


def test_a_reading_between_two_gaps_is_seen():
    health = readings(40, not_finite=(20, 22))
    for axes in (health_curves(health).axes[0], similarity_history(health).axes[0]):
        assert axes.lines[0].get_marker() == "o"
        assert axes.lines[0].get_markevery() is None
        assert axes.lines[0].get_markersize() > axes.lines[0].get_linewidth()


def test_references_are_dashed_and_say_what_they_are():
    expected = [
        {"even": 1, "one point": 0},
        {"every view\nfound": 1, "none found": 0},
        {"views alike": 0},
        {"one point": 0, "even": -4},
        *[{"one\ndirection": 1}] * 2,
        *[{"as colour\nalone": 1, "as random": 0}] * 2,
    ]
    for axes, references in zip(health_curves(readings(4)).axes, expected, strict=True):
        lines = [line for line in axes.lines if line.get_color() == "black"]
        assert {text.get_text(): text.xy[1] for text in axes.texts} == references
        assert [line.get_ydata()[0] for line in lines] == list(references.values())
        assert all(line.is_dashed() for line in lines)
        low, high = axes.get_ylim()
        assert all(low <= value <= high for value in references.values())


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: loss_curve({}, 8), r"curves: .*at least one"),
        (lambda: loss_curve({"run": []}, 8), r"run: .*step, loss.*Run.metrics"),
        (lambda: loss_curve({"run": [{"step": 1}]}, 8), r"run: .*got none with loss"),
        (lambda: training_curves([], [], 8), r"records: .*learning_rate"),
        (lambda: training_curves([{"step": 1, "loss": 2.0}], [], 8), r"records: .*got none with learning_rate"),
        (lambda: similarity_history([]), r"health: .*positives.*others"),
        (lambda: similarity_history(readings(2, (0, 1))), r"health: .*got none with positives"),
        (lambda: health_curves([{"deviation": 1.0}]), r"health: .*got none with epochs"),
        (lambda: health_curves([]), r"health: .*got none with epochs"),
        (lambda: health_curves(readings(1, (0,))), r"health: .*got none with deviation"),
    ],
)
def test_figures_say_what_they_expect(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
