"""What one run is: every choice that changes its result, in one frozen place."""

import math
from dataclasses import asdict, dataclass, fields

CHOICES = {
    "dataset": ("embedded", "cifar10", "stl10", "caltech101", "folder"),
    "resize": ("squash", "crop"),
    "unreadable": ("refuse", "skip"),
    "arch": ("convnet", "alexnet", "resnet18", "resnet34", "resnet50", "vit_tiny", "vit_small"),  # as in model.py
    "stem": ("imagenet", "cifar"),
    "norm": ("batch", "group"),
    "optimizer": ("sgd", "lars", "adamw"),
    "lr_scaling": ("none", "linear", "sqrt"),
    "precision": ("float32", "bfloat16", "float64"),
}
# These say where and how fast a run computes, not what: a run may be resumed with other values.
MACHINE_FIELDS = ("data_root", "device", "num_workers", "processes", "compile")
BATCH_NORM_ARCHS = ("convnet", "resnet18", "resnet34", "resnet50")  # the others have none, whatever `norm` says


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The configuration of one run; the field names are the notebooks' parameter names.

    Raises:
        ValueError: on construction, for a value outside its range or choices, naming both.
    """

    # Images
    dataset: str = "embedded"  # embedded, cifar10, stl10, caltech101, folder
    data_root: str | None = None  # folder; None: $SIMCLR_DATA, else <root>/data
    split: str = "train"  # the split that is trained on
    image_size: int = 32  # pixels, the side of a view
    store_size: int | None = None  # pixels, the side at which images are kept; None: image_size
    resize: str = "squash"  # squash to a square, or crop: short side, then centre
    unreadable: str = "refuse"  # what to do about a file that cannot be decoded: refuse, or skip with a warning
    limit_images: int | None = None  # a seeded random subset of so many images; None: all (see training.keep_out)
    # Views
    color_strength: float = 1.0  # s of the paper's colour distortion; 0: no colour augmentation
    blur: bool = True
    # Model
    arch: str = "convnet"
    stem: str = "cifar"
    norm: str = "batch"
    projection_dim: int = 128
    # Optimization
    optimizer: str = "sgd"  # sgd, lars, adamw
    learning_rate: float = 0.1  # before scaling
    lr_scaling: str = "none"  # none; linear: x batch / 256; sqrt: x sqrt(batch)
    weight_decay: float = 1e-4
    momentum: float = 0.9
    temperature: float | None = None  # None: 0.5 below 300 epochs, 0.1 from 300
    batch_size: int = 256  # images, two views each
    micro_batch_size: int | str | None = None  # images of a process in memory at a time; None: all; auto: what fits
    epochs: int = 20
    warmup_epochs: float = 0.0  # at most a tenth of the epochs is taken
    # Machine
    precision: str = "float32"  # bfloat16: autocast in the forward pass; float64: to check by, throughout
    compile: bool = False  # torch.compile for the colour part of the views, where a compiler is at hand
    device: str = "auto"  # auto: the GPU if there is one
    num_workers: int | None = None  # threads that decode images; None: one a core
    processes: int = 1  # that train as one, on this machine; under torchrun its flags count instead
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            _require(getattr(self, name) in choices, name, f"one of {', '.join(choices)}", getattr(self, name))
        for name in ("blur", "compile"):
            _require(isinstance(getattr(self, name), bool), name, "True or False", getattr(self, name))
        for name in ("split", "device"):
            value = getattr(self, name)
            _require(isinstance(value, str) and value != "", name, "a name", value)
        value = self.data_root
        _require(value is None or isinstance(value, str), "data_root", "None or a folder as a string", value)
        for name in ("image_size", "projection_dim", "epochs", "processes"):
            _require(_is_count(getattr(self, name)), name, "a whole number of at least 1", getattr(self, name))
        for name in ("store_size", "limit_images", "num_workers"):
            value = getattr(self, name)
            _require(value is None or _is_count(value), name, "None or a whole number of at least 1", value)
        for name in ("learning_rate", "weight_decay", "warmup_epochs", "color_strength"):
            value = getattr(self, name)
            _require(_is_number(value) and 0 <= value < math.inf, name, "a number of at least 0", value)
        value = self.batch_size
        _require(_is_count(value) and value >= 2, "batch_size", "at least 2 images (one has no negatives)", value)
        holds = value % self.processes == 0
        _require(holds, "batch_size", f"a multiple of the {self.processes} processes", value)
        value = self.micro_batch_size
        holds = value in (None, "auto") or _is_count(value)
        _require(holds, "micro_batch_size", "None, auto or at least 1 image at a time", value)
        _require(_is_number(self.momentum) and 0 <= self.momentum < 1, "momentum", "a number in [0, 1)", self.momentum)
        value = self.temperature
        holds = value is None or (_is_number(value) and 0 < value < math.inf)
        _require(holds, "temperature", "None (the rule) or a number above 0", value)
        holds = _is_number(self.seed) and isinstance(self.seed, int) and 0 <= self.seed < 2**63
        _require(holds, "seed", "a whole number from 0 below 2**63", self.seed)

    @property
    def actual_learning_rate(self) -> float:
        """The peak learning rate, scaled to the batch (SimCLR, section 2.2 and appendix B.1)."""
        scale = {"none": 1.0, "linear": self.batch_size / 256, "sqrt": math.sqrt(self.batch_size)}
        return self.learning_rate * scale[self.lr_scaling]

    @property
    def actual_temperature(self) -> float:
        """The temperature given, else by the rule: long training wants a lower one (SimCLR, appendix B.9)."""
        if self.temperature is not None:
            return self.temperature
        return 0.5 if self.epochs < 300 else 0.1

    @property
    def actual_store_size(self) -> int:
        """The side in pixels at which images are kept."""
        return self.store_size or self.image_size

    @property
    def seen_center(self) -> float:
        """The share of an image's side that evaluation sees: 224 / 256 where it is cropped to 256 and seen at 224."""
        return min(1.0, self.image_size / self.actual_store_size) if self.resize == "crop" else 1.0

    @property
    def image_options(self) -> dict:
        """The arguments of `load_images` after name, split and root."""
        return {
            "image_size": self.actual_store_size,
            "resize": self.resize,
            "unreadable": self.unreadable,
            "num_workers": self.num_workers,
            "limit": self.limit_images,
            "seed": self.seed,
        }

    @property
    def encoder_options(self) -> dict:
        """The arguments of `build_encoder`."""
        return {"arch": self.arch, "stem": self.stem, "norm": self.norm, "image_size": self.image_size}

    @property
    def has_batch_norm(self) -> bool:
        """Whether the encoder normalises over the batch, so that no micro-batch gives the gradient of the whole."""
        return self.norm == "batch" and self.arch in BATCH_NORM_ARCHS

    @property
    def negatives(self) -> int:
        """The number of negatives per anchor, 2N - 2."""
        return 2 * self.batch_size - 2

    @property
    def chance_loss(self) -> float:
        """The loss of a model that cannot tell the positive from the negatives, ln(2N - 1)."""
        return math.log(2 * self.batch_size - 1)

    def steps_per_epoch(self, images: int) -> int:
        """Whole batches in `images`; what is left over waits for the next epoch's shuffle."""
        return images // self.batch_size

    def warmup_steps(self, images: int) -> int:
        """Steps of linear warm-up: `warmup_epochs`, but at most a tenth of the training."""
        steps = self.steps_per_epoch(images)
        return int(min(self.warmup_epochs * steps, self.epochs * steps / 10))

    def to_dict(self) -> dict:
        """Every field, as json can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "RunConfig":
        """The inverse of `to_dict`. Raises ValueError at a name that is no field, and at what has no names."""
        _require(isinstance(values, dict), "configuration", "an object of names and values", values)
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        _require(not unknown, "configuration", f"the fields {', '.join(sorted(known))}", ", ".join(unknown))
        return cls(**values)

    def differences(self, other: "RunConfig") -> dict[str, tuple]:
        """The fields that make `other` another run: name -> (value here, value there)."""
        here, there = self.to_dict(), other.to_dict()
        return {n: (here[n], there[n]) for n in here if n not in self._machine_fields and here[n] != there[n]}

    @property
    def _machine_fields(self) -> set[str]:
        """A BatchNorm sees the micro-batches of all processes, so that how a batch is split makes another run."""
        if not self.has_batch_norm:
            return {*MACHINE_FIELDS, "micro_batch_size"}
        return set(MACHINE_FIELDS) - (set() if self.micro_batch_size is None else {"processes"})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require(holds: bool, name: str, expected: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
