"""What the numbered notebooks show, a call a section; pictures are also kept in the run's figures/, as PNG.

`neighbors_k` neighbours are scored, on at most `evaluation_images` images at a time; None: on all.
"""

import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import pandas as pd
from IPython import get_ipython
from IPython.display import display as display_once
from pandas.io.formats.style import Styler

from simclr_lib import Augment, ImageSet, Run, RunConfig, SimCLR, build_encoder, figures
from simclr_lib.engine import checks, environment, lock, paths, seeds
from simclr_lib.engine.device import choose_device, device_name
from simclr_lib.engine.parameters import injected_parameters
from simclr_lib.engine.progress import in_notebook, say
from simclr_lib.evaluation import classification, embeddings, health, neighbors, scores
from simclr_lib.evaluation.columns import Columns
from simclr_lib.log.report import record_notebook
from simclr_lib.pretrained import start_from
from simclr_lib.train import images_at_a_time

WHOLE_WORDS = {"break_long_words": False, "break_on_hyphens": False}  # a path stays in one piece
CLASSIFIED = ("selected_on", "seen", "classes", "near_duplicates")  # what a reader must know of these scores


def display(shown: figures.InlineFigure | Styler) -> None:
    """Show a figure or a table in a notebook; elsewhere print the table, as the figure is kept with the run."""
    if in_notebook():
        display_once(shown)
    elif isinstance(shown, Styler):
        say(f"\n{shown.caption}\n{shown.data.round(3).to_string(na_rep='')}\n")


def announce(
    config: RunConfig, notebook: str, run_dir: str = "", neighbors_k: int = 5, evaluation_images: int | None = 4000
) -> str:
    """Print what follows from `config`, and refuse what training or scoring would refuse later.

    Returns the directory of the run: `run_dir`, or, where that is empty, a new one named after the notebook.
    """
    if run_dir:
        run = Run(paths.user_path(run_dir, "run_dir"), config)
        lock.require_free(run.path), run.require_same()
    model, _ = SimCLR(build_encoder(**config.encoder_options), config.projection_dim), Augment(**config.view_options)
    if config.init_from and not (run_dir and run.begun):  # the weights need not be there any more
        start_from(model, config.init_from)
    images, gallery = health.load_training_images(config), embeddings.load_gallery(config)
    facts = derived(config, images)
    classification.require_scorable(config, gallery, neighbors_k, evaluation_images)
    run_dir = begin(notebook, run_dir)
    scored = class_sizes(gallery) if class_sizes(gallery) != facts["classes"] else "these classes"
    for name, value in {**facts, "scored on": scored, "run directory": run_dir}.items():
        print(textwrap.fill(f"{name:15}{value}", 105, subsequent_indent=" " * 15, **WHOLE_WORDS))
    return run_dir


def begin(notebook: str, run_dir: str = "") -> str:
    """The directory of what a notebook makes: `run_dir`, or, where that is empty, a new one named after the notebook.

    notebook.json in it says which notebook that is, and what papermill has given to it.
    """
    run_dir, source = run_dir or str(paths.new_run_dir(notebook)), paths.project_root() / f"notebooks/{notebook}.ipynb"
    if source.exists() and (shell := get_ipython()):
        given = injected_parameters(shell.user_ns)
        record_notebook(paths.require_writable(run_dir), source, given, changed=True)
    return run_dir


