"""The run directory: what is written is read back, and a crash leaves something whole."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from simclr_lib.config import RunConfig
from simclr_lib.engine.environment import commit
from simclr_lib.engine.lock import LockLostError, one_writer
from simclr_lib.engine.paths import new_run_dir
from simclr_lib.run import Follower, Run

COMMITTED = sorted(file.parent for file in (Path(__file__).parents[1] / "runs").glob("*/config.json"))


def test_a_run_is_read_back_as_it_was_written(tmp_path):
    config = RunConfig(epochs=7, seed=3)
    run = Run.start(tmp_path / "run", config)
    run.log("step", step=0, loss=1.5)
    run.log("epoch", step=0, loss=1.25)
    run.add_to_summary(a=1)
    run.add_to_summary(b=[2.5])
    again = Run.open(tmp_path / "run")
    assert again.config == config
    assert again.metrics("step") == [{"kind": "step", "step": 0, "loss": 1.5}]
    assert again.metrics("epoch") == [{"kind": "epoch", "step": 0, "loss": 1.25}]
    assert again.summary == {"a": 1, "b": [2.5]}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_a_committed_run_of_an_older_version_opens(path):
    run = Run.open(path)
    assert run.finished
    assert run.begun  # training does not begin it anew, though its weights are not kept
    assert [record["epoch"] for record in run.metrics("epoch")] == list(range(run.config.epochs))
    assert [record["step"] for record in run.metrics()] == list(range(run.metrics("epoch")[-1]["step"] + 1))
    assert run.summary
    assert run.environment["sessions"]
    with pytest.raises(ValueError, match="run_dir"):
        run.load_weights()


def test_the_environment_says_where_a_number_came_from(tmp_path):
    for processes in (1, 2):
        Run.start(tmp_path, RunConfig()).add_session(device="cpu", processes=processes)
    session = Run.open(tmp_path).environment["sessions"][-1]
    assert session["processes"] == 2
    assert torch.__version__.startswith(session["packages"]["torch"])
    assert session["device"] == "cpu"
    assert session["started"].endswith("Z")
    assert session["cores"] >= 1
    assert {"commit", "dirty", "python", "platform", "processor"} <= set(session)
    assert len(Run.open(tmp_path).environment["sessions"]) == 2  # every start and resumption is kept


def test_the_commit_and_whether_the_tree_was_dirty(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    assert commit() == {"commit": None, "dirty": None}
    report = tmp_path / "runs/first/report.ipynb"
    report.parent.mkdir(parents=True)
    for file in (tmp_path / "file", report):
        file.write_text("a")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert commit() == {"commit": head, "dirty": False}
    report.write_text("b")  # a committed report, executed again
    assert commit() == {"commit": head, "dirty": False}
    (tmp_path / "file").write_text("b")
    assert commit() == {"commit": head, "dirty": True}


def test_a_step_done_again_after_a_crash_counts_once_and_a_cut_line_not_at_all(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    for step, loss in ((0, 5.0), (1, 4.0), (2, 3.0), (1, 4.5)):
        run.log("step", step=step, loss=loss)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "step": 3, "lo')
    assert [(m["step"], m["loss"]) for m in run.metrics()] == [(0, 5.0), (1, 4.5), (2, 3.0)]
    run = Run.start(tmp_path, RunConfig())
    assert run.metrics() == []  # there was no checkpoint to go on from


STEPS = [{"kind": "step", "step": step, "epoch": step // 2, "loss": 5.0 - step} for step in range(6)]
EPOCHS = [{"kind": "epoch", "step": 2 * epoch + 1, "epoch": epoch, "loss": 1.0} for epoch in range(3)]
HEALTH = [{"kind": "health", "step": 2 * epochs, "epochs": epochs} for epochs in range(4)]
WHOLE = [
    HEALTH[0],
    *STEPS[:2],
    EPOCHS[0],
    HEALTH[1],
    *STEPS[2:4],
    EPOCHS[1],
    HEALTH[2],
    *STEPS[4:],
    EPOCHS[2],
    HEALTH[3],
]


def recorded(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("cut", [1, 10, 39, 0])  # characters of the line that were written; 0: all of them
@pytest.mark.parametrize(("epochs", "steps", "left"), [(1, 0, 5), (1, 1, 6), (2, 1, 10), (3, 0, 13), (0, 1, 2)])
def test_metrics_are_cut_back_to_the_checkpoint(tmp_path, cut, epochs, steps, left):
    run = Run.start(tmp_path, RunConfig())
    lines = [json.dumps(record) + "\n" for record in WHOLE]
    (tmp_path / "metrics.jsonl").write_text("".join([*lines, lines[0][:cut]]))
    run.cut_metrics(epochs, steps)
    assert recorded(tmp_path) == WHOLE[:left]
    run.cut_metrics(epochs, steps)
    assert recorded(tmp_path) == WHOLE[:left]
    run.log("step", step=left, loss=2.0)
    assert recorded(tmp_path)[-1] == {"kind": "step", "step": left, "loss": 2.0}


def test_what_an_older_version_wrote_twice_is_left_once(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    for record in [*WHOLE[:3], {**STEPS[1], "loss": 9.0}, *WHOLE[2:6]]:
        run.log(**record)
    run.cut_metrics(1, 1)
    assert recorded(tmp_path) == WHOLE[:6]


@pytest.mark.parametrize("gone", [1, 3, 5])
def test_a_record_that_is_missing_is_not_passed_over(tmp_path, gone):
    run = Run.start(tmp_path, RunConfig())
    for record in WHOLE[:gone] + WHOLE[gone + 1 :]:
        run.log(**record)
    before = recorded(tmp_path)
    with pytest.raises(
        ValueError, match=r"metrics.jsonl: expected every step of 2 epochs, and 0 of the next.*restore it"
    ):
        run.cut_metrics(2, 0)
    assert recorded(tmp_path) == before


@pytest.mark.parametrize(
    ("error", "state"), [(None, "finished"), (KeyboardInterrupt(), "interrupted"), (ValueError("no"), "failed")]
)
def test_the_status_says_how_the_work_ended(tmp_path, error, state):
    run = Run.start(tmp_path, RunConfig())
    expected = pytest.raises(type(error)) if error else contextlib.nullcontext()
    with expected, one_writer(tmp_path), run.recording_status():
        assert run.status["state"] == "running"
        if error:
            raise error
    assert run.status["state"] == state
    assert state != "failed" or run.status["message"] == "ValueError: no"


def test_a_run_whose_process_is_gone_has_died(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    with one_writer(tmp_path):
        run._set_status("running")
        assert run.status["state"] == "running"
    assert run.status["state"] == "died"


@pytest.mark.child
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("at", "left"), [("running", "interrupted"), ("finished", "finished")])
def test_a_signal_while_the_status_is_written_leaves_it_true(tmp_path, number, at, left):
    code = f"""
