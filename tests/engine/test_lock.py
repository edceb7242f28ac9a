"""The lock of a directory: one writer, whoever comes first; the dead hold nothing."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from simclr_lib.engine import lock
from simclr_lib.engine.lock import LockLostError, one_writer, require_free, require_held, writer


def holder(folder: Path, **changes: object) -> dict:
    """The lock file that this process would write, with `changes`."""
    with one_writer(folder):
        values = json.loads((folder / lock.FILE).read_text())
    values |= changes
    (folder / lock.FILE).write_text(json.dumps(values))
    return values


def age(folder: Path, seconds: float) -> None:
    now = time.time() - seconds
    os.utime(folder / lock.FILE, (now, now))


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_who_writes_is_known_while_it_writes(tmp_path):
    assert writer(tmp_path) is None
    with one_writer(tmp_path):
        assert writer(tmp_path)["process"] == os.getpid()
        with pytest.raises(ValueError, match=rf"run_dir: .*process {os.getpid()} on .*, since 20.*Z"):
            require_free(tmp_path)
    assert writer(tmp_path) is None
    require_free(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_refused_and_the_first_is_untouched(tmp_path):
    with one_writer(tmp_path):
        before = (tmp_path / lock.FILE).read_bytes()
        for _ in range(2):
            with pytest.raises(ValueError, match="is trained"), one_writer(tmp_path):
                pytest.fail("two writers")
        assert (tmp_path / lock.FILE).read_bytes() == before
        require_held(tmp_path)


def test_it_is_given_back_after_an_error(tmp_path):
    with pytest.raises(KeyError), one_writer(tmp_path):
        raise KeyError
    with one_writer(tmp_path):
        pass


def test_the_lock_of_a_process_that_ended_is_taken_over_with_a_line(tmp_path, capsys):
    holder(tmp_path, process=ended_process(), token="dead")
    assert writer(tmp_path) is None
    with one_writer(tmp_path):
        assert writer(tmp_path)["process"] == os.getpid()
    assert "took over the lock of a process that died" in capsys.readouterr().out


def test_another_process_of_the_same_number_is_not_taken_for_the_holder(tmp_path):
    holder(tmp_path, born="1", token="before")
    assert writer(tmp_path) is None


def test_a_process_that_was_killed_and_not_yet_waited_for_holds_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder(tmp_path, process=process.pid, born=lock._born(process.pid))
    assert writer(tmp_path)["process"] == process.pid
    process.kill()
    deadline = time.monotonic() + 10
    while writer(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert writer(tmp_path) is None
    process.communicate()


@pytest.mark.parametrize(("seconds", "alive"), [(0, True), (110, True), (130, False), (-110, True), (-130, False)])
def test_of_a_process_elsewhere_only_the_heartbeat_is_known(tmp_path, seconds, alive):
    holder(tmp_path, process=ended_process(), place="another machine", host="elsewhere", token="there")
    age(tmp_path, seconds)
    assert bool(writer(tmp_path)) == alive
    if alive:
        with pytest.raises(ValueError, match="on elsewhere"), one_writer(tmp_path):
            pass
    else:
        with one_writer(tmp_path):
            assert writer(tmp_path)["process"] == os.getpid()


def test_the_heartbeat_is_measured_by_the_clock_of_the_disk(tmp_path, monkeypatch):
    holder(tmp_path, place="another machine", token="there")
    for clock in (0, 1e6, 1e12):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        assert writer(tmp_path)


def test_a_heartbeat_keeps_the_lock_young(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with one_writer(tmp_path):
        age(tmp_path, 1000)
        deadline = time.monotonic() + 10
        while time.time() - (tmp_path / lock.FILE).stat().st_mtime > 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - (tmp_path / lock.FILE).stat().st_mtime < 100


def test_a_lock_that_is_being_written_is_one(tmp_path):
    (tmp_path / lock.FILE).touch()
    with pytest.raises(ValueError, match="process unknown on unknown"), one_writer(tmp_path):
        pass


def test_a_holder_that_lost_its_lock_writes_no_more_and_leaves_the_other_s(tmp_path):
    with one_writer(tmp_path):
        other = json.loads((tmp_path / lock.FILE).read_text()) | {"token": "other"}
        (tmp_path / lock.FILE).write_text(json.dumps(other))
        with pytest.raises(LockLostError, match="is held by process"):
            require_held(tmp_path)
    assert json.loads((tmp_path / lock.FILE).read_text())["token"] == "other"
    require_held(tmp_path)  # it holds nothing any more


def test_a_lock_that_was_deleted_is_lost(tmp_path):
    with one_writer(tmp_path):
        (tmp_path / lock.FILE).unlink()
        with pytest.raises(LockLostError, match="is gone"):
            require_held(tmp_path)


def test_a_process_that_the_holder_started_is_one_writer_with_it(tmp_path, monkeypatch):
    with one_writer(tmp_path):
        before = (tmp_path / lock.FILE).read_bytes()
        monkeypatch.setenv(lock.TOKEN, lock.held[tmp_path])
        with one_writer(tmp_path):
            require_held(tmp_path)
        assert (tmp_path / lock.FILE).read_bytes() == before  # the holder gives it back
    assert not (tmp_path / lock.FILE).exists()


def test_ctrl_c_during_a_takeover_leaves_no_lock(tmp_path, monkeypatch):
    holder(tmp_path, process=ended_process(), token="dead")

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lock.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt), one_writer(tmp_path):
            pytest.fail("interrupted")
    with one_writer(tmp_path):
        require_held(tmp_path)


def test_one_that_takes_it_over_while_another_hesitates_keeps_it(tmp_path, monkeypatch):
    holder(tmp_path, process=ended_process(), token="dead")
    write_text = Path.write_text

    def hesitate(file: Path, text: str) -> None:
        monkeypatch.undo()
        write_text(file, text)
        write_text(tmp_path / lock.FILE, json.dumps({**json.loads(text), "token": "quicker"}))

    monkeypatch.setattr(Path, "write_text", hesitate)
    with pytest.raises(ValueError, match="is trained"), one_writer(tmp_path):
        pytest.fail("two writers")
    assert json.loads((tmp_path / lock.FILE).read_text())["token"] == "quicker"


def test_on_a_full_disk_no_half_a_lock_is_left(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lock.json, "dump", full)
        with pytest.raises(OSError, match=r"expected a disk with room for a run, got .*No space"), one_writer(tmp_path):
            pytest.fail("no room")
    with one_writer(tmp_path):
        require_held(tmp_path)


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_that_come_at_once_one_writes(tmp_path, dead):
    if dead:
        holder(tmp_path, process=ended_process(), token="dead")
    together, end, won, refused = threading.Barrier(8), threading.Event(), [], []

    def come() -> None:
        together.wait()
        try:
            with one_writer(tmp_path):
                won.append(1)
                end.wait(10)
        except ValueError:
            refused.append(1)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(refused) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    end.set()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
