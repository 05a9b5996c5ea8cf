"""The embedded task."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from imc_ssm import datasets
from imc_ssm.datasets import SequenceDataset


@pytest.fixture(scope="module")
def digits() -> SequenceDataset:
    return datasets.load("digits")


def test_shape_splits_and_what_info_says(digits: SequenceDataset) -> None:
    info = datasets.info("digits")
    assert digits.values.shape == info["shape"] == (1797, 64, 1)
    assert digits.n_classes == info["classes"] == 10
    assert digits.sample_rate == info["sample_rate"]
    assert {name: len(index) for name, index in digits.splits.items()} == info["splits"]
    assert info["splits"] == {"train": 1077, "validation": 360, "test": 360}
    assert digits.lengths is None


def test_every_image_of_the_source_occurs_once_in_reading_order(digits: SequenceDataset) -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    train = digits.split("train").values
    pixels = (digits.values[:, :, 0] - train.min()) * (16 / (digits.values.max() - train.min()))
    ours = sorted(
        (label, tuple(row)) for label, row in zip(digits.labels, pixels.round().astype(int), strict=True)
    )
    theirs = sorted((label, tuple(row)) for label, row in zip(labels, images.astype(int), strict=True))
    assert ours == theirs


def test_only_the_training_split_sets_the_normalisation(digits: SequenceDataset) -> None:
    train = digits.split("train").values.astype(np.float64)
    assert abs(train.mean()) < 1e-6
    assert abs(train.std() - 1) < 1e-6
    # u = (p / 16 - mean) / std: the documented constants, from the darkest and the brightest pixel
    low, high = float(digits.values.min()), float(digits.values.max())
    assert 1 / (high - low) == pytest.approx(0.37609, abs=1e-5)
    assert -low / (high - low) == pytest.approx(0.30505, abs=1e-5)


def test_classes_are_spread_evenly_over_the_splits(digits: SequenceDataset) -> None:
    whole = np.bincount(digits.labels) / len(digits)
    for name in digits.splits:
        labels = digits.split(name).labels
        assert np.abs(np.bincount(labels) - whole * len(labels)).max() < 2
        assert np.shares_memory(labels, digits.labels)


def test_the_split_never_changes(digits: SequenceDataset) -> None:
    """A digest of the labels in stored order: test images of today are test images of tomorrow."""
    assert hashlib.sha256(digits.labels.tobytes()).hexdigest()[:16] == "47503b3febfaccdb"


def test_equal_in_another_process(digits: SequenceDataset) -> None:
    code = (
        "import hashlib; from imc_ssm import datasets; "
        "print(hashlib.sha256(datasets.load('digits').values.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(digits.values.tobytes()).hexdigest()