import os
from simclr_lib import Run, RunConfig
write = Run._write
def write_and_signal(run, name, values):
    write(run, name, values)
    if values.get("state") == {at!r}:
        os.kill(os.getpid(), {int(number)})
    write(run, name, values)
Run._write = write_and_signal
with Run.writing({str(tmp_path)!r}, RunConfig()) as run, run.recording_status():
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT), done.stderr
    assert Run.open(tmp_path).status["state"] == left
    assert not (tmp_path / "writer.json").exists()


def test_a_damaged_file_is_named(tmp_path):
    for name in ("status", "summary", "environment", "config"):
        run = Run.start(tmp_path / name, RunConfig())
        (run.path / f"{name}.json").write_text("{")
        with pytest.raises(ValueError, match=rf"{name}/{name}.json: expected a json file, got .*delete it"):
            run.status, run.summary, run.environment, Run.open(run.path)


def test_a_holder_that_lost_its_lock_leaves_the_checkpoint_of_the_other(tmp_path, monkeypatch):
    def lose(state: dict, file: Path) -> None:
        torch_save(state, file)
        lock = json.loads((tmp_path / "writer.json").read_text())
        (tmp_path / "writer.json").write_text(json.dumps({**lock, "token": "other"}))

    torch_save = torch.save
    with Run.writing(tmp_path, RunConfig()) as run:
        run.save_checkpoint({"n": 1})
        monkeypatch.setattr(torch, "save", lose)
        with pytest.raises(LockLostError):
            run.save_checkpoint({"n": 2})
    assert Run.open(tmp_path).load_checkpoint() == {"n": 1}
    assert not (tmp_path / "checkpoint.previous.pt").exists()


