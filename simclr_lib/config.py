"""What one run is: every choice that changes its result, in one frozen place."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from simclr_lib.engine.checks import CHOICES, STEMMED, is_amount, is_count, is_number, is_whole, require, require_choice
from simclr_lib.engine.parameters import notebook_parameters

# These say where and how fast a run computes, not what: a run may be resumed with other values.
MACHINE_FIELDS = ("data_root", "device", "num_workers", "processes", "compile", "checkpoint_minutes")


def _is_share_range(value: object) -> bool:
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(map(is_number, value))
    return is_pair and 0 < value[0] <= value[1] <= 1


CHECKS = (  # what is expected of which fields, beside those that CHOICES lists
    ("a whole number of at least 1", "image_size projection_dim epochs processes", is_count),
    ("None or a whole number of at least 1", "store_size limit_images num_workers", lambda v: v is None or is_count(v)),
    ("a number of at least 0", "learning_rate weight_decay warmup_epochs color_strength", is_amount),
    ("a number in [0, 1)", "momentum test_share", lambda v: is_amount(v) and v < 1),
    ("None (the rule) or a number above 0", "temperature", lambda v: v is None or (is_amount(v) and v > 0)),
    ("two numbers, 0 < smallest <= largest <= 1", "crop_area", _is_share_range),
    ("at least 2 images (one has no negatives)", "batch_size", lambda v: is_count(v) and v >= 2),
    ("None, auto or at least 1 image at a time", "micro_batch_size", lambda v: v in (None, "auto") or is_count(v)),
    ("True or False", "blur compile", lambda v: isinstance(v, bool)),
    ("a name", "split device", lambda v: isinstance(v, str) and v != ""),
    ("a number above 0", "checkpoint_minutes", lambda v: is_amount(v) and v > 0),
    ("None or a path as text", "data_root init_from", lambda v: v is None or (isinstance(v, str) and v != "")),
    ("a whole number from 0 below 2**63", "seed", lambda v: is_whole(v) and v < 2**63),
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The configuration of one run; the field names are the notebooks' parameter names.

    Raises:
        ValueError: on construction, for a value outside its range or choices, naming both.
    """

    # Images
    dataset: str = "embedded"  # embedded, cifar10, stl10, caltech101, folder
    data_root: str | None = None  # folder; None: $SIMCLR_DATA, else <root>/data
    split: str | None = None  # the split that is trained on; None: unlabeled of stl10, else train
    image_size: int = 32  # pixels, the side of a view
    store_size: int | None = None  # pixels, the side at which images are kept; None: image_size
    resize: str = "squash"  # squash to a square, or crop: short side, then centre
    unreadable: str = "refuse"  # what to do about a file that cannot be decoded: refuse, or skip and say so
    limit_images: int | None = None  # a seeded random subset of so many images; None: all
    test_share: float = 0.0  # of a folder without splits: the seeded share of each class that only scores see
    # Views
    crop_area: tuple[float, float] = (0.08, 1.0)  # the least and the largest share of an image that a crop covers
    color_strength: float = 1.0  # s of the paper's colour distortion; 0: no colour augmentation
    blur: bool = True
    # Model
    arch: str = "convnet"
    stem: str | None = None  # None: cifar below 64 pixels, where the architecture has the choice, else imagenet
    norm: str = "batch"
    projection_dim: int = 128
    init_from: str | None = None  # a run's directory, or a file of weights, to start from; None: random weights
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
    compile: bool = False  # torch.compile for the colour part of the views; needs a C++ compiler on a CPU
    device: str = "auto"  # auto: the GPU if there is one
    num_workers: int | None = None  # threads that decode images; None: one a core
    processes: int = 1  # that train as one, on this machine; under torchrun its flags count instead
    checkpoint_minutes: float = 10.0  # between two checkpoints within an epoch; one follows every epoch, too
    seed: int = 0

    def __post_init__(self) -> None:
        settled = vars(self)  # it is frozen only from here on
        if self.split is None:
            settled["split"] = "unlabeled" if self.dataset == "stl10" else "train"
        if isinstance(self.crop_area, list):
            settled["crop_area"] = tuple(self.crop_area)
        for expected, names, holds in CHECKS:
            for name in names.split():
                require(holds(settled[name]), name, expected, repr(settled[name]))
        if self.stem is None:
            settled["stem"] = "cifar" if self.image_size < 64 and self.arch in STEMMED else "imagenet"
        require_choice(**{name: value for name, value in settled.items() if name in CHOICES})
        require(not self.test_share or self.split != "all", "split", "train, with test_share", "'all'")
        even = self.batch_size % self.processes == 0
        require(even, "batch_size", f"a multiple of the {self.processes} processes", self.batch_size)

    @property
    def actual_learning_rate(self) -> float:
        """The peak learning rate, scaled to the batch (SimCLR, section 2.2 and appendix B.1)."""
        scale = {"none": 1.0, "linear": self.batch_size / 256, "sqrt": math.sqrt(self.batch_size)}
        return self.learning_rate * scale[self.lr_scaling]

    @property
    def actual_temperature(self) -> float:
        """The temperature given, else by the rule: long training wants a lower one (SimCLR, appendix B.9)."""
        return self.temperature or (0.5 if self.epochs < 300 else 0.1)

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
        named = {name: getattr(self, name) for name in ("resize", "unreadable", "num_workers", "seed", "test_share")}
        return {"image_size": self.actual_store_size, "limit": self.limit_images, **named}

    @property
    def view_options(self) -> dict:
        """The arguments of `Augment`."""
        return {name: getattr(self, name) for name in ("image_size", "color_strength", "blur", "crop_area", "compile")}

    @property
    def encoder_options(self) -> dict:
        """The arguments of `build_encoder`."""
        return {name: getattr(self, name) for name in ("arch", "stem", "norm", "image_size")}

    @property
    def has_batch_norm(self) -> bool:
        """Whether the encoder normalises over the batch, so that no micro-batch gives the gradient of the whole."""
        return self.norm == "batch" and self.arch in STEMMED

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

    def chosen(self) -> dict[str, Any]:
        """The fields that differ from what a run on this data set has by default, with this encoder and this size."""
        usual = RunConfig(dataset=self.dataset, arch=self.arch, image_size=self.image_size).to_dict()
        return {name: value for name, value in self.to_dict().items() if value != usual[name]}

    def to_dict(self) -> dict:
        """Every field, as json can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "RunConfig":
        """The inverse of `to_dict`. Raises ValueError at a name that is no field, and at what has no names."""
        require(isinstance(values, dict), "configuration", "an object of names and values", repr(values))
        known = {field.name for field in fields(cls)}
        unknown = ", ".join(sorted(set(values) - known))
        require(not unknown, "configuration", f"the fields {', '.join(sorted(known))}", repr(unknown))
        return cls(**values)

    @classmethod
    def from_parameters(cls, namespace: Mapping[str, Any], **settled: Any) -> "RunConfig":
        """The configuration that a notebook asks for: the fields among its parameters; call it with `globals()`.

        settled: fields that the notebook sets without listing them; one that is given all the same counts.
        Raises ValueError as the constructor does, and for the notebook's own parameters: see `notebook_parameters`.
        """
        known = {field.name for field in fields(cls)}
        given = notebook_parameters(namespace, known)
        return cls(**settled | {name: value for name, value in given.items() if name in known})

    def differences(self, other: "RunConfig") -> dict[str, tuple]:
        """The fields that make `other` another run: name -> (value here, value there)."""
        here, there = self.to_dict(), other.to_dict()
        free = {*MACHINE_FIELDS, "micro_batch_size"}
        if self.has_batch_norm:  # it sees the micro-batches of all processes: how a batch is split makes another run
            free -= {"micro_batch_size"} if self.micro_batch_size is None else {"micro_batch_size", "processes"}
        return {name: (here[name], there[name]) for name in here if name not in free and here[name] != there[name]}
