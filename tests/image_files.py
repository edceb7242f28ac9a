"""Image files in the layouts of the data sets, for the tests that read them. Pixels are drawn from numpy's own seed."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

CLASSES = ["airplane", "bird", "car"]


def pixels(*shape: int, high: int = 256, dtype: type = np.uint8) -> np.ndarray:
    return np.random.randint(0, high, shape, dtype)


def write_images(folder: Path, *names: str, size: tuple[int, int] = (10, 12)) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(*size, 3)).save(folder / name)


class Python2Pickler(pickle._Pickler):
    """Writes str and bytes as Python 2 wrote its str, as in the CIFAR-10 that is published."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        data = value if isinstance(value, bytes) else value.encode("latin1")
        short = len(data) < 256
        self.write(b"U" + bytes([len(data)]) if short else b"T" + len(data).to_bytes(4, "little"))
        self.write(data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_cifar10(root: Path, images_per_batch: int = 4) -> dict[str, np.ndarray]:
    """In the layout of cifar-10-batches-py; -> the images (N, 3, 32, 32) of each split."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batches = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batches[name] = data = pixels(images_per_batch, 3072)
        labels = pixels(images_per_batch, high=3).tolist()
        (folder / name).write_bytes(python2_pickle({"batch_label": "part", "labels": labels, "data": data}))
    (folder / "batches.meta").write_bytes(python2_pickle({"label_names": CLASSES, "num_vis": 3072}))
    *train, test = (data.reshape(-1, 3, 32, 32) for data in batches.values())
    return {"train": np.concatenate(train), "test": test}


def write_stl10(root: Path) -> dict[str, np.ndarray]:
    """In the layout of stl10_binary; -> the images (N, 3, 96, 96) of each part, labelled 0, 1, ... or not."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    parts = {part: pixels(count, 3, 96, 96) for part, count in {"train": 3, "test": 2, "unlabeled": 5}.items()}
    for part, images in parts.items():
        images.swapaxes(2, 3).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            np.arange(1, len(images) + 1, dtype=np.uint8).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(CLASSES) + "\n")
    return parts


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def accept_files(monkeypatch, loader: type, folder: Path) -> None:
    """Tell torchvision's CIFAR10 or STL10 the checksums of the files in `folder`, in place of the published ones."""
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(loader, attribute, [[name, md5(folder / name)] for name, _ in getattr(loader, attribute)])
    if hasattr(loader, "meta"):
        monkeypatch.setattr(loader, "meta", loader.meta | {"md5": md5(folder / loader.meta["filename"])})
