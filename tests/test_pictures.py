"""The pictures of a run: what each shows, derived again from the run's files by plain loops, and where it is kept."""

import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib import colors
from matplotlib.container import BarContainer
from PIL import Image
from test_comparisons import drawn_dots, rows_of, thumbnails_of
from test_histories import NUMBERS, meshes_of
from test_plots import frames_of

from simclr_lib import ImageSet, Run, RunConfig, load_images, pictures, train
from simclr_lib.classification import score_draws
from simclr_lib.evaluate import load_model, raw_pixels
from simclr_lib.scoring import score_color, score_retrieval

ENCODERS = ["raw pixels", "untrained encoder", "trained encoder"]


def trained(path, **options) -> Run:
    train(RunConfig(limit_images=32, batch_size=16, blur=False, norm="group", device="cpu", seed=4, **options), path)
    return Run.open(path)  # as a later reader has it


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("long"), epochs=4)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("small"), epochs=4, image_size=16)


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("short"), epochs=1, image_size=16)


@pytest.fixture(scope="module")
def gallery() -> ImageSet:
    return load_images("embedded", "test", limit=60, seed=3)  # ids are not positions here


@pytest.fixture
def drawn(monkeypatch):
    """A function: the figure that a call returns, which it must have saved under `name`, and nothing else."""
    saved, save = {}, pictures.save_figure
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: saved.update({save(figure, path): figure}))

    def draw(run, name, picture, /, *arguments, svg=False, **options):
        shutil.rmtree(run.path / "figures", ignore_errors=True)
        figure = picture(run, *arguments, **options)
        assert figure is saved[run.path / "figures" / f"{name}.png"]
        expected = {f"{name}.png", f"{name}.svg"} if svg else {f"{name}.png"}
        assert {file.name for file in (run.path / "figures").iterdir()} == expected
        return figure

    return draw


@torch.no_grad()
def h_of(run, images, epochs=None):
    """h after so many epochs: whole images at the side of the run's views, in one batch."""
    side = run.config.image_size
    whole = F.interpolate(images.images.float() / 255, (side, side), mode="bilinear", antialias=True)
    return load_model(run, epochs).encoder(whole)


def nearest(h, query, k, similarity="cosine"):
    """(similarity, position) of the k rows most like row `query`, by a loop over all others."""
    rows = F.normalize(h.double()) if similarity == "cosine" else h.double()
    found = [(float(rows[query] @ rows[other]), other) for other in range(len(h)) if other != query]
    return sorted(found, reverse=True)[:k]


def position(axes, images):
    """Which of the images is drawn, by its pixels."""
    pixels = torch.from_numpy(np.asarray(axes.images[0].get_array())).permute(2, 0, 1)
    (at,) = (images.images == pixels).flatten(1).all(1).nonzero().flatten().tolist()
    return at


def assert_shows(figure, images, queries, variants, k, similarity="cosine"):
    """A block a query, in it a row a variant (name, embeddings), and in that the k nearest, with class and mark."""
    places = iter(figure.axes)
    for query in queries:
        asked, own = next(places), images.class_names[images.labels[query]]
        assert (position(asked, images), asked.get_xlabel().split()[0]) == (query, own)
        for name, h in variants:
            row = [next(places) for _ in range(k)]
            assert row[0].get_ylabel().replace("\n", " ") == name
            for axes, (value, at) in zip(row, nearest(h, query, k, similarity), strict=True):
                other = images.class_names[images.labels[at]]
                assert position(axes, images) == at
                assert axes.get_xlabel().split() == ["✓" if other == own else "✗", other, f"{value:.3f}"]
    assert not list(places)


def assert_differ(query, k, *embeddings):
    """No two have the same neighbours: a row of the wrong one would be seen."""
    assert len({tuple(at for _, at in nearest(h, query, k)) for h in embeddings}) == len(embeddings)


