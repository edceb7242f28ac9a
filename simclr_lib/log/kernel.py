"""The kernel that executes a notebook: by which sockets it talks, what of it the terminal shows, how it ends."""

import os
import sys
from tempfile import TemporaryDirectory

import psutil
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from tqdm import tqdm
from traitlets.config import Config


class Client(PapermillNotebookClient):
    """Shows in the terminal, as it comes, what the cells print, and below it the last state of a bar."""

    def process_message(self, msg: dict, cell: dict, cell_index: int) -> object:
        """Of each message of the kernel; see nbclient."""
        data = msg["content"].get("data", {})
        if msg["msg_type"].endswith("display_data") and data.keys() == {"text/plain"}:  # as `engine.progress` has bars
            self.bar.set_description_str(data["text/plain"], refresh=False)
            self.bar.update()
        return super().process_message(msg, cell, cell_index)

    def log_output_message(self, output: dict) -> None:
        """Of each output that is new; see papermill."""
        if output.output_type == "stream":
            tqdm.write("".join(output.text), file=sys.stdout, end="")


class Engine(NBClientEngine):
    """papermill's engine with `Client`, and with sockets in a fresh folder, where those of several notebooks at once
    do not clash, as ports of TCP do; a socket's path may have only some hundred letters."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: object, kernel_name: str, **options: object) -> None:
        """Execute it; see papermill."""
        seconds = 0.2 if sys.stderr.isatty() else 30
        bar = tqdm(bar_format="{desc}", leave=False, dynamic_ncols=True, mininterval=seconds)
        with bar, TemporaryDirectory(prefix="k", dir="/tmp" if os.name == "posix" else None) as folder:
            local = {"transport": "ipc", "connection_file": f"{folder}/k.json"} if os.name == "posix" else {}
            sockets = Config(KernelManager=local)
            client = Client(nb_man, kernel_name=kernel_name, timeout=None, log_output=True, config=sockets)
            client.bar = bar
            client.execute()


papermill_engines.register("simclr", Engine)


def end_kernels() -> None:
    """Pass a signal on to the kernels of this process, and wait: each has a session of its own, which none reaches."""
    kernels = psutil.Process().children()
    for kernel in kernels:
        kernel.terminate()
    psutil.wait_procs(kernels, timeout=30)