def derived(config: RunConfig, images: ImageSet) -> dict[str, str]:
    """What follows from `config` and the images that it names: name -> value with its unit."""
    rows, unseen = health.keep_out(config, images)
    steps, warmup, version = config.steps_per_epoch(len(rows)), config.warmup_steps(len(rows)), environment.commit()
    each, area = config.batch_size // config.processes, "{:.0%} to {:.0%}".format(*config.crop_area)
    at_a_time = images_at_a_time(config, each, choose_device(config.device)) or "as many as fit"
    return {
        "images": f"{len(rows):,} of {config.dataset} ({config.split}), kept at {images.images.shape[-1]} px",
        "classes": class_sizes(images),
        "health": f"read on {len(unseen)} others" if len(unseen) >= health.LEAST else "not read: too few images",
        "views": f"{config.image_size} px, crops {area}, colour strength {config.color_strength}, blur {config.blur}",
        "encoder": f"{config.arch}, {config.stem} stem, {config.norm} norm",
        "steps": f"{steps:,} per epoch, {steps * config.epochs:,} in all, {warmup:,} of warm-up",
        "learning rate": f"{config.actual_learning_rate:g} ({config.optimizer}, scaling {config.lr_scaling})",
        "micro-batches": f"{at_a_time} of {each:,} images at a time, in {config.processes} process(es)",
        "loss": f"temperature {config.actual_temperature:g}, {config.negatives:,} negatives per anchor; chance is "
        f"{config.chance_loss:.3f} = ln(2 x batch - 1)",
        "device": f"{device_name(choose_device(config.device))}, {config.precision}",
        "commit": f"{version['commit']}{' and uncommitted changes' * bool(version['dirty'])}",
        "set here": ", ".join(f"{name} = {value!r}" for name, value in config.chosen().items()),
    }


def class_sizes(images: ImageSet) -> str:
    """The classes by name, each with its number of images, and how many images have none."""
    sizes = Counter(images.labels.tolist())
    named = [*enumerate(images.class_names), (-1, "unlabelled")]
    printed = [(label, name if name.isprintable() else repr(name)[1:-1]) for label, name in named]
    return ", ".join(f"{name} {sizes[label]:,}" for label, name in printed if sizes[label])


def look(config: RunConfig) -> None:
    """The queries whose neighbours will be shown, and pairs of their views as the encoder meets them."""
    gallery = embeddings.load_gallery(config)
    queries = gallery.subset(neighbors.fixed_queries(gallery))
    names = [[*gallery.class_names, "unlabelled"][label] for label in queries.labels]  # -1 is the last one
    display(figures.image_grid(queries.images, titles=names, columns=6, title="The queries"))
    display(view_pairs_of(queries, config, "View pairs, as the encoder meets them"))


def view_pairs_of(images: ImageSet, config: RunConfig, title: str) -> figures.InlineFigure:
    """Each of some images above two views of it, drawn as `config` says."""
    augment, generator = Augment(**config.view_options), seeds.generator_at(config.seed)
    return figures.view_pairs(images.images, *(augment(images.images, generator) for _ in range(2)), title=title)


@contextmanager
def live(run_dir: str, pause: float = 5.0) -> Iterator[None]:
    """Draw how the run that is trained inside goes, in one place of the notebook: its loss against chance, its health.

    The last picture stays. pause: seconds between two pictures; longer where drawing would take 3% of the time.
    """
    picture, done = display_once({"text/plain": ""}, raw=True, display_id=True), threading.Event()

    def follow() -> None:
        wait, over = pause, False
        while not over:
            over, start = done.wait(wait), time.perf_counter()
            with suppress(ValueError):  # there is no step yet
                picture.update(training_curves_of(Run.open(run_dir)))
                wait = max(pause, 30 * (time.perf_counter() - start))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set(), thread.join()


def training_curves_of(run: Run) -> figures.InlineFigure:
    """How the training of a run goes, or went."""
    title = f"{run.config.arch} on {run.config.dataset}, epochs: {run.config.epochs}"
    return figures.training_curves(run.metrics(), run.metrics("health"), run.config.batch_size, title)


def show(run: Run, name: str, figure: figures.InlineFigure) -> None:
    """Show `figure`, and save it as figures/<name>.png of the run."""
    figures.save_figure(figure, run.path / f"figures/{name}.png")
    display(figure)


def show_health(run: Run) -> None:
    """Loss against chance; the alarms that rang, in words; the spread of similarities and the other readings."""
    readings, alarms = run.metrics("health"), run.summary.get("alarms", {})
    show(run, "loss", training_curves_of(run))
    for name, alarm in alarms.items():
        print(f"ALARM ({name}, epochs {alarm['first_epoch']} to {alarm['last_epoch']}): {alarm['text']}")
    print(f"alarms that rang: {len(alarms)}" if readings else "health was not read: too few images")
    if readings:
        show(run, "similarity", figures.similarity_history(readings, "Similarity of z on images never trained on"))
        show(run, "health", figures.health_curves(readings, "Health, on images never trained on"))


