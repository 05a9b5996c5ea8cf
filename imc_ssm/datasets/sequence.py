"""`SequenceDataset`: sequences and what is wanted of them, checked once so that nothing after it has to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from imc_ssm.errors import ConfigError, DataError, brief, unknown
from imc_ssm.units import card, card_html

__all__ = ["SPLITS", "SequenceDataset", "Split", "stratified"]

SPLITS = ("train", "validation", "test")
"""Train fits, validation chooses, test reports."""

_MAX_CLASSES = 65536
_POOL = 8  # batches among which sequences are sorted by length
Goal = Literal["classes", "values"]
Batch = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a dataset. Arrays are views of the dataset's where the part is a contiguous range."""

    values: np.ndarray
    """(n, time, channel) float32."""
    labels: np.ndarray
    """What is wanted: classes, int64 (n,) or (n, time) with -1 where there is none; or values, float32 (n, K) or
    (n, time, K), NaN behind the end."""
    lengths: np.ndarray | None = None
    """(n,) int64, valid steps of each sequence; None if all have full length."""
    outputs: int = 0
    """K: classes or values. 0: not known."""

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def goal(self) -> Goal:
        """Whether classes or values are wanted."""
        return "values" if self.labels.dtype.kind == "f" else "classes"

    @property
    def per_step(self) -> bool:
        """Whether they are wanted of every step."""
        return self.labels.ndim == (3 if self.goal == "values" else 2)

    @property
    def counted(self) -> int:
        """How many answers a metric is taken over: sequences, or steps that have a label or target."""
        if not self.per_step:
            return len(self)
        return int(np.isfinite(self.labels[..., 0]).sum() if self.goal == "values" else (self.labels >= 0).sum())

    def digest(self) -> str:
        """SHA-256 of the sequences, what is wanted of them, and where they end."""
        digest = hashlib.sha256()
        for array in (self.values, self.labels, *(() if self.lengths is None else (self.lengths,))):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def batches(
        self, batch_size: int, rng: np.random.Generator | None = None, *, order: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Every sequence once, as (values, wanted, lengths) of up to `batch_size`; the last may be smaller.

        In order (views, no copies) or in the given `order` of indices, else shuffled by `rng`. A batch is cut to
        its longest sequence, and where lengths differ, shuffled sequences of like length come together: within
        every `_POOL` batches, whose order is drawn again. Raises `ConfigError` if not `batch_size >= 1`.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size = {batch_size}; give at least 1")
        if rng is None:
            return self._batches(batch_size, order)
        return (self.cut(part) for part in self.shuffled(batch_size, rng))

    def shuffled(self, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Indices of the batches that `batches` makes with this generator."""
        order = rng.permutation(len(self))
        if self.lengths is None or (self.lengths == self.lengths[0]).all():
            return np.split(order, range(batch_size, len(order), batch_size))
        parts: list[np.ndarray] = []
        for start in range(0, len(order), _POOL * batch_size):
            pool = order[start : start + _POOL * batch_size]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            cut = np.split(pool, range(batch_size, len(pool), batch_size))
            whole = [part for part in cut if len(part) == batch_size]
            parts += [whole[i] for i in rng.permutation(len(whole))] + cut[len(whole) :]
        return parts

    def by_length(self) -> np.ndarray | None:
        """Indices (n,) that put sequences of like length together, longest first; None if all are full."""
        return None if self.lengths is None else np.argsort(-self.lengths, kind="stable")

    def _batches(self, batch_size: int, order: np.ndarray | None) -> Iterator[Batch]:
        """The generator behind `batches`, whose arguments are checked before the first batch is asked for."""
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield self.cut(slice(start, stop) if order is None else order[start:stop])

    def cut(self, index: slice | np.ndarray) -> Batch:
        """The sequences at `index` as a batch, cut to the longest of them."""
        part = self._at(index)
        if part.lengths is None:
            return part.values, part.labels, None
        longest = part.lengths.max()
        wanted = part.labels[:, :longest] if part.per_step else part.labels
        return part.values[:, :longest], wanted, part.lengths

    def take(self, n: int) -> Split:
        """The first `n` sequences, or all if there are fewer. Raises `ConfigError` if not `n >= 1`."""
        if n < 1:
            raise ConfigError(f"cannot take {n} sequences of a split; give at least 1")
        return self._at(slice(0, n))

    def sample(self, n: int, rng: np.random.Generator) -> Split:
        """`n` sequences drawn without replacement, in their order; as many as `take` takes."""
        return self._at(np.sort(rng.choice(len(self), len(self.take(n)), replace=False)))

    def _at(self, index: slice | np.ndarray) -> Split:
        """The sequences at `index`."""
        lengths = None if self.lengths is None else self.lengths[index]
        return Split(self.values[index], self.labels[index], lengths, self.outputs)


@dataclass(frozen=True, eq=False)
class SequenceDataset:
    """Sequences with fixed splits, and what is wanted of them: classes or values, of a sequence or of every step.

    Construction converts the arrays to the types below and raises `DataError`, naming the first offender, for
    wrong shapes or types, values that are not finite, labels or lengths out of range, and splits that are
    missing, empty, out of range or overlapping.
    """

    values: np.ndarray
    """(n, time, channel) float32, finite."""
    labels: np.ndarray | None
    """(n,) int64, classes 0 .. K - 1 (not every class has to occur), or (n, time) with -1 where a step has none;
    None where there are `targets`."""
    splits: Mapping[str, np.ndarray]
    """"train", "validation" and "test": disjoint int64 indices of sequences."""
    lengths: np.ndarray | None = None
    """(n,) int64 in 1 .. time: valid steps of each sequence; None if all have full length."""
    sample_rate: float = 1.0
    """Time steps per second (Hz)."""
    task: str = "sequences"
    """What this is, for tables and figures."""
    targets: np.ndarray | None = None
    """(n, K) float32, K values of a sequence, or (n, time, K), K values of every step (NaN behind a sequence's
    end); None where there are `labels`."""
    class_names: tuple[str, ...] | None = None
    """(K,) names of the classes; None: they have numbers, up to the largest label."""

    def __post_init__(self) -> None:
        if not (isinstance(self.task, str) and self.task):
            raise DataError(f"task = {self.task!r}; give a name")
        values = _values(self.task, self.values)
        n, time, _ = values.shape
        if (self.labels is None) == (self.targets is None):
            given = "both labels and targets" if self.targets is not None else "neither labels nor targets"
            raise DataError(f"{self.task} has {given}; give labels (classes) or targets (values)")
        lengths = None if self.lengths is None else _lengths(self.task, self.lengths, n, time)
        labels = None if self.labels is None else _labels(self.task, self.labels, n, time, lengths)
        checked = {
            "values": values,
            "labels": labels,
            "targets": None if self.targets is None else _targets(self.task, self.targets, n, time, lengths),
            "class_names": None if self.class_names is None else _names(self.task, self.class_names, labels),
            "splits": _splits(self.task, self.splits, n),
            "lengths": lengths,
            "sample_rate": _rate(self.task, self.sample_rate),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        empty = [name for name in SPLITS if not self.split(name).counted]
        if empty:
            raise DataError(f"{self.task}: no step of split {empty[0]!r} has a label; put some there that have")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def _wanted(self) -> np.ndarray:
        wanted = self.labels if self.labels is not None else self.targets
        assert wanted is not None
        return wanted

    @property
    def goal(self) -> Goal:
        """What a model is to find: "classes" or "values"."""
        return "classes" if self.labels is not None else "values"

    @property
    def per_step(self) -> bool:
        """Whether every step has an answer, or the sequence has one."""
        return self._wanted.ndim == (2 if self.labels is not None else 3)

    @property
    def outputs(self) -> int:
        """K: classes (those named, else the largest label + 1), or values of a target."""
        if self.labels is None:
            return int(self._wanted.shape[-1])
        return len(self.class_names) if self.class_names is not None else int(self.labels.max()) + 1

    def _card(self) -> tuple[str, dict[str, object]]:
        n, time, channels = self.values.shape
        rows: dict[str, object] = {
            "sequences": f"{n} x {time} steps x {channels} channels at {self.sample_rate:g} Hz",
            "splits": ", ".join(f"{name} {len(index)}" for name, index in self.splits.items()),
            "wanted": f"{self.outputs} {self.goal} a {'step' if self.per_step else 'sequence'}",
        }
        if self.lengths is not None:
            rows["lengths"] = f"{int(self.lengths.min())} to {int(self.lengths.max())} steps"
        return f"SequenceDataset {self.task!r}", rows

    def __repr__(self) -> str:
        return card(*self._card())

    def _repr_html_(self) -> str:
        return card_html(*self._card())

    @property
    def n_classes(self) -> int:
        """Number of classes; `DataError` where values are wanted."""
        if self.labels is None:
            raise DataError(f"dataset {self.task!r} has targets, no classes; ask for its outputs")
        return self.outputs

    @property
    def time(self) -> int:
        """Number of time steps of the longest sequence the arrays can hold."""
        return int(self.values.shape[1])

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return int(self.values.shape[2])

    def split(self, name: str) -> Split:
        """One of "train", "validation" and "test"; a view, not a copy, if its indices are a range."""
        if name not in self.splits:
            raise DataError(unknown("split", name, self.splits))
        index = self.splits[name]
        whole = Split(self.values, self._wanted, self.lengths, self.outputs)
        contiguous = bool((np.diff(index) == 1).all())
        return whole._at(slice(int(index[0]), int(index[-1]) + 1) if contiguous else index)


def stratified(labels: np.ndarray, sizes: tuple[int, int, int], seed: int) -> dict[str, np.ndarray]:
    """Random train, validation and test indices of exactly `sizes` with the class proportions of the whole.

    Sequence r of the n_k (in random order) of class k gets the position (r + 1/2) / n_k; the sequences sorted
    by position are cut at `sizes`. The order comes from raw Philox4x32-10 words, which no NumPy release may
    change (unlike `Generator.permutation`), so a split stays the same for ever.

    `labels`: (n,) integers; `sizes` sum to n. Raises `DataError` for sizes below 1 or another sum.
    """
    n = len(labels)
    if min(sizes) < 1 or sum(sizes) != n:
        raise DataError(f"cannot split {n} sequences into {sizes}; give at least 1 each and {n} together")
    key = np.random.Philox(key=seed).random_raw(n)
    _, group, count = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.lexsort((key, group))  # class after class, in random order within each
    grouped = group[order]
    rank = np.arange(n) - np.searchsorted(grouped, grouped)
    position = np.empty(n)
    position[order] = (rank + 0.5) / count[grouped]
    by_position = np.lexsort((key, position))
    parts = np.split(by_position, np.cumsum(sizes)[:-1])
    return {name: part[np.argsort(key[part])] for name, part in zip(SPLITS, parts, strict=True)}


def _array(task: str, what: str, array: Any, kinds: str, wanted: str) -> np.ndarray:
    """`array` as a NumPy array of one of the given kinds of type."""
    converted: np.ndarray = np.asarray(array)
    if converted.dtype.kind not in kinds:
        raise DataError(f"{task}: {what} have type {converted.dtype}; give {wanted}")
    return converted


def _values(task: str, values: Any) -> np.ndarray:
    """Checked values, float32."""
    array = _array(task, "values", values, "biuf", "real numbers")
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(f"{task}: values have shape {array.shape}; give (n, time, channel), none of them 0")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported below
        array = np.ascontiguousarray(array, dtype=np.float32)
    count, first = 0, None
    for start in range(0, len(array), 4096):  # in parts, so that a mask of all values is never held
        bad = ~np.isfinite(array[start : start + 4096])
        if first is None and bad.any():
            sequence, step, channel = np.unravel_index(int(bad.argmax()), bad.shape)
            first = (start + int(sequence), int(step), int(channel))
        count += int(bad.sum())
    if first is not None:
        raise DataError(
            f"{task}: {count} of {array.size} values are not finite (as float32), the first at [sequence, "
            f"step, channel] = {list(first)}; remove or replace them"
        )
    return array


def _labels(task: str, labels: Any, n: int, time: int, lengths: np.ndarray | None) -> np.ndarray:
    """Checked labels, int64; -1 behind the end of a sequence."""
    array = _array(task, "labels", labels, "iu", "integers (classes 0, 1, 2, ...; real numbers are targets)")
    if array.shape not in ((n,), (n, time)):
        raise DataError(
            f"{task}: labels have shape {array.shape}, values hold {n} sequences of {time} steps; give ({n},), or "
            f"({n}, {time}) for one a step"
        )
    lowest = -1 if array.ndim == 2 else 0
    low, high = int(array.min()), int(array.max())
    if low < lowest or high >= _MAX_CLASSES:
        none = ", -1 where a step has none" if array.ndim == 2 else ""
        raise DataError(
            f"{task}: labels run from {low} to {high}; give classes within 0 .. {_MAX_CLASSES - 1}{none}"
        )
    array = array.astype(np.int64)
    if array.ndim == 2 and lengths is not None:
        array[np.arange(time) >= lengths[:, None]] = -1
    if array.max() < 0:
        raise DataError(f"{task}: no step has a label; give classes 0, 1, 2, ... where they are known")
    return array


def _targets(task: str, targets: Any, n: int, time: int, lengths: np.ndarray | None) -> np.ndarray:
    """Checked targets, float32; NaN behind the end of a sequence."""
    array = _array(task, "targets", targets, "iuf", "real numbers")
    if (
        array.ndim not in (2, 3)
        or array.shape[0] != n
        or array.shape[1:-1] not in ((), (time,))
        or 0 in array.shape
    ):
        raise DataError(
            f"{task}: targets have shape {array.shape}, values hold {n} sequences of {time} steps; give ({n}, K), "
            f"or ({n}, {time}, K) for K values a step"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    valid = np.ones(array.shape[:-1], bool)
    if array.ndim == 3 and lengths is not None:
        valid = np.arange(time) < lengths[:, None]
    if not (fine := np.isfinite(array[valid])).all():
        raise DataError(
            f"{task}: {int((~fine).sum())} targets are not finite (as float32); remove or replace them"
        )
    array[~valid] = np.nan
    return array


def _names(task: str, names: Any, labels: np.ndarray | None) -> tuple[str, ...]:
    """Checked names of classes."""
    given = tuple(str(name) for name in np.atleast_1d(np.asarray(names)))
    least = 1 if labels is None else int(labels.max()) + 1
    if labels is None or len(given) < least or len(set(given)) < len(given):
        many = "no labels" if labels is None else f"labels up to {least - 1}"
        raise DataError(f"{task}: class_names are {len(given)} names for {many}; give one name a class, each once")
    return given


def _lengths(task: str, lengths: Any, n: int, time: int) -> np.ndarray:
    """Checked lengths, int64."""
    array = _array(task, "lengths", lengths, "iu", "integers (numbers of steps)")
    if array.shape != (n,):
        raise DataError(f"{task}: lengths have shape {array.shape}, values hold {n} sequences; give ({n},)")
    low, high = int(array.min()), int(array.max())
    if low < 1 or high > time:
        raise DataError(f"{task}: lengths run from {low} to {high}; give numbers within 1 .. {time}")
    return array.astype(np.int64)


def _splits(task: str, splits: Any, n: int) -> dict[str, np.ndarray]:
    """Checked splits, int64 indices."""
    if not isinstance(splits, Mapping) or set(splits) != set(SPLITS):
        given = ", ".join(map(str, splits)) if isinstance(splits, Mapping) else repr(splits)
        raise DataError(f"{task}: splits are {given or '(none)'}; give exactly {', '.join(SPLITS)}")
    owner = np.full(n, -1)
    checked = {}
    for number, name in enumerate(SPLITS):
        index = np.asarray(splits[name])
        if index.ndim != 1 or index.size == 0:
            raise DataError(f"{task}: split {name!r} has shape {index.shape}; give a list of one or more indices")
        index = _array(task, f"indices of split {name!r}", index, "iu", "integers")
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= n:
            raise DataError(f"{task}: split {name!r} has indices {low} .. {high}; give them within 0 .. {n - 1}")
        index = index.astype(np.int64)
        taken = index[owner[index] >= 0]
        if taken.size:
            other = SPLITS[owner[taken[0]]]
            raise DataError(
                f"{task}: splits {other!r} and {name!r} overlap in {taken.size} sequences, the first is "
                f"{taken[0]}; make them disjoint"
            )
        owner[index] = number
        if int((owner == number).sum()) != index.size:
            raise DataError(f"{task}: split {name!r} names a sequence twice; list each index once")
        checked[name] = index
    return checked


def _rate(task: str, rate: Any) -> float:
    """Checked sample rate."""
    try:
        value = float(rate)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise DataError(f"{task}: sample_rate = {rate!r}; give a positive number of Hz")
    return value
