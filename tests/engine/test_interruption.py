"""Signals, sent to processes of their own: what is kept, in which state, how soon, and how the process ends."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from simclr_lib.engine.interruption import interruption

pytestmark = pytest.mark.child
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # minutes in C, where no handler of Python's runs
FRAME = """
import hashlib, os, signal, sys, threading, time
from simclr_lib.engine.interruption import interruption
def tell(*words): os.write(1, (' '.join(map(str, words)) + '\\n').encode())
state = 0
with interruption.at_end(lambda: tell('release')), interruption.keeping(lambda: tell('keep', state)):
{body}
tell('end')
"""


def start(body: str, **variables: str) -> subprocess.Popen:
    """A process in the middle of `body`, which says "ready"."""
    code = FRAME.format(body=textwrap.indent(textwrap.dedent(body).strip(), "    "))
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **variables}, **streams)
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def end(process: subprocess.Popen) -> tuple[int, list[str]]:
    begun = time.monotonic()
    printed, errors = process.communicate(timeout=30)
    assert time.monotonic() - begun < 4, errors
    return process.returncode, printed.split("\n")[:-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_what_is_to_be_kept_is_kept_at_once_whatever_the_main_thread_computes(number):
    process = start(f"tell('ready'); {BUSY}")
    process.send_signal(number)
    assert end(process) == (128 + number, ["keep 0", "release"])


def test_what_was_named_last_is_kept_first_and_what_cannot_be_kept_holds_up_nothing():
    body = f"""
    with interruption.keeping(lambda: tell('then')), interruption.keeping(lambda: 1 / 0), \\
            interruption.keeping(lambda: tell('first')):
        tell('ready')
        {BUSY}
    """
    process = start(body)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, ["first", "then", "keep 0", "release"])


def test_a_change_that_has_begun_is_finished_first_and_none_begins_after():
    body = """
    with interruption.whole():
        interruption.begin_change()
        state = 'half'
        tell('ready')
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline: pass
        state = 'whole'
    with interruption.whole(changing=True):
        tell('never')
    """
    process = start(body)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, ["keep whole", "release"])


def test_a_step_that_has_changed_nothing_is_abandoned():
    body = f"""
    with interruption.whole():
        tell('ready')
        {BUSY}
    """
    process = start(body)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, ["keep 0", "release"])


def test_a_signal_repeated_does_no_harm():
    body = "with interruption.keeping(lambda: time.sleep(0.5)):\n    tell('ready')\n    while True: pass"
    process = start(body)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
        process.send_signal(signal.SIGUSR2)
        time.sleep(0.01)
    assert end(process) == (143, ["keep 0", "release"])


@pytest.mark.parametrize("times", [1, 5])
def test_sigint_keeps_and_then_raises_as_everywhere(times):
    body = """
    try:
        tell('ready')
        while True: pass
    except KeyboardInterrupt:
        tell('raised')
        time.sleep(0.3)
    """
    process = start(body)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    assert end(process) == (0, ["keep 0", "raised", "end"])


def test_sigint_ends_a_process_that_torchrun_started():
    process = start(f"tell('ready'); {BUSY}", TORCHELASTIC_RUN_ID="1")
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, ["keep 0", "release"])


def test_an_end_after_sigint_is_heeded():
    body = f"""
    try:
        tell('ready')
        while True: pass
    except KeyboardInterrupt:
        tell('raised')
        {BUSY}
    """
    process = start(body)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "keep 0\n"
    assert process.stdout.readline() == "raised\n"
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, ["release"])


def test_a_signal_while_the_handlers_are_set_ends_the_process_too():
    code = """
import os, signal
from simclr_lib.engine.interruption import interruption
def set_and_signal(number, handler, set=signal.signal):
    before = set(number, handler)
    if number == signal.SIGTERM:
        os.kill(os.getpid(), number)
    return before
signal.signal = set_and_signal
with interruption.at_end(lambda: os.write(1, b"release")):
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (143, "release"), done.stderr


def test_another_thread_neither_waits_nor_ends_what_this_one_has_begun():
    with interruption.at_end(lambda: None), interruption.whole(changing=True):

        def change() -> None:
            with interruption.whole(changing=True):
                pass

        thread = threading.Thread(target=change)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
        assert interruption._changing.locked()
    assert not interruption._changing.locked()


def test_what_is_ignored_stays_so():
    code = FRAME.format(body="    tell('ready'); os.kill(os.getpid(), signal.SIGINT); time.sleep(0.2)")
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout.split()) == (0, ["ready", "end"])


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for _ in range(2):
        with interruption.at_end(lambda: None):
            assert signal.getsignal(signal.SIGTERM) != before[0]
            with interruption.at_end(lambda: None), interruption.whole(), interruption.whole(changing=True):
                pass  # once more inside changes nothing
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    with interruption.whole(), interruption.whole(changing=True):
        pass  # outside, nothing waits