def score(run: Run, neighbors_k: int = 5, evaluation_images: int | None = 4000) -> pd.DataFrame:
    """What was learned, beside the untrained encoder, raw pixels and chance: neighbours, classification, colours.

    Returns all of these in one table: a row a metric, a column an encoder and its mean or deviation.
    """
    gallery = embeddings.load_gallery(run.config)
    h = embeddings.embed_beside_baselines(run, gallery)
    found = [scores.score_retrieval(run, gallery, h, neighbors_k, sample=evaluation_images)]
    show_table(found[0], "What the nearest neighbours share")
    if len(gallery.labels[gallery.labels >= 0].unique()) > 1:
        found.append(classification.score_classes(run, gallery))
        show_table(found[1], "How well the classes are told apart")
        known = run.summary["classification"]
        print("\n".join(f"{name}: {known[name]}" for name in CLASSIFIED if name in known))
    found.append(scores.score_color(run, gallery, h))
    show_table(found[-1], "How far similarity in h follows colour")
    return pd.concat(found)


def show_table(table: pd.DataFrame, title: str = "") -> None:
    """A table of scores with three digits, a bar from 0 to 1 for each but the deviations; blank where there is none."""
    shown = table.dropna(axis=1, how="all")  # of a single value there is no deviation
    scored = [column for column in shown if "deviation" not in column]
    styled = shown.style.set_caption(title).format(precision=3, na_rep="").format_index(escape="html")
    display(styled.bar(subset=scored, vmin=0, vmax=1, color="rgba(0, 114, 178, 0.35)"))  # on any theme


def show_classes(run: Run) -> None:
    """precision@k class by class, best first, beside the untrained encoder, raw pixels and chance; after `score`."""
    show_table(scores.class_table(run).sort_values("trained encoder", ascending=False))


def follow_training(run: Run, neighbors_k: int = 5, evaluation_images: int | None = 4000) -> None:
    """When it was learned: the scores of every state that was kept."""
    gallery = embeddings.load_gallery(run.config)
    h, options = embeddings.embed_over_training(run, gallery), dict(sample=evaluation_images, name="over_training")
    show_table(scores.score_retrieval(run, gallery, h, neighbors_k, **options), "From untrained to trained")


def show_neighbors(run: Run) -> None:
    """The fixed queries, and their neighbours before and after training; those of every image are kept with the run."""
    columns, title = neighbors.record_neighbors(run), "The fixed queries, before and after training (cosine)"
    shown = [name for name in columns.rows if name not in columns.snapshots][1:]  # without raw pixels
    show(run, "neighbors", grid_of(columns, shown, neighbors.fixed_queries(columns.images), title))


def grid_of(columns: Columns, names: Sequence[str], queries: Sequence[int], title: str) -> figures.InlineFigure:
    """Some images, by position, with the seven nearest of each in several columns, by their names."""
    images, found = columns.images, {name: tuple(part[:, :7] for part in columns.near(name)) for name in names}
    return figures.neighbor_grid(images.images, queries, found, images.labels, images.class_names, title)


def conclude(run: Run, met: Mapping[str, bool]) -> None:
    """Record and print which parts of the prediction were met: what was predicted -> whether it holds.

    Raises ValueError where the last epoch's loss is no better than that of chance: such a run says nothing.
    """
    epochs, chance = run.metrics("epoch"), run.config.chance_loss
    seconds, loss = sum(epoch["seconds"] for epoch in epochs), epochs[-1]["loss"]
    met = {what: bool(holds) for what, holds in met.items()}
    run.add_to_summary(prediction_met=met, training_seconds=seconds, final_loss=loss)
    print(f"loss {loss:.3f} (chance {chance:.3f}), {seconds:,.0f} s of training")
    print("\n".join(f"prediction {'met' if holds else 'NOT met'}: {what}" for what, holds in met.items()))
    checks.require(loss < chance, "loss", f"one below that of chance, {chance:.3f}", f"{loss:.3f}", "see the alarms")


def show_all(run: Run, neighbors_k: int = 5, evaluation_images: int | None = 4000) -> None:
    """What the notebooks show of a run after its training, in their order."""
    show_health(run)
    score(run, neighbors_k, evaluation_images)
    show_classes(run)
    follow_training(run, neighbors_k, evaluation_images)
    show_neighbors(run)
