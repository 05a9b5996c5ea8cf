"""scikit-learn's handwritten digits as sequences: the embedded default, real data inside a dependency.

1,797 images of 8 x 8 pixels (0 .. 16), read row by row: 64 steps of one channel. The sample rate of 1 Hz is
nominal: an image has no time. Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits",
UCI Machine Learning Repository, 1998, doi:10.24432/C50P49 (CC BY 4.0); scikit-learn carries its test part.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imc_ssm.datasets.sequence import SPLITS, SequenceDataset, stratified

__all__ = ["INFO", "load_digits"]

_SIZES = (1077, 360, 360)
_SEED = 20240604  # fixes the split for ever; any other would do

INFO: dict[str, Any] = {
    "name": "digits",
    "description": "handwritten digits of 8 x 8 pixels, row by row (ships with scikit-learn)",
    "shape": (1797, 64, 1),
    "classes": 10,
    "sample_rate": 1.0,
    "splits": dict(zip(SPLITS, _SIZES, strict=True)),
    "source": "Alpaydin and Kaynak, UCI Machine Learning Repository 1998, doi:10.24432/C50P49",
    "licence": "CC BY 4.0",
}


def load_digits() -> SequenceDataset:
    """The digits as (1797, 64, 1) float32 sequences in 10 classes.

    u = (p / 16 - mean) / std with pixel p in 0 .. 16; mean and std are those of the training split (about
    0.30505 and 0.37609), so test data choose nothing. The split is fixed and stratified by class: 1,077
    train, 360 validation and 360 test; the sequences are stored in this order, so every split is a view.
    """
    from sklearn.datasets import load_digits as bundled

    images, digit = bundled(return_X_y=True)
    splits = stratified(digit, _SIZES, _SEED)
    order = np.concatenate([splits[name] for name in SPLITS])
    scaled = images[order] / 16.0
    train = scaled[: _SIZES[0]]
    values = ((scaled - train.mean()) / train.std()).astype(np.float32)
    bounds = np.cumsum((0, *_SIZES))
    return SequenceDataset(
        values=values[:, :, None],
        labels=digit[order],
        splits={name: np.arange(bounds[i], bounds[i + 1]) for i, name in enumerate(SPLITS)},
        sample_rate=1.0,
        task="digits",
    )