def bars_of(figure):
    """Metric -> encoder -> length of its bar, and metric -> line of chance, as a reader finds them by the ticks."""
    (axes,), bars = figure.axes, {}
    for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
        if label.get_fontweight() == "bold":
            metric = bars.setdefault(label.get_text(), {})
        else:
            (bar,) = (bar for bar in axes.patches if bar.get_y() < tick < bar.get_y() + bar.get_height())
            metric[label.get_text()] = bar.get_width()
    assert sum(map(len, bars.values())) == len(axes.patches)
    return bars, dict(zip(bars, [line.get_xdata()[0] for line in axes.lines], strict=True))


def means(run, name, encoders):
    """What `bars_of` is to find: metric -> encoders, from the summary."""
    scores = run.summary[name]["scores"]
    bars = {metric: {e: pytest.approx(np.mean(scores[e][metric])) for e in of} for metric, of in encoders.items()}
    return bars, {metric: pytest.approx(np.mean(scores["chance"][metric])) for metric in encoders}


def test_the_training_picture_draws_the_loss_and_the_rate_of_every_step(run, drawn):
    figure = drawn(run, "loss", pictures.training_picture, svg=True)
    steps, (upper, lower) = run.metrics("step"), figure.axes
    assert len(steps) == 8
    np.testing.assert_allclose(upper.lines[0].get_xydata(), [(step["step"], step["loss"]) for step in steps])
    np.testing.assert_allclose(lower.lines[0].get_xydata(), [(step["step"], step["learning_rate"]) for step in steps])
    assert upper.lines[-1].get_ydata()[0] == pytest.approx(math.log(2 * 16 - 1))  # chance
    assert figure.get_suptitle() == "convnet on embedded, 4 epochs"


def test_the_similarity_picture_draws_the_similarities_of_every_reading(run, drawn):
    figure = drawn(run, "similarity", pictures.similarity_picture, svg=True)
    health = run.metrics("health")
    for axes, mesh, name in zip(figure.axes, meshes_of(figure), ("positive", "other"), strict=False):
        shares = np.array([np.array(reading[f"{name}s"]) / sum(reading[f"{name}s"]) for reading in health])
        np.testing.assert_allclose(mesh.get_array().reshape(40, 5), shares.T)
        mean = [(epochs, reading[f"{name}_mean"]) for epochs, reading in enumerate(health)]
        np.testing.assert_allclose(axes.lines[0].get_xydata(), mean)


def test_the_health_picture_draws_every_other_reading(run, drawn):
    figure = drawn(run, "health", pictures.health_picture, svg=True)
    lines = [line for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == 5]
    for line, name in zip(lines, NUMBERS, strict=True):
        np.testing.assert_allclose(line.get_xydata(), [*enumerate(read[name] for read in run.metrics("health"))])


def test_retrieval_scores_are_bars_of_their_mean_over_seeds_and_chance_is_a_line(run, gallery, drawn):
    result = score_retrieval(run, gallery, k=3, seeds=(0, 1, 2), sample=30)
    assert all(len(set(of["map@R"])) == 3 for of in result["scores"].values())  # no seed has the mean
    asked = dict.fromkeys(["recall@3", "map@R"], ENCODERS)
    figure = drawn(run, "retrieval", pictures.score_picture, "retrieval", [*asked], "What neighbours share", svg=True)
    assert bars_of(figure) == means(run, "retrieval", asked)
    assert figure.get_suptitle() == "What neighbours share"


def test_what_has_no_chance_has_no_line_and_a_metric_that_is_nowhere_is_refused(run, gallery, drawn):
    score_color(run, gallery, {"h": gallery.images.float().mean((2, 3))})  # the mean colour
    figure = drawn(run, "color", pictures.score_picture, "color", ["color_agreement"], svg=True)
    assert not figure.axes[0].lines
    with pytest.raises(ValueError, match="metrics: expected some of color_agreement, color_following, got map@R"):
        pictures.score_picture(run, "color", ["map@R"])


def test_an_encoder_without_a_score_has_no_bar(run, gallery, drawn):
    score_draws(run, gallery, train_per_class=4, draws=(0, 1))
    asked = {"linear probe top1": ENCODERS[1:], "knn@20 mean_per_class": ENCODERS}  # raw pixels are too wide to probe
    figure = drawn(run, "classification", pictures.score_picture, "classification", [*asked], svg=True)
    assert bars_of(figure) == means(run, "classification", asked)
    assert bars_of(figure)[1] == dict.fromkeys(asked, 1 / 8)