def test_no_step_that_a_checkpoint_has_is_left_to_a_power_failure(tmp_path, monkeypatch):
    run, synced, replaced = Run.start(tmp_path, RunConfig()), [], []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: fsync(file) or synced.append(Path(os.readlink(f"/proc/self/fd/{file}")))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: replace(a, b) or replaced.append((Path(b), list(synced))))
    run.log("step", step=0, loss=1.0)
    run.save_checkpoint({})
    ((to, before),) = replaced
    assert to == tmp_path / "checkpoint.pt"
    assert before[0] == tmp_path / "metrics.jsonl"
    assert len(before) == 2


def test_the_status_is_the_last_line_of_a_long_error(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    with pytest.raises(RuntimeError), run.recording_status():
        raise RuntimeError("expected 2 processes\nTraceback\nOSError: the cause\n======\n")
    assert run.status["message"] == "OSError: the cause"


def test_the_checkpoint_before_the_last_stays_and_serves_where_the_last_is_damaged(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    assert not run.begun
    with pytest.raises(ValueError, match=r"checkpoint: .*got none"):
        run.load_checkpoint()
    run.save_checkpoint({"epochs_done": 1, "w": torch.ones(3)})
    run.save_checkpoint({"epochs_done": 2, "w": torch.ones(3)})
    assert run.begun
    assert run.load_checkpoint()["epochs_done"] == 2
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:100])
    with pytest.warns(UserWarning, match="cannot be read"):
        assert run.load_checkpoint()["epochs_done"] == 1
    (tmp_path / "checkpoint.pt").unlink()
    assert run.begun
    assert run.load_checkpoint()["epochs_done"] == 1


