"""SimCLR (Chen et al. 2020): train it, look into it, compare it.

The names below are imported when first used, so that `python -m simclr_lib --help` needs no torch.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

_OFFERED = """
    config.RunConfig  data.sets.load_images  data.sets.ImageSet  augment.Augment  model.build_encoder  model.SimCLR
    loss.nt_xent  lars.LARS  lars.parameter_groups  schedule.warmup_cosine  train.train  run.Run
    retrieval.top_k_neighbors  retrieval.knn_accuracy  evaluation.embeddings.embed
    evaluation.classification.linear_probe
"""
_HOME = {name: module for module, _, name in (place.rpartition(".") for place in _OFFERED.split())}
__all__ = list(_HOME)


class _Package(ModuleType):
    """`simclr_lib.train` is the function, also once its module of the same name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOME:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'simclr_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"simclr_lib.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