def test_each_class_has_the_precision_of_every_encoder_and_of_chance(run, gallery, drawn):
    score_retrieval(run, gallery, k=3)
    figure = drawn(run, "per_class", pictures.class_picture, svg=True)
    pixels = raw_pixels(gallery.images)
    rows, lines, encoders = rows_of(figure), drawn_dots(figure), [h_of(run, gallery), h_of(run, gallery, 0), pixels]
    (bars,) = (part for part in figure.axes[0].containers if isinstance(part, BarContainer))
    for label, name in enumerate(gallery.class_names):
        queries = [query for query in range(60) if gallery.labels[query] == label]
        found = [[at for query in queries for _, at in nearest(h, query, 3)] for h in encoders]
        after, before, raw = ((gallery.labels[at] == label).float().mean() for at in found)
        assert bars[rows[name]].get_width() == pytest.approx(after.item())
        assert lines["untrained encoder"].get_xdata()[rows[name]] == pytest.approx(before.item())
        assert lines["raw pixels"].get_xdata()[rows[name]] == pytest.approx(raw.item())
        assert lines["chance"].get_xdata()[rows[name]] == pytest.approx((len(queries) - 1) / 59)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*ENCODERS[::-1], "chance"]


@pytest.mark.parametrize(
    ("similarity", "name", "options"),
    [("cosine", "neighbors", {}), ("dot", "worst", {"similarity": "dot", "name": "worst", "title": "Our own"})],
)
def test_neighbours_are_those_by_the_similarity_asked_for(run, gallery, drawn, similarity, name, options):
    h = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 60)[:, None]
    assert nearest(h, 8, 1, "dot")[0][1] != nearest(h, 8, 1, "cosine")[0][1]
    figure = drawn(run, name, pictures.neighbor_picture, gallery, h, [40, 8], 4, **options)
    assert_shows(figure, gallery, [40, 8], [("", h)], 4, similarity)
    title = options.get("title", "Nearest neighbours after training")
    assert figure.get_suptitle().replace("\n", " ") == f"{title} ({similarity})"


def test_neighbours_over_training_are_those_before_it_halfway_and_after(run, gallery, drawn):
    names = {0: "before training", 2: "after 2 epochs", 4: "after 4 epochs"}
    rows = [(name, h_of(run, gallery, epochs)) for epochs, name in names.items()]
    assert_differ(8, 3, *(h for _, h in rows))
    figure = drawn(run, "neighbors_over_training", pictures.neighbors_over_training, gallery, [40, 8], k=3)
    assert_shows(figure, gallery, [40, 8], rows, 3)


def test_a_run_of_one_epoch_has_nothing_halfway(short, gallery, drawn):
    rows = [("before training", h_of(short, gallery, 0)), ("after 1 epoch", h_of(short, gallery, 1))]
    figure = drawn(short, "neighbors_over_training", pictures.neighbors_over_training, gallery, [8], k=3)
    assert_shows(figure, gallery, [8], rows, 3)


def test_neighbours_by_h_stand_above_those_by_z(run, gallery, drawn):
    h = h_of(run, gallery)
    z = load_model(run).projection_head(h).detach()
    assert_differ(8, 3, h, z)
    figure = drawn(run, "neighbors_by_layer", pictures.neighbors_by_layer, gallery, [40, 8], k=3)
    assert_shows(figure, gallery, [40, 8], [("h", h), ("z", z)], 3)


def test_embeddings_at_hand_are_taken_as_they_are(run, gallery, drawn):
    names = ["before training", "after 1 epoch", "after 2 epochs", "after 3 epochs"]  # halfway, a snapshot is after 2
    given = {name: torch.randn(60, 5) for name in names}
    figure = drawn(run, "neighbors_over_training", pictures.neighbors_over_training, gallery, [8], given, k=2)
    assert_shows(figure, gallery, [8], [(name, given[name]) for name in (names[0], *names[2:])], 2)
    layers = {"h": torch.randn(60, 5), "z": torch.randn(60, 5)}
    figure = drawn(run, "neighbors_by_layer", pictures.neighbors_by_layer, gallery, [8], layers, k=2)
    assert_shows(figure, gallery, [8], [*layers.items()], 2)