def test_checkpoints_that_cannot_be_read_are_not_trained_over(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    run.save_checkpoint({"epochs_done": 1})
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(ValueError, match="delete them"):
        run.load_checkpoint()
    assert Run.start(tmp_path, RunConfig()).begun
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"no checkpoint"


def test_what_came_before_any_checkpoint_does_not_mix_with_a_new_start(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    run.log("step", step=40, loss=9.0)
    run.add_to_summary(alarms={"chance": {}})
    run.save_weights(run.snapshot(1), {"w": torch.ones(1)})
    run.save_arrays("embeddings/epoch-0001", h=np.ones(1))
    run = Run.start(tmp_path, RunConfig())
    run.log("step", step=0, loss=1.0)
    assert [m["loss"] for m in run.metrics()] == [1.0]
    assert run.summary == {}
    assert run.snapshots == []
    assert run.load_arrays("embeddings/epoch-0001") == {}


def test_what_others_keep_in_a_directory_stays_when_a_run_begins_there(tmp_path):
    names = ["mine.npz", "snapshots/mine.txt", "metrics.jsonl", ".mine.tmp"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    Run.start(tmp_path, RunConfig())
    assert all((tmp_path / name).exists() for name in names)


def test_a_finished_run_whose_weights_were_not_kept_is_not_trained_over(tmp_path):
    run = Run.start(tmp_path, RunConfig(epochs=2))
    run.log("step", step=0, loss=1.0)
    written = (tmp_path / "config.json").stat().st_mtime_ns
    with run.recording_status():
        pass
    assert Run.start(tmp_path, RunConfig(epochs=2)).metrics()[0]["loss"] == 1.0
    assert (tmp_path / "config.json").stat().st_mtime_ns == written  # nothing was begun again
    with pytest.raises(ValueError, match="epochs 2 -> 3"):
        Run.start(tmp_path, RunConfig(epochs=3))


def test_a_failed_write_leaves_the_file_before_it_and_no_litter(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    run.save_checkpoint({"epochs_done": 1})
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(Exception, match="pickle"):
        run.save_checkpoint({"epochs_done": 2, "bad": lambda: None})
    assert run.load_checkpoint()["epochs_done"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_encoder_and_arrays_round_trip(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    with pytest.raises(ValueError, match="train the run"):
        run.load_encoder_weights()
    weights = {"w": torch.randn(4, 3), "b": torch.randn(4, 3, 2, 2)}
    run.save_weights("encoder", {**weights, "b": weights["b"].to(memory_format=torch.channels_last)})
    assert run.load_encoder_weights().keys() == weights.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in run.load_encoder_weights().items())
    for name in ("neighbors", "embeddings/epoch-0001"):
        assert run.load_arrays(name) == {}
        run.save_arrays(name, ids=np.arange(3), h=np.arange(6.0).reshape(3, 2))
        arrays = run.load_arrays(name)
        assert arrays.keys() == {"ids", "h"}
        assert arrays["ids"].tolist() == [0, 1, 2]
        assert arrays["h"].tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
        assert (tmp_path / f"{name}.npz").is_file()


def test_arrays_are_made_once_and_kept(tmp_path):
    run, made = Run.start(tmp_path, RunConfig()), []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"ids": np.arange(3), "h": np.ones((3, 2))}

    for _ in range(2):
        arrays = run.kept_arrays("embeddings/of-it", make)
        assert arrays.keys() == {"ids", "h"}
        assert arrays["ids"].tolist() == [0, 1, 2]
    assert len(made) == 1
    assert run.load_arrays("embeddings/of-it").keys() == arrays.keys()


def test_where_arrays_cannot_be_kept_they_are_made_each_time_and_that_is_said_once(tmp_path, capsys):
    run = Run.start(tmp_path, RunConfig())
    (tmp_path / "embeddings").write_text("no folder, so that nothing can be written there")  # root may write anywhere
    for name in ("embeddings/a", "embeddings/a", "embeddings/b"):
        assert run.kept_arrays(name, lambda: {"h": np.ones(2)})["h"].tolist() == [1, 1]
        assert run.load_arrays(name) == {}
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"{tmp_path} cannot be written: what is computed of this run is not kept for the next time"


def test_an_error_in_making_arrays_is_passed_on(tmp_path):
    def make() -> dict[str, np.ndarray]:
        raise OSError("the images are gone")

    run = Run.start(tmp_path, RunConfig())
    with pytest.raises(OSError, match=r"^the images are gone$"):
        run.kept_arrays("embeddings/a", make)
    assert run.load_arrays("embeddings/a") == {}


def test_a_holder_that_lost_its_lock_keeps_no_arrays_either(tmp_path):
    with Run.writing(tmp_path, RunConfig()) as run:
        lock = json.loads((tmp_path / "writer.json").read_text())
        (tmp_path / "writer.json").write_text(json.dumps({**lock, "token": "other"}))
        with pytest.raises(LockLostError):
            run.kept_arrays("embeddings/a", lambda: {"h": np.ones(2)})


def test_snapshots_are_read_back_and_listed_in_the_order_of_their_epochs(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    assert run.snapshots == []
    weights = {epochs: {"encoder.w": torch.randn(4, 3, 2, 2), "head.b": torch.randn(5)} for epochs in (10000, 25, 3)}
    for epochs, tensors in weights.items():
        conv = tensors["encoder.w"].to(memory_format=torch.channels_last)  # as training holds it
        run.save_weights(run.snapshot(epochs), {**tensors, "encoder.w": conv})
    again = Run.open(tmp_path)
    assert again.snapshots == [3, 25, 10000]
    for epochs, expected in weights.items():
        snapshot = again.load_weights(epochs)
        assert snapshot.keys() == expected.keys()
        assert all(torch.equal(snapshot[name], tensor) for name, tensor in expected.items())


def test_a_snapshot_that_is_taken_again_replaces_the_one_before_and_leaves_no_litter(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    for value in (1.0, 2.0):
        run.save_weights(run.snapshot(7), {"w": torch.full((2,), value)})
    assert run.load_weights(7)["w"].tolist() == [2.0, 2.0]
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["epoch-0007.safetensors"]


def test_an_epoch_without_a_snapshot_is_refused_with_those_there_are(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    for epochs in (20, 5):
        with pytest.raises(ValueError, match=f"epochs: .*got {epochs}"):
            run.load_weights(epochs)
        run.save_weights(run.snapshot(epochs), {"w": torch.ones(1)})
    for epochs in (0, 10):
        with pytest.raises(ValueError, match=rf"epochs: expected.*5, 20.*got {epochs}$"):
            run.load_weights(epochs)


def test_the_last_weights_are_those_after_the_end_else_those_of_the_last_checkpoint(tmp_path):
    run = Run.start(tmp_path, RunConfig(epochs=4))
    with pytest.raises(ValueError, match="run_dir"):
        run.load_encoder_weights()

    def state(value: float) -> dict[str, torch.Tensor]:
        return {"encoder.w": torch.tensor([value]), "head.w": torch.tensor([-value])}

    def last() -> tuple[float, float, list[str]]:
        encoder = run.load_encoder_weights()
        return run.load_weights()["head.w"].item(), encoder["w"].item(), list(encoder)

    run.save_weights(run.snapshot(2), state(2.0))
    run.save_checkpoint({"epochs_done": 3, "model": state(3.0)})
    assert last() == (-3.0, 3.0, ["w"])
    run.save_weights(run.snapshot(4), state(4.0))  # ended, but for the checkpoint
    assert last() == (-4.0, 4.0, ["w"])
    run.save_weights("encoder", {"w": torch.tensor([5.0])})
    assert last() == (-4.0, 5.0, ["w"])
    for file in (*(tmp_path / "snapshots").iterdir(), *tmp_path.glob("checkpoint*")):
        file.unlink()  # what a user may delete to save space
    assert run.load_encoder_weights()["w"].item() == 5.0


def test_other_processes_write_nothing(tmp_path):
    run = Run.start(tmp_path, RunConfig())
    run.log("step", step=0, loss=1.0)
    run.add_to_summary(a=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
    follower = Follower(tmp_path, run.config)
    with follower.recording_status():
        follower.log("step", step=1, loss=1.0)
        follower.add_to_summary(b=2)
        follower.add_session(processes=2)
        follower.save_checkpoint({"epochs_done": 1})
        follower.save_weights("encoder", {"w": torch.ones(1)})
        follower.save_weights(follower.snapshot(1), {"w": torch.ones(1)})
        follower.save_arrays("images", ids=np.ones(1))
    with pytest.raises(OSError, match="full"), follower.recording_status():
        raise OSError("full")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before
    assert (follower.metrics(), follower.summary) == (run.metrics(), {"a": 1})  # it reads


def test_another_configuration_is_refused_and_another_machine_is_not(tmp_path):
    run = Run.start(tmp_path, RunConfig(epochs=6))
    with pytest.raises(ValueError, match=r"epochs 6 -> 5.*another run_dir"):
        Run.start(tmp_path, RunConfig(epochs=5))  # before anything was trained, too
    run.save_checkpoint({"epochs_done": 1})
    Run.start(tmp_path, RunConfig(epochs=6, num_workers=3))
    assert Run.open(tmp_path).config.num_workers == 3
    with pytest.raises(ValueError, match=r"epochs 6 -> 7.*another run_dir"):
        Run.start(tmp_path, RunConfig(epochs=7))


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"run_dir: expected a directory.*written.*give another"):
        Run.start(tmp_path / "file" / "run", RunConfig())
    with pytest.raises(ValueError, match=r"run directory: .*config\.json.*none"):
        Run.open(tmp_path / "none")


def test_new_runs_go_below_the_root(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    path = new_run_dir("03_cifar10")
    assert path.parent == tmp_path / "runs"
    assert path.name.endswith("-03_cifar10")
    assert path.is_dir()
    assert new_run_dir("03_cifar10") != path  # also within the same second


def test_reading_a_run_needs_no_torch(tmp_path):
    Run.start(tmp_path, RunConfig()).log("step", step=0, loss=1.0)
    code = (
        "import sys, json; from simclr_lib.run import Run; "
        f"run = Run.open({str(tmp_path)!r}); assert 'torch' not in sys.modules; print(json.dumps(run.metrics()))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert json.loads(out)[0]["loss"] == 1.0
