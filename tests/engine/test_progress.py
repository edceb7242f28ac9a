"""The progress bar in the places where people watch it."""

import os
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from simclr_lib.engine import progress
from simclr_lib.engine.progress import CALLER, follow, progress_bar

CELL = """
from simclr_lib.engine.progress import progress_bar
with progress_bar(30, "training", "images", initial=10) as bar:
    for i in range(2):
        bar.set_postfix(loss="1.234", refresh=False)
        bar.update(10)
        bar.write(f"epoch {i + 1}/2")
with progress_bar(2, "embedding", "images", leave=False) as bar:
    bar.update(2)
"""


@pytest.fixture(scope="module")
def outputs() -> list:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    return NotebookClient(notebook, kernel_name="python3").execute().cells[0].outputs


@pytest.mark.child
def test_an_executed_notebook_keeps_one_bar_in_its_last_state(outputs):
    bars = [o.data["text/plain"] for o in outputs if o.output_type == "display_data"]
    assert len([text for text in bars if text]) == 1
    assert "30/30" in bars[0]
    assert "loss=1.234" in bars[0]
    assert "images/s" in bars[0]
    assert not any("\r" in str(o) for o in outputs)


@pytest.mark.child
def test_an_executed_notebook_keeps_the_line_of_each_epoch_and_nothing_on_stderr(outputs):
    streams = {}
    for output in outputs:
        if output.output_type == "stream":
            streams[output.name] = streams.get(output.name, "") + output.text
    assert streams == {"stdout": "epoch 1/2\nepoch 2/2\n"}


@pytest.mark.child
def test_a_log_file_has_few_lines(tmp_path):
    code = "from simclr_lib.engine.progress import progress_bar\nb = progress_bar(2000, 'a', 'images')\n"
    code += "for _ in range(2000): b.update(1)\nb.close()"
    log = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr
    assert "2000/2000" in log
    assert log.count("\r") <= 4


def test_what_was_done_before_counts_but_not_as_speed(monkeypatch):
    monkeypatch.setattr(progress, "in_notebook", lambda: False)
    with progress_bar(100, "training", "images", initial=90) as bar:
        assert bar.n == 90
        assert bar.format_dict["initial"] == 90


@pytest.mark.child
def test_a_launched_process_tells_its_caller_how_far_it_is_and_what_it_prints(monkeypatch, capsys):
    code = (
        "from simclr_lib.engine.progress import progress_bar, say\n"
        "with progress_bar(5, 'decoding', 'images') as other: other.update(5)\n"
        "with progress_bar(30, 'training', 'images', initial=10) as bar:\n"
        "    bar.set_postfix(loss='1.234', refresh=False); bar.update(10)\n"
        "    say('epoch 1/2')\n"
    )
    environment = {**os.environ, CALLER: "1"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    monkeypatch.setattr(progress, "in_notebook", lambda: False)
    with progress_bar(30, "training", "images") as bar:
        follow(done.stdout.splitlines(keepends=True), bar)
        assert bar.n == 20  # of the bar with the same name alone
        assert bar.postfix == "loss=1.234"
    assert capsys.readouterr().out == "epoch 1/2\n"
