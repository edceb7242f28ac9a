"""Training in several processes, as users start it: from train(), from torchrun, from a notebook; and when one dies."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import nbformat
import pytest
import torch
from references import largest_error

from simclr_lib import Run, RunConfig, train
from simclr_lib.engine.launcher import ProcessFailedError

pytestmark = pytest.mark.child
TINY = dict(dataset="embedded", norm="group", blur=False, limit_images=72, batch_size=16, epochs=3, device="cpu")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return run.load_checkpoint()["model"]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Run:
    """The run of a single process, whole, in float64."""
    return train(RunConfig(**TINY, precision="float64"), tmp_path_factory.mktemp("one") / "run")


def test_two_processes_train_the_run_of_one_and_only_the_first_writes(one, tmp_path, capsys):
    run = train(RunConfig(**TINY, precision="float64", processes=2, micro_batch_size=3), tmp_path / "run")
    assert largest_error(weights(run), weights(one)) <= 1e-8
    assert [m["step"] for m in run.metrics()] == [m["step"] for m in one.metrics()]
    assert [m["loss"] for m in run.metrics()] == pytest.approx([m["loss"] for m in one.metrics()], rel=1e-10)
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 12 + 3 + 4  # none twice
    assert {path.name for path in run.path.iterdir()} == {path.name for path in one.path.iterdir()}
    (session,) = run.environment["sessions"]
    assert (session["processes"], session["batch_per_process"], session["micro_batch_size"]) == (2, 8, 3)
    assert run.status["state"] == "finished"
    out, err = capsys.readouterr()
    assert out.count("epoch 3/3  loss") == 1
    assert "192/192" in err  # the bar came to its end
    assert not list(tmp_path.glob("*.json"))


def test_a_run_goes_on_with_another_number_of_processes_whose_warnings_are_shown(one, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    for name in ("checkpoint.previous.pt", "images.npz", "config.json"):  # two epochs of three are done
        (tmp_path / "run" / name).write_bytes((one.path / name).read_bytes())
    (tmp_path / "run/checkpoint.pt").write_bytes(b"damaged")
    lines = (one.path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "run/metrics.jsonl").write_text("\n".join(lines[:13]) + '\n{"kind": "step", "st')  # as a crash cuts it
    run = train(RunConfig(**{**one.config.to_dict(), "processes": 2}), tmp_path / "run")
    assert [m["step"] for m in run.metrics()] == list(range(12))
    assert largest_error(weights(run), weights(one)) <= 1e-8
    assert "checkpoint.pt cannot be read" in capsys.readouterr().out


def test_torchrun_trains_from_the_same_configuration(one, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(one.config.to_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", "--standalone"]
    command += ["-m", "simclr_lib", "train", "--config", "config.json", "--run-dir", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "run")
    assert run.environment["sessions"][0]["processes"] == 4
    assert largest_error(weights(run), weights(one)) <= 1e-8
    assert done.stdout.count("epoch 3/3") == 1


@pytest.mark.slow
def test_two_machines_without_a_common_disk_train_the_run_of_one(one, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meeting = f"localhost:{free.getsockname()[1]}"
    machines = []
    for name in "ab":  # each a torchrun of its own, in a folder of its own
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(one.config.to_dict()))
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", meeting, "--rdzv-id", "test"]
        command += ["-m", "simclr_lib", "train", "--config", "config.json", "--run-dir", "run"]
        with open(tmp_path / name / "words", "w") as words:
            machines.append(subprocess.Popen(command, cwd=tmp_path / name, stdout=words, stderr=words))
    assert [machine.wait(timeout=300) for machine in machines] == [0, 0]
    (run_dir,) = tmp_path.glob("*/run")  # of the machine that got the first process
    assert largest_error(weights(Run.open(run_dir)), weights(one)) <= 1e-8


DYING = """
import os
if os.environ.get("RANK") == "1":
    import signal
    from simclr_lib.train import Learner

    def step(self, images, number, rate, _step=Learner.step):
        if number == 5:
            {death}
        return _step(self, images, number, rate)

    Learner.step = step