def test_two_runs_have_a_row_each_named_by_the_one_setting_or_else_the_directories(run, small, short, gallery, drawn):
    h = {each: h_of(each, gallery) for each in (run, small, short)}
    assert_differ(8, 3, *h.values())
    directories = f"this: {run.path.name}", f"other: {short.path.name}"  # they differ in epochs as well
    for this, other, *names in (
        (run, small, "image size 32", "image size 16"),
        (small, run, "image size 16", "image size 32"),
        (run, short, *directories),
        (run, run, directories[0], directories[0].replace("this", "other")),
    ):
        figure = drawn(this, "neighbors_of_two_runs", pictures.neighbors_of_two_runs, other, gallery, [8], k=3)
        assert_shows(figure, gallery, [8], list(zip(names, (h[this], h[other]), strict=True)), 3)


def test_a_file_of_the_gallery_finds_itself_first_and_has_a_name_but_no_number(run, gallery, drawn, tmp_path):
    file, h = tmp_path / "$a^^b$.png", h_of(run, gallery)  # no formula
    Image.fromarray(gallery.images[7].permute(1, 2, 0).numpy()).save(file)
    figure = drawn(run, "neighbors_of_file", pictures.file_picture, str(file), gallery, h, k=4)
    asked, *found = figure.axes
    assert (position(asked, gallery), asked.get_xlabel()) == (7, "")
    for axes, (value, at) in zip(found, [(1.0, 7), *nearest(h, 7, 3)], strict=True):
        assert position(axes, gallery) == at
        assert axes.get_xlabel().split() == [gallery.class_names[gallery.labels[at]], f"{value:.3f}"]
    assert "".join(figure.get_suptitle().split()) == r"Nearestto\$a^^b\$.png"
    for picture in (
        lambda: pictures.file_picture(run, file, gallery, h[:9]),
        lambda: pictures.map_picture(run, gallery, h[:9]),
    ):
        with pytest.raises(ValueError, match="h: expected the embeddings of the 60 images, got 9"):
            picture()


def test_a_map_has_images_of_a_class_side_by_side_in_one_colour_and_no_more_than_asked_for(run, gallery, drawn):
    h = F.one_hot(gallery.labels, 8) + 0.05 * torch.randn(60, 8)
    figure = drawn(run, "map", pictures.map_picture, gallery, h, sample=40)
    dots, shown = drawn_dots(figure), {position(axes, gallery): axes for axes in thumbnails_of(figure)}
    names = np.repeat([*dots], [len(line.get_xdata()) for line in dots.values()])
    places = torch.from_numpy(np.concatenate([line.get_xydata() for line in dots.values()]))
    closest = torch.cdist(places, places).fill_diagonal_(math.inf).argmin(dim=1)
    assert (names[closest] == names).mean() > 0.9
    for at, axes in shown.items():
        color = dots.get(gallery.class_names[gallery.labels[at]], dots["others"]).get_color()
        assert colors.same_color(frames_of(axes)[0].get_edgecolor(), color)
    assert (len(dots), len(names)) == (7, 40)  # six classes and the others
    assert max(shown) >= 40  # they are not the first
    assert figure.get_suptitle() == "t-SNE of h, 40 images"


def test_a_map_of_a_collapsed_encoder_is_one_point_under_an_image_that_the_seed_draws(run, gallery, drawn):
    shown = set()
    for seed in (0, 1):
        figure = drawn(run, "map", pictures.map_picture, gallery, torch.ones(60, 8), seed=seed)
        places = np.concatenate([line.get_xydata() for line in drawn_dots(figure).values()])
        assert (len(places), len(np.unique(places, axis=0))) == (60, 1)
        shown |= {position(axes, gallery) for axes in thumbnails_of(figure)}
    assert len(shown) == 2
