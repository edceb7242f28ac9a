"""Where training starts, if not at random weights: `init_from`, another run or a file of weights."""

from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from simclr_lib.engine.checks import require
from simclr_lib.engine.paths import user_path
from simclr_lib.run import Run

REMEDY = "take weights of the same arch, stem, norm and projection_dim; encoder.safetensors has no projection head"


def start_from(model: nn.Module, source: str) -> bool:
    """Give a SimCLR the weights of `source`; returns whether its projection head is among them: else it stays random.

    source: a run directory, of which the last weights are taken; a .safetensors file or a checkpoint of a run; or a
    file of torch.save with the weights of torchvision's class of this architecture. Nothing is unpickled but tensors.

    Raises:
        ValueError: where a name or a shape does not fit the model, naming both; where there are no such weights.
    """
    found = read_weights(user_path(source, "init_from"))
    weights = {name.replace("features.", "0."): found[name] for name in found}  # torchvision's AlexNet calls them so
    whole = any(name.startswith("projection_head.") for name in weights)
    target = model if whole else model.encoder
    own = target.state_dict()
    counters = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")}
    given = counters | {name: weights[name] for name in weights if not name.startswith(("fc.", "classifier."))}
    here, there = ({name: tuple(part[name].shape) for name in part} for part in (own, given))
    wrong = [name for name in here | there if here.get(name) != there.get(name)]
    got = "; ".join(f"{name} {here.get(name, 'none')} here, {there.get(name, 'none')} there" for name in wrong[:3])
    require(not wrong, "init_from", "weights of the names and shapes of this model", f"{source} with {got}", REMEDY)
    target.load_state_dict(given)
    return whole


def read_weights(path: Path) -> dict[str, Tensor]:
    """The last weights of a run, of its encoder alone where no others can be read; or those of a file.

    Raises ValueError where there are none that can be read.
    """
    try:
        if path.is_dir():
            run = Run.open(path)
            with suppress(Exception):
                return run.load_weights()
            return run.load_encoder_weights()
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights = weights.get("model", weights)  # in a run's checkpoint
        named = all(isinstance(name, str) and isinstance(weights[name], Tensor) for name in weights)
        require(named, "weights", "a dictionary of names and tensors", f"one with {', '.join(map(str, weights))[:200]}")
        return weights
    except Exception as error:  # what damaged and hostile files raise
        raise ValueError(f"init_from: expected a run directory or a file of weights, got {path} ({error})") from error