"""


@pytest.mark.parametrize(
    ("death", "words"),
    [
        ("raise OSError('the disk of process 1 is full')", "OSError: the disk of process 1 is full"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ],
)
def test_a_process_that_dies_ends_the_run_with_its_own_words(tmp_path, monkeypatch, death, words):
    (tmp_path / "sitecustomize.py").write_text(DYING.format(death=death))  # which Python imports first
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ProcessFailedError, match="one died") as error:
        train(RunConfig(**TINY, processes=2), tmp_path / "run")
    assert words in str(error.value)
    if "raise" in death:
        assert "Traceback" in str(error.value)
        assert "in step" in str(error.value)
    run = Run.open(tmp_path / "run")
    assert run.status["state"] == "failed"
    # of a process that is killed, another may know no more than that it is gone
    assert words in run.status["message"] or ("SIGKILL" in words and "gloo" in run.status["message"])
    assert run.load_checkpoint()["epochs_done"] == 1
    monkeypatch.delenv("PYTHONPATH")
    assert train(RunConfig(**TINY), tmp_path / "run").status["state"] == "finished"  # and one process can go on


@pytest.mark.parametrize(
    "end",
    ["kill"]
    + [
        pytest.param(e, marks=pytest.mark.slow)
        for e in ("interrupt", "interrupt to all, as from a terminal", "terminate")
    ],
)
def test_however_the_caller_ends_its_processes_end_too(tmp_path, end):
    config = {**TINY, "epochs": 1000, "processes": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "simclr_lib", "train", "--config", "config.json", "--run-dir", "run"]
    with open(tmp_path / "words", "w") as words:
        caller = subprocess.Popen(command, cwd=tmp_path, stderr=words, stdout=words, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/checkpoint.pt").exists():
        assert caller.poll() is None, (tmp_path / "words").read_text()
        assert time.monotonic() < deadline, (tmp_path / "words").read_text()
        time.sleep(0.1)
    if "all" in end:
        os.killpg(caller.pid, signal.SIGINT)
    else:
        caller.send_signal({"i": signal.SIGINT, "t": signal.SIGTERM, "k": signal.SIGKILL}[end[0]])
    caller.wait(timeout=90)
    run = Run.open(tmp_path / "run")
    if "interrupt" in end:
        assert run.status["state"] == "interrupted"
    time.sleep(4)  # those who were not told find out
    steps = len(run.metrics())
    time.sleep(2)
    assert len(run.metrics()) == steps  # nobody goes on


@pytest.fixture
def no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be started."""
    module = importlib.import_module("simclr_lib.train")  # the name in the package is the function
    monkeypatch.setattr(module, "launch", lambda *_: pytest.fail("processes were started"))


def test_batch_norm_over_several_processes_is_refused_on_a_cpu_before_anything_starts(tmp_path, no_launch):
    with pytest.raises(ValueError, match=r"^norm: .*'group' with 2 processes on a cpu, got 'batch'"):
        train(RunConfig(**{**TINY, "norm": "batch"}, processes=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_few_images_are_refused_before_anything_starts(tmp_path, no_launch):
    with pytest.raises(ValueError, match=r"^batch_size: .* 72 images"):
        train(RunConfig(**{**TINY, "batch_size": 74}, processes=2), tmp_path / "run")


def test_a_finished_run_starts_no_process(one, no_launch):
    config = RunConfig(**{**one.config.to_dict(), "processes": 2})
    assert train(config, one.path).status["state"] == "finished"


def test_torchrun_refuses_processes_that_cannot_share_the_batch(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "--standalone"]
    command += ["-m", "simclr_lib", "train", "--config", "config.json", "--run-dir", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "batch_size: expected a multiple of the 3 processes, got 16; try 15" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_notebook_shows_the_progress_of_its_processes(tmp_path):
    source = (
        "from simclr_lib import RunConfig, train\n"
        f"run = train(RunConfig(**{TINY | {'processes': 2}}), 'run')\n"
        "print('state', run.status['state'])"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "in.ipynb", "out.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    shown = json.dumps(nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[0].outputs)
    assert shown.count("epoch 3/3") == 1
    assert "192/192" in shown
    assert "state finished" in shown
