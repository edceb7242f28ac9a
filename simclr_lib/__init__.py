"""SimCLR (Chen et al. 2020): train it, look into it, compare it.

The names below are imported when first used, so that `python -m simclr_lib --help` needs no torch.
"""

import importlib

_HOME = {
    "RunConfig": "config",
    "load_images": "datasets",
    "ImageSet": "datasets",
    "Augment": "augment",
    "build_encoder": "model",
    "SimCLR": "model",
    "nt_xent": "loss",
    "LARS": "lars",
    "parameter_groups": "lars",
    "warmup_cosine": "schedule",
    "train": "training",
    "Run": "record",
    "embed": "embedding",
    "top_k_neighbors": "retrieval",
    "knn_accuracy": "retrieval",
    "linear_probe": "evaluate",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'simclr_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"simclr_lib.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
