"""A user's own file, and the ways it can be wrong."""

import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imc_ssm import datasets
from imc_ssm.datasets import load_npz
from imc_ssm.errors import DataError

N, TIME = 20, 5


def arrays(**changes: object) -> dict[str, object]:
    rng = np.random.default_rng(0)
    return {"values": rng.standard_normal((N, TIME, 2)), "labels": np.arange(N) % 2} | changes


def write(path: Path, **changes: object) -> Path:
    np.savez(path, **{name: value for name, value in arrays(**changes).items() if value is not None})
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.npz"


def test_the_least_file(path: Path) -> None:
    data = datasets.load(write(path))
    np.testing.assert_array_equal(data.values, np.asarray(arrays()["values"], np.float32))
    assert (data.task, data.sample_rate, data.lengths) == ("mine", 1.0, None)
    assert {name: len(index) for name, index in data.splits.items()} == {
        "train": 14,
        "validation": 3,
        "test": 3,
    }
    for name in data.splits:
        assert set(data.split(name).labels) == {0, 1}


def test_everything_a_file_may_say(path: Path) -> None:
    parts = {"train": np.arange(3, 20), "validation": np.array([1]), "test": np.array([2, 0])}
    write(path, values=np.ones((N, TIME), np.int16), lengths=np.full(N, 4), sample_rate=16000, **parts)
    data = datasets.load(str(path))
    assert data.values.shape == (N, TIME, 1)
    assert data.sample_rate == 16000.0
    assert set(data.lengths) == {4}
    for name, part in parts.items():
        np.testing.assert_array_equal(data.splits[name], part)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=hnp.arrays(
        st.sampled_from(["f2", "f4", ">f4", "f8", "i1", "u2", "i8", "?"]),
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=4).map(lambda shape: (shape[0] + 2, *shape[1:])),
        elements={"allow_nan": False, "allow_infinity": False, "max_value": 100, "min_value": 0},
    ),
    compress=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_real_type_comes_back(tmp_path: Path, values: np.ndarray, compress: bool, seed: int) -> None:
    path = tmp_path / "p.npz"
    labels = np.arange(len(values)) % 3
    channels = values.shape[2] if values.ndim == 3 else 1
    (np.savez_compressed if compress else np.savez)(path, values=values, labels=labels, channels=channels)
    data = load_npz(path, seed)
    np.testing.assert_array_equal(data.values.reshape(values.shape), values.astype(np.float32))
    np.testing.assert_array_equal(data.labels, labels)


def test_the_split_comes_from_the_seed(path: Path) -> None:
    write(path)
    first, again, other = load_npz(path, 1), load_npz(path, 1), load_npz(path, 2)
    np.testing.assert_array_equal(first.splits["test"], again.splits["test"])
    assert set(first.splits["test"]) != set(other.splits["test"]) or set(first.splits["train"]) != set(
        other.splits["train"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": None}, r"mine\.npz has no array 'values'; save it with numpy\.savez"),
        ({"label": np.arange(N)}, "unknown array 'label'; did you mean 'labels'"),
        ({"values": np.zeros(N)}, r"values have shape \(20,\); give \(n, time\) or \(n, time, channel\)"),
        ({"values": np.zeros((N, 2, 2, 2))}, r"values have shape \(20, 2, 2, 2\)"),
        ({"values": np.full((N, TIME), np.nan)}, r"mine: 100 of 100 values are not finite.*\[0, 0, 0\]"),
        ({"values": np.zeros((N, TIME), complex)}, "values have type complex128"),
        ({"values": np.full((N, TIME), None)}, r"not a whole \.npz file of plain arrays.*without objects"),
        ({"labels": np.arange(N) / 2}, "labels have type float64"),
        ({"labels": np.arange(N - 1)}, r"labels have shape \(19,\)"),
        ({"labels": np.zeros((N, 1), int)}, r"labels have shape \(20, 1\)"),
        ({"labels": np.arange(N) - 5}, "labels run from -5 to 14"),
        ({"labels": np.full((N, TIME), -1)}, "no step has a label"),
        ({"labels": np.full((N, TIME), -2)}, "labels run from -2 to -2.*-1 where a step has none"),
        ({"targets": np.zeros(N)}, "has both labels and targets"),
        ({"labels": None, "targets": np.zeros((N, TIME))}, r"may be one value a step or 5 values.*\(20, 5, 1\)"),
        ({"labels": None, "targets": np.zeros((N, 9, 1))}, r"targets have shape \(20, 9, 1\)"),
        ({"labels": None, "targets": np.full((N, 2), np.inf)}, "40 targets are not finite"),
        ({"labels": None, "targets": np.full((N, 2), "a")}, "targets have type"),
        ({"labels": None, "values": np.zeros((N, 1))}, "neither labels nor targets.*one step"),
        ({"labels": None, "lengths": np.full(N, 1)}, "neither labels nor targets.*one step"),
        ({"values": np.zeros((N, 1, 9))}, r"1 steps of 9 channels: the channel stands first\? .*transpose"),
        ({"values": np.zeros((N, 3, 9))}, "or add channels=9 where that is meant"),
        ({"channels": 3}, "channels = 3, but values of shape .* have 2"),
        ({"class_names": ["one"]}, "class_names are 1 names for labels up to 1"),
        ({"class_names": ["a", "a"]}, "give one name a class, each once"),
        ({"lengths": np.zeros(N, int)}, "lengths run from 0 to 0"),
        ({"sample_rate": np.ones(2)}, "sample_rate has type float64 and shape"),
        ({"sample_rate": "fast"}, "sample_rate has type <U4"),
        ({"sample_rate": -1.0}, r"sample_rate = -1\.0; give a positive"),
        (
            {"train": np.arange(3)},
            "has split 'train' but not 'validation'; give all of train, validation, test",
        ),
        ({"train": [0], "validation": [0], "test": [1]}, "splits 'train' and 'validation' overlap"),
        ({"values": np.zeros((2, TIME)), "labels": np.zeros(2, int)}, "holds 2 sequences; give at least 3"),
    ],
)
def test_what_is_wrong_is_named(path: Path, changes: dict[str, object], message: str) -> None:
    write(path, **changes)
    with pytest.raises(DataError, match=message):
        datasets.load(path)


