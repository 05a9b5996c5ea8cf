"""Sequential MNIST: 70,000 handwritten digits, one pixel per step.

28 x 28 pixels read row by row: 784 steps of one channel. The sample rate of 1 Hz is nominal: an image has no
time. Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits"; Y. LeCun, L. Bottou,
Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86 (1998),
doi:10.1109/5.726791. As a sequence task: Q. V. Le, N. Jaitly, G. E. Hinton, arXiv:1504.00941 (2015).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imc_ssm.datasets.download import cache_folder, fetch
from imc_ssm.datasets.idx import read_idx
from imc_ssm.datasets.places import folders
from imc_ssm.datasets.sequence import SPLITS, SequenceDataset
from imc_ssm.errors import DataError

__all__ = ["FILES", "INFO", "MIRRORS", "IdxFile", "load_smnist"]

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
"""Where the gzipped files are fetched from, in this order."""


class IdxFile(NamedTuple):
    """One file of MNIST."""

    rank: int
    """Dimensions: 3 for images, 1 for labels."""
    payload: str
    """SHA-256 of the uncompressed file, however it was compressed."""
    download: str
    """SHA-256 of the gzipped file that the mirrors serve."""


FILES = {
    "train-images-idx3-ubyte": IdxFile(
        3,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels-idx1-ubyte": IdxFile(
        1,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "t10k-images-idx3-ubyte": IdxFile(
        3,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "t10k-labels-idx1-ubyte": IdxFile(
        1,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}
"""Training images and labels, test images and labels."""

_MEAN, _STD = 0.1307, 0.3081  # of the training pixels on [0, 1], as everybody rounds them
_SIZES = (50_000, 10_000, 10_000)

INFO: dict[str, Any] = {
    "name": "smnist",
    "description": "MNIST digits of 28 x 28 pixels, row by row (read from a folder, or downloaded once)",
    "shape": (70_000, 784, 1),
    "classes": 10,
    "sample_rate": 1.0,
    "splits": dict(zip(SPLITS, _SIZES, strict=True)),
    "source": "LeCun, Cortes and Burges; LeCun et al., Proc. IEEE 86 (1998), doi:10.1109/5.726791",
    "licence": "CC BY-SA 3.0",
}


def load_smnist(data_dir: str | Path | None = None) -> SequenceDataset:
    """MNIST as (70000, 784, 1) float32 sequences in 10 classes; 220 MB.

    u = (p / 255 - 0.1307) / 0.3081 with pixel p in 0 .. 255. Fixed split, as views: train is the first 50,000
    images of the training file, validation its last 10,000, test the 10,000 of the t10k file.

    The four IDX files, plain or .gz, come from the first folder (or its sub-folder `mnist`) that holds them:
    `data_dir`, the environment variable `IMC_SSM_DATA`, the user's cache; else they are downloaded to the
    cache. Raises `DataError` naming a corrupt file, or where it looked and which mirrors were tried.
    """
    paths = _locate(data_dir)
    arrays = {name: read_idx(paths[name], file.rank, file.payload) for name, file in FILES.items()}
    train_images, train_labels, test_images, test_labels = arrays.values()
    _check_pair(paths, "train", train_images, train_labels)
    _check_pair(paths, "t10k", test_images, test_labels)
    # a table of the 256 values: exact, and the float64 images are never held
    table = ((np.arange(256) / 255.0 - _MEAN) / _STD).astype(np.float32)
    n_train, n = len(train_images), len(train_images) + len(test_images)
    values = np.empty((n, train_images[0].size, 1), np.float32)
    flat = values[:, :, 0]
    np.take(table, train_images.reshape(n_train, -1), out=flat[:n_train], mode="clip")
    np.take(table, test_images.reshape(n - n_train, -1), out=flat[n_train:], mode="clip")
    fitted = n_train * _SIZES[0] // (_SIZES[0] + _SIZES[1])
    return SequenceDataset(
        values=values,
        labels=np.concatenate([train_labels, test_labels]).astype(np.int64),
        splits={
            "train": np.arange(fitted),
            "validation": np.arange(fitted, n_train),
            "test": np.arange(n_train, n),
        },
        sample_rate=1.0,
        task="smnist",
    )


def _check_pair(paths: dict[str, Path], part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """`DataError` unless there is one label of 0 .. 9 per image."""
    path = paths[f"{part}-labels-idx1-ubyte"]
    if len(images) != len(labels):
        other = paths[f"{part}-images-idx3-ubyte"]
        raise DataError(f"{path} is corrupt: it has {len(labels)} labels for the {len(images)} images of {other}")
    if labels.size and labels.max() > 9:
        raise DataError(f"{path} is corrupt: label {labels.max()} at index {labels.argmax()}; digits are 0 to 9")


def _locate(data_dir: str | Path | None) -> dict[str, Path]:
    """The path of each file; downloads them if no folder holds them."""
    looked = folders(data_dir, _listed(FILES))
    for folder, _ in looked:
        if found := _complete(folder):
            return found
        _refuse_partial(folder)
    cache = cache_folder()
    looked.append((cache, f"{cache} (cache)"))
    if found := _complete(cache):
        return found
    target = cache / "mnist"
    try:
        fetch({f"{name}.gz": file.download for name, file in FILES.items()}, MIRRORS, target)
    except DataError as error:
        places = ", ".join(where for _, where in looked)
        raise DataError(
            f"smnist: no files in {places}, and {error}. Put {_listed(FILES)} (plain or .gz) into a folder "
            "and give it as --data-dir or IMC_SSM_DATA"
        ) from None
    return {name: target / f"{name}.gz" for name in FILES}


def _candidates(folder: Path) -> list[dict[str, Path]]:
    """What of the four files is in `folder`, and what is in its sub-folder `mnist`."""
    found = []
    for base in (folder, folder / "mnist"):
        present = {}
        for name in FILES:
            paths = [path for path in (base / name, base / f"{name}.gz") if os.path.isfile(path)]
            if paths:
                present[name] = paths[0]
        found.append(present)
    return found


def _complete(folder: Path) -> dict[str, Path] | None:
    """All four files, if `folder` or its sub-folder holds them."""
    return next((present for present in _candidates(folder) if len(present) == len(FILES)), None)


def _refuse_partial(folder: Path) -> None:
    """`DataError` if a folder of the user holds some of the files: it was meant, so the rest is missing."""
    for present in _candidates(folder):
        if present:
            base = next(iter(present.values())).parent
            raise DataError(
                f"{base} holds {_listed(present)} but not {_listed(set(FILES) - set(present))}; add what is "
                "missing (plain or .gz)"
            )


def _listed(names: Iterable[str]) -> str:
    """Names in one phrase."""
    return ", ".join(sorted(names))
