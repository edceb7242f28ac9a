"""A run that is killed, or told to stop, and started again is the run that nobody disturbed."""

import json
import os
import random
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from warm import Started

from simclr_lib import Run, RunConfig, train
from simclr_lib.engine import lock

pytestmark = pytest.mark.child
TINY = dict(
    split="test", limit_images=330, image_size=16, blur=False, batch_size=32, epochs=4, device="cpu", optimizer="lars",
    norm="group", checkpoint_minutes=1e-9,  # after every step
)  # fmt: skip
SPLITS = {
    "one process": {"norm": "batch"},
    "micro-batches": {"micro_batch_size": 8},
    "two processes": {"processes": 2},
}
TIMES = ("seconds", "images_per_second")  # what differs in metrics.jsonl where the same run is trained again
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(config: RunConfig, run_dir: Path) -> Started:
    """Train in a process of its own, in a session of its own."""
    file = run_dir.with_suffix(".json")
    file.write_text(json.dumps(config.to_dict()))
    return Started("simclr_lib", "train", "--config", str(file), "--run-dir", str(run_dir), env=ENVIRONMENT)


def wait_for(holds, process: Started) -> None:
    while not holds() and process.poll() is None:
        time.sleep(0.002)


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kept(run_dir: Path) -> tuple[list[dict], dict]:
    """What must be the same: the lines of metrics.jsonl without the times, and the checkpoint."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        assert not record.keys().isdisjoint({*TIMES, "loss"})
        [record.pop(name, None) for name in TIMES]
    checkpoint = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    assert checkpoint.pop("seconds") >= 0
    return records, checkpoint


def assert_same(found: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


@pytest.fixture(scope="module", params=SPLITS)
def undisturbed(request, tmp_path_factory) -> tuple[RunConfig, Path]:
    config = RunConfig(**{**TINY, **SPLITS[request.param]})
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(config, run_dir)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert len(Run.open(run_dir).metrics()) == 4 * (297 // 32)
    return config, run_dir


def disturb(config: RunConfig, run_dir: Path, number: int, times: int, group: bool) -> list[str]:
    """Train with so many disturbances, and to the end; the states seen after each.

    The first comes while a checkpoint is written, the others at random moments; every second one hits a training that
    has written none since its epoch began.
    """
    seen, last = [], 0.0
    for n in range(times):
        process = start(replace(config, checkpoint_minutes=10.0) if n % 2 else config, run_dir)
        metrics = run_dir / "metrics.jsonl"
        size = metrics.stat().st_size if metrics.exists() else 0
        wait_for(lambda size=size: metrics.exists() and metrics.stat().st_size > size, process)  # noqa: B023
        if n == 0:
            wait_for(lambda: list(run_dir.glob(".checkpoint.pt.*.tmp")), process)
        else:
            time.sleep(random.uniform(0, 0.3))
        others = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        asked = time.monotonic()
        os.killpg(process.pid, number) if group else process.send_signal(number)
        process.communicate(timeout=60)
        last = max(last, time.monotonic() - asked)
        seen.append(Run.open(run_dir).status["state"])
        deadline = time.monotonic() + 30  # its processes end within two seconds of it
        while not all(map(ended, others)):
            assert time.monotonic() < deadline, others
            time.sleep(0.02)
    process = start(config, run_dir)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert last < 4
    return seen


def check_killed(undisturbed, tmp_path: Path, number: int, times: int) -> None:
    config, whole = undisturbed
    states = disturb(config, tmp_path / "run", number, times, group=random.random() < 0.5)
    assert states[0] != "finished"
    assert set(states) <= {"died" if number == signal.SIGKILL else "interrupted", "finished"}
    run = Run.open(tmp_path / "run")
    assert run.status["state"] == "finished"
    assert [record["step"] for record in run.metrics()] == list(range(4 * 9))
    assert_same(kept(tmp_path / "run"), kept(whole))
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert not (tmp_path / "run" / lock.FILE).exists()


def test_a_run_that_was_killed_is_the_run_that_nobody_disturbed(undisturbed, tmp_path):
    check_killed(undisturbed, tmp_path, signal.SIGKILL, 5)


@pytest.mark.slow
@pytest.mark.parametrize("n", range(4))
def test_a_run_that_was_killed_at_twenty_moments(undisturbed, tmp_path, n):
    check_killed(undisturbed, tmp_path, signal.SIGKILL, 5)


def test_a_run_that_was_told_to_stop_keeps_every_step_but_the_one_in_flight(undisturbed, tmp_path):
    check_killed(undisturbed, tmp_path, signal.SIGTERM, 5)


@pytest.mark.parametrize("undisturbed", ["two processes"], indirect=True)
def test_slurm_s_signal_stops_a_run_in_the_same_way(undisturbed, tmp_path):
    check_killed(undisturbed, tmp_path, signal.SIGUSR2, 1)


def contents(run_dir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


@pytest.fixture
def no_image(monkeypatch):
    """Reading images fails the test."""
    monkeypatch.setattr(sys.modules[train.__module__], "load_training_images", lambda *_: pytest.fail("reads images"))


def start_long(run_dir: Path) -> Started:
    """A process that trains for minutes and has written a checkpoint."""
    checkpoint, begun = run_dir / "checkpoint.pt", time.time()
    process = start(RunConfig(**{**TINY, "epochs": 2000}), run_dir)
    wait_for(lambda: checkpoint.exists() and checkpoint.stat().st_mtime > begun, process)
    return process


def check_refused(run_dir: Path, expected: str) -> None:
    """The same run and another one are refused, and not a byte is changed."""
    before = contents(run_dir)
    for epochs in (2000, 3):
        with pytest.raises(ValueError, match=expected):
            train(RunConfig(**{**TINY, "epochs": epochs}), run_dir)
    assert contents(run_dir) == before


def test_a_second_process_is_refused_and_changes_nothing(tmp_path, no_image):
    first = start_long(tmp_path / "run")
    try:
        os.kill(first.pid, signal.SIGSTOP)  # so that all stays as it is
        holder = lock.writer(tmp_path / "run")
        assert (holder["process"], holder["host"]) == (first.pid, socket.gethostname())
        assert Run.open(tmp_path / "run").status["state"] == "running"
        check_refused(tmp_path / "run", rf"run_dir: .*process {first.pid} on .*, since 20")
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()


def test_after_the_first_was_killed_its_run_goes_on_and_another_one_is_refused(tmp_path):
    first = start_long(tmp_path / "run")
    first.kill()
    first.communicate()
    assert Run.open(tmp_path / "run").status["state"] == "died"
    before = {path: data for path, data in contents(tmp_path / "run").items() if path.name != lock.FILE}
    with pytest.raises(ValueError, match=r"epochs 2000 -> 3.*another run_dir"):
        train(RunConfig(**{**TINY, "epochs": 3}), tmp_path / "run")
    assert contents(tmp_path / "run") == before  # the lock of the dead one is gone
    second = start_long(tmp_path / "run")
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=60)
    assert Run.open(tmp_path / "run").status["state"] == "interrupted"
    steps = [record["step"] for record in Run.open(tmp_path / "run").metrics()]
    assert steps == list(range(len(steps)))


def test_a_first_on_another_host_holds_the_directory_as_long_as_its_heart_beats(tmp_path, monkeypatch, capsys):
    run_dir, config = tmp_path / "run", RunConfig(**{**TINY, "epochs": 2})
    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_weights", lambda *_: 1 / 0)  # the snapshot after the first epoch
        with pytest.raises(ZeroDivisionError):
            train(config, run_dir)
    with lock.one_writer(run_dir):
        holder = json.loads((run_dir / lock.FILE).read_text())
    holder |= {"host": "elsewhere", "place": "another machine", "process": 5, "token": "there"}
    (run_dir / lock.FILE).write_text(json.dumps(holder))
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[train.__module__], "load_training_images", lambda *_: pytest.fail("reads images"))
        check_refused(run_dir, "process 5 on elsewhere, since 20")
    long_ago = time.time() - 121
    os.utime(run_dir / lock.FILE, (long_ago, long_ago))
    run = train(config, run_dir)
    assert "took over the lock" in capsys.readouterr().out
    assert run.finished
    assert [record["step"] for record in run.metrics()] == list(range(2 * 9))
