"""Series of the UCR, UEA and TSER archives: text files `.ts`, one series a line.

    @problemName Gunpoint            what is not known is refused, not guessed
    @dimensions 2
    @classLabel true left right      or @targetLabel true: one real number
    @data
    0.1,0.2,0.3:1.5,1.2,1.1:left     channels between colons, steps between commas, the label last

Source: A. Bagnall et al., "The UEA multivariate time series classification archive, 2018", arXiv:1811.00075; the
readers of aeon and sktime, which bring many dependencies.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imc_ssm.datasets.sequence import SequenceDataset, stratified
from imc_ssm.errors import DataError, unknown

__all__ = ["load_ts"]

_TAGS = (
    *("problemname", "timestamps", "missing", "univariate", "dimension", "dimensions"),
    *("equallength", "serieslength", "classlabel", "targetlabel", "data"),
)


def load_ts(path: str | Path, seed: int = 0) -> SequenceDataset:
    """Read `NAME_TRAIN.ts` with `NAME_TEST.ts` beside it (either may be named), or one file alone.

    The archive's test series are the test split; 20 % of its training series, drawn from `seed` and stratified by
    class, are the validation. One file alone is split 70/15/15. Series of different lengths have `lengths`. Values
    are taken as they are.

    Raises `DataError`, naming file and line, for what is missing or not text, an unknown tag, time stamps, missing
    values ("?"), a class that was not declared, or channels that differ in number or length.
    """
    path = Path(path)
    stem = path.stem.removesuffix("_TRAIN").removesuffix("_TEST")
    pair = stem != path.stem
    files = [path.with_name(f"{stem}_{part}.ts") for part in ("TRAIN", "TEST")] if pair else [path]
    read = [_read(file) for file in files]
    if pair and read[0][2] != read[1][2]:
        raise DataError(f"{files[0]} has classes {read[0][2]}, {files[1]} {read[1][2]}; give files of one task")
    series, wanted = [s for part in read for s in part[0]], [w for part in read for w in part[1]]
    classes = read[0][2]
    if len({len(s) for s in series}) > 1:
        raise DataError(
            f"{path}: series have {sorted({len(s) for s in series})} channels; give one number of them"
        )
    lengths = np.array([s.shape[1] for s in series])
    values = np.zeros((len(series), int(lengths.max()), len(series[0])), np.float32)
    for row, s in enumerate(series):
        values[row, : s.shape[1]] = s.T
    n, groups = len(read[0][0]), np.array(wanted if classes else [0] * len(series), np.int64)
    if n < 3:
        raise DataError(f"{files[0]} holds {n} series; give at least 3")
    held = max(1, round((0.2 if pair else 0.15) * n))
    parts = stratified(groups[:n], (n - held - 1, held, 1) if pair else (n - 2 * held, held, held), seed)
    if pair:  # the third part is the training's, given back
        parts["train"] = np.sort(np.concatenate([parts["train"], parts["test"]]))
        parts["test"] = np.arange(n, len(series))
    return SequenceDataset(
        values=values,
        labels=groups if classes else None,
        targets=None if classes else np.array(wanted, np.float64)[:, None],
        splits=parts,
        lengths=None if (lengths == lengths[0]).all() else lengths,
        task=stem,
        class_names=classes or None,
    )


def _read(path: Path) -> tuple[list[np.ndarray], list[float], tuple[str, ...]]:
    """Series (channel, time), their class numbers or targets, and the names of the classes (none: targets)."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DataError(f"cannot read {path}: {reason}; give the path of a .ts file") from None
    series: list[np.ndarray] = []
    wanted: list[float] = []
    tags: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        words, where = line.split(), f"{path}, line {number}"
        if not words or line.startswith(("#", "%")):
            continue
        if line.startswith("@"):
            tag = words[0][1:].lower()
            if tag not in _TAGS:
                raise DataError(f"{where}: {unknown('tag', words[0][1:], _TAGS)}")
            tags[tag] = words[1:]
            continue
        if "data" not in tags:
            raise DataError(f"{where}: series before @data; this is no .ts file of the archive")
        if tags.get("timestamps", ["false"])[0].lower() != "false":
            raise DataError(f"{where}: series have time stamps, which are not read; give series of equal steps")
        *channels, last = line.strip().split(":")
        classes = _classes(tags, where)
        try:
            values = [np.array(channel.split(","), dtype=np.float64) for channel in channels]
            goal = float(classes.index(last.strip())) if classes else float(last)
        except ValueError as error:
            raise DataError(f"{where}: {error}; missing values are not read, classes are {classes}") from None
        if not values or len({len(channel) for channel in values}) > 1:
            raise DataError(f"{where}: channels of {[len(c) for c in values]} steps; give one length in a series")
        series.append(np.stack(values))
        wanted.append(goal)
    if not series:
        raise DataError(f"{path} holds no series; give a .ts file with lines after @data")
    return series, wanted, _classes(tags, str(path))


def _classes(tags: dict[str, list[str]], where: str) -> tuple[str, ...]:
    """The declared classes; none where the label is a number."""
    said, target = tags.get("classlabel", ["false"]), tags.get("targetlabel", ["false"])
    if said[:1] and said[0].lower() == "true" and len(said) > 2:
        return tuple(said[1:])
    if target[:1] and target[0].lower() == "true":
        return ()
    raise DataError(f"{where}: neither @classLabel true with two classes or more nor @targetLabel true; add one")
