"""The names that may be chosen, and checks of what is given: an error says what was expected, what came, what to do."""

import math

SPLITS = {  # of each data set
    "embedded": ("train", "test"),
    "cifar10": ("train", "test"),
    "stl10": ("train", "test", "unlabeled", "train+unlabeled"),
    "caltech101": ("train", "all"),  # no split of their own: both mean every image
    "folder": ("train", "val", "test", "all"),  # as far as it has them
}
STEMMED = ("convnet", "resnet18", "resnet34", "resnet50")  # these have a stem to choose, and BatchNorm
CHOICES = {
    "dataset": tuple(SPLITS),
    "resize": ("squash", "crop"),
    "unreadable": ("refuse", "skip"),
    "arch": (*STEMMED, "alexnet", "vit_tiny", "vit_small"),
    "stem": ("imagenet", "cifar"),
    "norm": ("batch", "group"),
    "optimizer": ("sgd", "lars", "adamw"),
    "lr_scaling": ("none", "linear", "sqrt"),
    "precision": ("float32", "bfloat16", "float64"),
    "similarity": ("cosine", "dot"),
}


def require(holds: object, what: str, expected: str, got: object, remedy: str = "") -> None:
    """Raise ValueError("<what>: expected <expected>, got <got>; <remedy>") unless `holds`."""
    if not holds:
        raise ValueError(f"{what}: expected {expected}, got {got}" + (f"; {remedy}" if remedy else ""))


def require_choice(**given: object) -> None:
    """Raise ValueError at the first value that is none of CHOICES[its name]."""
    for name, value in given.items():
        require(value in CHOICES[name], name, f"one of {', '.join(CHOICES[name])}", repr(value))


def is_count(value: object) -> bool:
    """Whether `value` is a whole number of at least 1."""
    return type(value) is int and value >= 1


def is_whole(value: object) -> bool:
    """Whether `value` is a whole number of at least 0."""
    return type(value) is int and value >= 0


def is_number(value: object) -> bool:
    """Whether `value` is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_amount(value: object) -> bool:
    """Whether `value` is a finite number of at least 0."""
    return is_number(value) and value >= 0
