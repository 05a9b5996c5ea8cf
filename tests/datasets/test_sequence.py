"""A dataset is right once it exists."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imc_ssm.datasets import SequenceDataset, Split
from imc_ssm.datasets.sequence import SPLITS, stratified
from imc_ssm.errors import ConfigError, DataError

N, TIME, CHANNELS = 10, 6, 2


def arguments(**changes: object) -> dict[str, object]:
    rng = np.random.default_rng(0)
    return {
        "values": rng.standard_normal((N, TIME, CHANNELS)),
        "labels": np.arange(N) % 3,
        "splits": {"train": np.arange(5), "validation": np.arange(5, 8), "test": np.array([9, 8])},
        "lengths": np.arange(N) % TIME + 1,
        "sample_rate": 8000,
        "task": "toy",
    } | changes


def build(**changes: object) -> SequenceDataset:
    return SequenceDataset(**arguments(**changes))  # type: ignore[arg-type]


def test_types_and_properties() -> None:
    data = build()
    assert (data.values.dtype, data.labels.dtype, data.lengths.dtype) == (np.float32, np.int64, np.int64)
    assert (len(data), data.time, data.channels, data.n_classes) == (N, TIME, CHANNELS, 3)
    assert data.sample_rate == 8000.0
    assert set(data.splits) == set(SPLITS)
    with pytest.raises(AttributeError):
        data.task = "other"  # type: ignore[misc]


def test_defaults_are_full_length_at_one_hertz() -> None:
    plain = {key: value for key, value in arguments().items() if key in ("values", "labels", "splits")}
    data = SequenceDataset(**plain)  # type: ignore[arg-type]
    assert data.lengths is None
    assert data.sample_rate == 1.0
    assert next(data.split("train").batches(2))[2] is None


def test_float32_values_are_not_copied() -> None:
    values = np.zeros((N, TIME, CHANNELS), np.float32)
    assert np.shares_memory(build(values=values).values, values)


def not_finite(*places: tuple[int, int, int], value: float = math.nan) -> np.ndarray:
    values = np.zeros((N, TIME, CHANNELS))
    for place in places:
        values[place] = value
    return values


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("values", np.zeros((N, TIME)), r"values have shape \(10, 6\); give \(n, time, channel\)"),
        ("values", np.zeros((N, 0, 1)), "none of them 0"),
        ("values", np.zeros((N, TIME, 1), complex), "values have type complex128; give real numbers"),
        ("values", np.full((N, TIME, 1), "a"), "give real numbers"),
        ("values", np.full((N, TIME, 1), None), "values have type object"),
        ("values", not_finite((3, 1, 0), (7, 5, 1)), r"2 of 120 values are not finite.*\[3, 1, 0\]"),
        ("values", not_finite((9, 5, 1), value=math.inf), r"1 of 120 .*\[9, 5, 1\]"),
        ("values", not_finite((0, 0, 1), value=-1e300), r"1 of 120 .*as float32.*\[0, 0, 1\]"),
        ("labels", np.arange(9), r"labels have shape \(9,\), values hold 10 sequences"),
        ("labels", np.zeros((N, 1), int), r"labels have shape \(10, 1\)"),
        ("labels", np.zeros(N), "labels have type float64; give integers"),
        ("labels", np.arange(N) - 1, "labels run from -1 to 8"),
        ("labels", np.full(N, 2**63, np.uint64), "labels run from 9223372036854775808"),
        ("lengths", np.ones(9, int), r"lengths have shape \(9,\)"),
        ("lengths", np.zeros(N, int), r"lengths run from 0 to 0; give numbers within 1 \.\. 6"),
        ("lengths", np.full(N, 7), "lengths run from 7 to 7"),
        ("lengths", np.ones(N), "lengths have type float64"),
        ("sample_rate", 0, "sample_rate = 0; give a positive number of Hz"),
        ("sample_rate", math.nan, "sample_rate = nan"),
        ("sample_rate", "fast", "sample_rate = 'fast'"),
        ("task", "", "task = ''"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(**{field: value})


def test_the_first_value_that_is_not_finite_is_found_anywhere() -> None:
    values = np.zeros((9000, 2, 1), np.float32)
    values[8191, 1, 0] = values[8999, 0, 0] = np.nan
    parts = {"train": np.arange(5), "validation": np.arange(5, 8), "test": np.arange(8, 10)}
    with pytest.raises(DataError, match=r"2 of 18000 .*\[8191, 1, 0\]"):
        SequenceDataset(values, np.zeros(9000, int), parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": []}, r"split 'train' has shape \(0,\)"),
        ({"train": [[1, 2]]}, r"split 'train' has shape \(1, 2\)"),
        ({"train": [0.0, 1.0]}, "indices of split 'train' have type float64"),
        ({"train": [True, False]}, "indices of split 'train' have type bool"),
        ({"test": [8, 10]}, r"split 'test' has indices 8 \.\. 10; give them within 0 \.\. 9"),
        ({"test": [-1, 8]}, r"split 'test' has indices -1 \.\. 8"),
        ({"test": [8, 8]}, "split 'test' names a sequence twice"),
        ({"test": [9, 6, 7]}, "splits 'validation' and 'test' overlap in 2 sequences, the first is 6"),
        ({"extra": [1]}, "give exactly train, validation, test"),
    ],
)
def test_wrong_splits_are_named(change: dict[str, list[object]], message: str) -> None:
    good = arguments()["splits"]
    with pytest.raises(DataError, match=message):
        build(splits={**good, **change})  # type: ignore[dict-item]


@pytest.mark.parametrize("splits", [{}, {"train": [0], "test": [1]}, None, [1, 2]])
def test_missing_splits_are_named(splits: object) -> None:
    with pytest.raises(DataError, match="give exactly train, validation, test"):
        build(splits=splits)


def test_a_contiguous_split_is_a_view_and_another_a_copy() -> None:
    data = build()
    assert np.shares_memory(data.split("train").values, data.values)
    assert np.shares_memory(data.split("validation").labels, data.labels)
    test = data.split("test")
    assert not np.shares_memory(test.values, data.values)
    np.testing.assert_array_equal(test.values, data.values[[9, 8]])
    np.testing.assert_array_equal(test.lengths, data.lengths[[9, 8]])


def test_an_unknown_split_names_the_nearest() -> None:
    with pytest.raises(DataError, match="unknown split 'tests'; did you mean 'test'"):
        build().split("tests")


def test_take() -> None:
    split = build().split("train")
    np.testing.assert_array_equal(split.take(2).values, split.values[:2])
    np.testing.assert_array_equal(split.take(2).lengths, split.lengths[:2])
    assert len(split.take(99)) == 5
    with pytest.raises(ConfigError, match="cannot take 0"):
        split.take(0)


@given(n=st.integers(1, 30), size=st.integers(1, 40), seed=st.none() | st.integers(0, 10))
def test_batches_hold_every_sequence_once(n: int, size: int, seed: int | None) -> None:
    values = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None], (n, n, 1))
    split = Split(values, np.arange(n), np.arange(n) + 1)
    rng = None if seed is None else np.random.default_rng(seed)
    batches = list(split.batches(size, rng))
    assert [len(labels) for _, labels, _ in batches[:-1]] == [size] * (len(batches) - 1)
    assert 1 <= len(batches[-1][1]) <= size
    seen = np.concatenate([labels for _, labels, _ in batches])
    np.testing.assert_array_equal(np.sort(seen), np.arange(n))
    for part, labels, lengths in batches:
        np.testing.assert_array_equal(part[:, 0, 0], labels)
        np.testing.assert_array_equal(lengths, labels + 1)
        assert part.shape[1] == lengths.max()  # cut to the longest
        assert seed is not None or np.shares_memory(part, values)
    if seed is None:
        np.testing.assert_array_equal(seen, np.arange(n))


def test_like_lengths_come_together_and_equal_ones_change_nothing() -> None:
    rng = np.random.default_rng(0)
    values, labels = np.zeros((4000, 1000, 1), np.bool_), np.arange(4000)
    lengths = rng.integers(1, 1001, 4000)
    batches = list(Split(values, labels, lengths).batches(40, np.random.default_rng(1)))
    padded = sum(part.shape[0] * part.shape[1] for part, _, _ in batches)
    assert padded < 1.15 * lengths.sum()  # 1.95 in any order
    longest = [part.shape[1] for part, _, _ in batches]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3  # not from short to long
    seen = [
        [found.tolist() for _, found, _ in Split(values, labels, given).batches(40, np.random.default_rng(1))]
        for given in (None, np.full(4000, 1000), np.full(4000, 3))
    ]
    assert seen[0] == seen[1] == seen[2]
    order = Split(values, labels, lengths).by_length()
    assert (np.diff(lengths[order]) <= 0).all()


def test_shuffling_comes_from_the_generator_alone() -> None:
    split = Split(np.zeros((50, 1, 1), np.float32), np.arange(50))

    def order(seed: int) -> list[int]:
        return [int(x) for _, labels, _ in split.batches(7, np.random.default_rng(seed)) for x in labels]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != sorted(order(1))


def test_a_batch_size_below_one_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="batch_size = 0"):
        build().split("train").batches(0)


@given(data=st.data(), n=st.integers(3, 200), classes=st.integers(1, 8), seed=st.integers(0, 2**63))
def test_stratified_parts_are_disjoint_exact_and_proportional(
    data: st.DataObject, n: int, classes: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, n) * 5
    first = data.draw(st.integers(1, n - 2))
    second = data.draw(st.integers(1, n - first - 1))
    sizes = (first, second, n - first - second)
    parts = stratified(labels, sizes, seed)
    assert tuple(len(parts[name]) for name in SPLITS) == sizes
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(n))
    for name, size in zip(SPLITS, sizes, strict=True):
        for label in np.unique(labels):
            share = size * (labels == label).sum() / n
            # both ends of a part cut each class to within one sequence of its share, and shift by up to
            # half a sequence of every class
            assert abs((labels[parts[name]] == label).sum() - share) <= 2 + classes / 2
    np.testing.assert_array_equal(parts["train"], stratified(labels, sizes, seed)["train"])


def test_stratified_depends_on_the_seed_and_never_changes() -> None:
    labels = np.arange(12) % 2
    one, two = (stratified(labels, (6, 3, 3), seed) for seed in (1, 2))
    assert not np.array_equal(np.sort(one["train"]), np.sort(two["train"]))
    assert {name: part.tolist() for name, part in one.items()} == FROZEN


FROZEN = {"train": [3, 5, 2, 9, 10, 0], "validation": [7, 8, 6], "test": [11, 1, 4]}


@pytest.mark.parametrize("sizes", [(3, 0, 0), (1, 1, 2), (5, -1, -1)])
def test_stratified_refuses_other_sizes(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="cannot split 3 sequences"):
        stratified(np.zeros(3, int), sizes, 0)