def test_not_an_archive(path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*mine\.npz; give the path"):
        datasets.load(path)
    for content in (b"", b"hello", b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"mine\.npz is not a whole \.npz file"):
            datasets.load(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"not a whole \.npz file"):
        datasets.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("values", b"text")
    with pytest.raises(DataError, match="'values' is not a NumPy array"):
        datasets.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="Is a directory"):
        datasets.load(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncation_and_flipped_bits(path: Path, save: object) -> None:
    save(path, **arrays(lengths=np.full(N, 3)))  # type: ignore[operator]
    data, reference, draw = path.read_bytes(), load_npz(path), random.Random(0)
    for length in range(0, len(data), 11):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"mine\.npz"):
            load_npz(path)
    noticed = 0
    for _ in range(600):
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            again = load_npz(path)
        except DataError as error:
            noticed += 1
            assert "mine" in str(error)  # noqa: PT017
        else:  # a date or a permission in the archive's directory
            np.testing.assert_array_equal(again.values, reference.values)
            np.testing.assert_array_equal(again.labels, reference.labels)
            np.testing.assert_array_equal(again.lengths, reference.lengths)
    assert noticed > 400


def test_info_of_a_file(path: Path) -> None:
    info = datasets.info(write(path))
    assert info["shape"] == (N, TIME, 2)
    assert info["classes"] == 2
    assert info["splits"] == {"train": 14, "validation": 3, "test": 3}
    assert set(info) == set(datasets.info("digits"))


def test_what_it_holds_says_the_task(path: Path) -> None:
    """Labels or targets, of a sequence or of a step, or the next step of the values themselves."""
    rng = np.random.default_rng(0)
    steps, real = rng.integers(-1, 4, (N, TIME)), rng.standard_normal((N, TIME, 3))
    given: list[tuple[dict[str, object], tuple[str, bool, int]]] = [
        ({"class_names": ["no", "yes", "never"]}, ("classes", False, 3)),
        ({"labels": steps}, ("classes", True, 4)),
        ({"labels": None, "targets": real[:, 0, 0]}, ("values", False, 1)),
        ({"labels": None, "targets": real[:, 0]}, ("values", False, 3)),
        ({"labels": None, "targets": real}, ("values", True, 3)),
        ({"labels": None}, ("values", True, 2)),
    ]
    for changes, expected in given:
        data = datasets.load(write(path, **changes))
        assert (data.goal, data.per_step, data.outputs) == expected
        info = datasets.info(path)
        assert (info["goal"], info["per_step"], info["classes"]) == expected
        assert (data.split("test").goal, data.split("test").per_step) == expected[:2]
    values = np.asarray(arrays()["values"], np.float32)
    np.testing.assert_array_equal(data.values, values[:, :-1])
    np.testing.assert_array_equal(data.targets, values[:, 1:])


def test_what_lies_behind_the_end_is_no_answer(path: Path) -> None:
    lengths, steps = np.arange(N) % 4 + 2, np.zeros((N, TIME), int)
    data = datasets.load(write(path, labels=steps, lengths=lengths))
    assert data.labels is not None
    np.testing.assert_array_equal((data.labels >= 0).sum(1), lengths)
    data = datasets.load(write(path, labels=None, lengths=lengths))
    np.testing.assert_array_equal(np.isfinite(data.targets).all(2).sum(1), lengths - 1)
    np.testing.assert_array_equal(data.lengths, lengths - 1)
    assert data.split("train").counted == (lengths - 1)[data.splits["train"]].sum()


def test_two_arrays_of_one_name(tmp_path: Path) -> None:
    """Which of them would win is nobody's choice."""
    path = tmp_path / "mine.npz"
    np.savez(path, values=np.zeros((3, 2, 1)), labels=np.arange(3))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("values.npy", archive.read("values.npy"))
    with pytest.raises(DataError, match=r"holds 'values.npy' more than once; write it again"):
        load_npz(path)
