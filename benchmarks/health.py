"""What does health cost? The share of a training that its readings take.

    python benchmarks/health.py     # the line of docs/benchmarks.md; 2 minutes on 2 cores

The quickstart's training with colour augmentation; the number of readings times their median, over its epochs. The
median, as one reading that has to wait for another program says nothing of what health costs.
"""

import os
import statistics
import tempfile

import torch

from simclr_lib import RunConfig, train
from simclr_lib.engine.device import device_name
from simclr_lib.engine.environment import processor


def main() -> None:
    config = RunConfig(norm="group", blur=False, epochs=8, batch_size=64, learning_rate=0.03, temperature=0.2)
    with tempfile.TemporaryDirectory() as folder:
        run = train(config, folder)
        readings, epochs = ([record["seconds"] for record in run.metrics(kind)] for kind in ("health", "epoch"))
    cost = len(readings) * statistics.median(readings)
    print(f"{processor()}, {os.cpu_count()} cores; {device_name(torch.device('cpu'))}; torch {torch.__version__}")
    print(f"{len(readings)} readings of {statistics.median(readings):.2f} s: {cost / sum(epochs):.1%} of the training")


if __name__ == "__main__":
    main()
