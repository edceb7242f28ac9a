"""Trouble with disks, data, clocks and kernels while a run is under way: nothing is lost, and the record says why."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import nbformat
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from PIL import Image

from simclr_lib import Run, RunConfig, train
from simclr_lib.engine import paths

TINY = dict(
    split="test", limit_images=80, image_size=16, norm="group", blur=False, batch_size=16, epochs=3, device="cpu"
)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here (it takes root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_disk_is_read_and_not_trained_on(small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for n in range(40):
        file = small_disk / f"photos/{'ab'[n % 2]}/{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (5 * n, 0, 0)).save(file)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = sorted(small_disk.rglob("*"))
    config = {**TINY, "dataset": "folder", "data_root": str(small_disk / "photos"), "split": None, "limit_images": None}
    with pytest.raises(ValueError, match=r"run_dir: expected a directory that can be written, .*give another run_dir"):
        train(RunConfig(**config), small_disk / "run")
    assert train(RunConfig(**{**config, "epochs": 1}), tmp_path / "run").finished
    assert sorted(small_disk.rglob("*")) == before


def fill(folder: Path, leave: int) -> Path:
    """A file that leaves so many bytes."""
    file = folder / "other"
    with open(file, "wb") as big:
        big.write(b"0" * (os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - leave))
    return file


def test_on_a_full_disk_the_error_is_that_of_the_checkpoint_and_training_goes_on_once_there_is_room(
    small_disk, tmp_path, monkeypatch
):
    whole = train(RunConfig(**TINY), tmp_path / "whole")
    save, run_dir = Run.save_checkpoint, small_disk / "run"

    def fill_before_the_second(run: Run, state: dict) -> None:
        if (run.path / "checkpoint.pt").exists():
            fill(small_disk, 0)
        save(run, state)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_checkpoint", fill_before_the_second)
        with pytest.raises(OSError, match=r"checkpoint.pt cannot be written .*goes on"):
            train(RunConfig(**TINY), run_dir)
    status = Run.open(run_dir).status
    assert status["state"] == "failed"
    assert "checkpoint.pt cannot be written" in status["message"]
    assert Run.open(run_dir).load_checkpoint()["epochs_done"] == 1
    (small_disk / "other").unlink()
    run = train(RunConfig(**TINY), run_dir)
    assert [m["loss"] for m in run.metrics()] == [m["loss"] for m in whole.metrics()]
    assert not list(run_dir.rglob("*.tmp"))


def test_a_data_set_that_has_vanished_is_named_and_the_run_is_kept(tmp_path):
    for n in range(40):
        file = tmp_path / f"photos/{'ab'[n % 2]}/{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (5 * n, 0, 0)).save(file)
    config = RunConfig(
        dataset="folder", data_root=str(tmp_path / "photos"), **{**TINY, "split": None, "limit_images": None}
    )
    train(RunConfig(**{**config.to_dict(), "epochs": 1}), tmp_path / "run")
    (tmp_path / "run/status.json").write_text('{"state": "interrupted"}')
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    before = (tmp_path / "run/checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=r"photos"):
        train(RunConfig(**{**config.to_dict(), "epochs": 1}), tmp_path / "run")
    assert Run.open(tmp_path / "run").status["state"] == "failed"
    assert "photos" in Run.open(tmp_path / "run").status["message"]
    assert (tmp_path / "run/checkpoint.pt").read_bytes() == before
    moved = {**config.to_dict(), "epochs": 1, "data_root": str(tmp_path / "elsewhere")}
    assert train(RunConfig(**moved), tmp_path / "run").finished


def test_two_runs_that_start_at_one_time_have_two_directories_whatever_the_clock_does(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)

    class Clock(datetime):
        times = iter([5, 5, 4, 4, 4, 5, 3])

        @classmethod
        def now(cls, zone):
            return datetime(2026, 1, 1, 0, 0, next(cls.times), tzinfo=zone)

    monkeypatch.setattr(paths, "datetime", Clock)
    assert len({paths.new_run_dir("a") for _ in range(3)}) == 3


@pytest.mark.child
def test_a_kernel_that_is_killed_in_its_training_cell_leaves_a_run_that_the_same_cell_goes_on_with(tmp_path):
    source = f"from simclr_lib import RunConfig, train\nrun = train(RunConfig(**{ {**TINY, 'epochs': 400} }), 'run')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "in.ipynb", "out.ipynb"]
    for number, state in ((signal.SIGKILL, "died"), (signal.SIGINT, "interrupted")):
        if (tmp_path / "run/checkpoint.pt").exists():
            (tmp_path / "run/checkpoint.pt").rename(tmp_path / "run/checkpoint.previous.pt")
        papermill = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        while not (tmp_path / "run/checkpoint.pt").exists():
            assert papermill.poll() is None, papermill.communicate()
            time.sleep(0.05)
        kernel = json.loads((tmp_path / "run/writer.json").read_text())["process"]
        assert kernel != papermill.pid
        os.kill(kernel, number)
        papermill.communicate(timeout=60)
        assert Run.open(tmp_path / "run").status["state"] == state
    steps = [m["step"] for m in Run.open(tmp_path / "run").metrics()]
    assert steps == list(range(len(steps)))


@pytest.mark.child
def test_a_cell_that_is_interrupted_in_jupyter_goes_on_when_it_is_executed_again(tmp_path):
    setting = f"from simclr_lib import RunConfig, train\nconfig = RunConfig(**{ {**TINY, 'epochs': 15} })"
    cell = f"run = train(config, {str(tmp_path / 'run')!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # with others, sums round otherwise
    manager, client = start_new_kernel(env=environment)
    try:
        assert client.execute_interactive(setting, timeout=120)["content"]["status"] == "ok"
        interrupted = []

        def interrupt_once(message: dict) -> None:
            if not interrupted and (tmp_path / "run/checkpoint.pt").exists():
                manager.interrupt_kernel()
                interrupted.append(time.monotonic())

        reply = client.execute_interactive(cell, timeout=120, output_hook=interrupt_once)["content"]
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        assert time.monotonic() - interrupted[0] < 4
        run = Run.open(tmp_path / "run")
        assert run.status["state"] == "interrupted"
        assert 0 < len(run.metrics()) < 15 * 4
        assert client.execute_interactive(cell, timeout=120)["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    whole = train(RunConfig(**{**TINY, "epochs": 15}), tmp_path / "whole")
    assert [m["loss"] for m in run.metrics()] == [m["loss"] for m in whole.metrics()]
    assert run.finished


@pytest.mark.child
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGINT))]
)
def test_a_notebook_that_is_stopped_in_its_training_cell_and_resumed_has_the_report_of_an_undisturbed_one(
    tmp_path, number
):
    cells = ["epochs = 25\nrun_dir = ''", "from simclr_lib import RunConfig, train"]
    cells.append(f"run = train(RunConfig(**{ {**TINY, 'epochs': 25} }), run_dir)")
    cells.append("print([record['loss'] for record in run.metrics()], run.finished)")
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # with others, sums round otherwise
    command = [sys.executable, "-m", "simclr_lib"]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path, env=environment)
    process = subprocess.Popen([*command, "run", "in.ipynb", "--run-dir", "run"], **streams)
    while not (tmp_path / "run/checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    asked = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - asked < 8  # the training within 4
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    run = Run.open(tmp_path / "run")
    assert run.status["state"] == ("died" if number == signal.SIGKILL else "interrupted")
    if number == signal.SIGKILL:
        time.sleep(3)  # its kernel ends within two seconds of it
    else:
        assert not (run.path / "writer.json").exists()
        checkpoint, steps = run.load_checkpoint(), len(run.metrics())
        assert len(checkpoint["losses"]) + 4 * checkpoint["epochs_done"] == steps < 100
    subprocess.run([*command, "resume", "run"], **{**streams, "stdout": None}, check=True)
    assert [record["step"] for record in run.metrics()] == list(range(100))
    whole = train(RunConfig(**{**TINY, "epochs": 25}), tmp_path / "whole")
    report = nbformat.read(run.path / "report.ipynb", as_version=4)
    assert report.cells[-1].outputs[0].text == f"{[record['loss'] for record in whole.metrics()]} True\n"
    assert "True" in (run.path / "report.html").read_text()
