"""Results come back exactly, or not at all."""

import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imc_ssm import results
from imc_ssm.errors import ConfigError, FileError


def example() -> xr.Dataset:
    attributes = results.provenance({"model": "s4d-16h", "bits": {"state": 8}}, seed=3, compute_time=1.5)
    return xr.Dataset(
        {
            "accuracy": (
                ("chip", "time"),
                np.array([[90.5, np.nan], [-0.0, 1e-320]]),
                {"units": "percent", "long_name": "accuracy on the test split", "n_test": 360},
            ),
            "energy": (
                ("component",),
                np.array([1e-9, 2e-9, np.nan], np.float32),
                {"units": "J", "long_name": "energy per inference"},
            ),
            "fits": (("chip",), np.array([True, False]), {"units": "1", "long_name": "fits on the chip"}),
            "cell": (("chip",), np.array(["pcm", "réram"]), {"units": "1", "long_name": "memory cell"}),
            "n": ((), np.int64(-7), {"units": "1", "long_name": "a count"}),
        },
        coords={
            "time": ("time", [1.0, 86400.0], {"units": "s", "long_name": "time after programming"}),
            "component": ["adc", "dac", "cells"],
            "design": ("chip", ["a", "bb"]),
        },
        attrs={**attributes, "title": "é", "empty": ""},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "d.nc"
    results.save(example(), path)
    return path


def test_round_trip(saved: Path) -> None:
    loaded = results.load(saved)
    assert results.values_equal(loaded, example())
    assert loaded.accuracy.dtype == np.float64
    assert loaded.energy.dtype == np.float32
    assert loaded.fits.dtype == bool
    assert np.signbit(loaded.accuracy.values[1, 0])
    assert set(loaded.coords) == {"time", "component", "design"}
    for name, variable in example().variables.items():
        assert loaded[name].attrs == variable.attrs
    for key, value in example().attrs.items():
        assert loaded.attrs[key] == value or key == "created"
    assert len(loaded.attrs["content_sha256"]) == 64


def test_loading_releases_the_file_and_saving_it_again_changes_nothing(saved: Path) -> None:
    loaded = results.load(saved)
    results.save(loaded, saved)
    again = results.load(saved)
    assert again.identical(loaded)
    saved.unlink()
    assert float(again.accuracy[0, 0]) == 90.5


def test_saving_does_not_touch_the_dataset(tmp_path: Path) -> None:
    dataset = example()
    before = dataset.copy(deep=True)
    results.save(dataset, tmp_path / "a.nc")
    assert dataset.identical(before)


def test_any_xarray_opens_it(saved: Path) -> None:
    with xr.open_dataset(saved, decode_timedelta=False) as dataset:
        assert dataset.accuracy.attrs["units"] == "percent"
        assert float(dataset.accuracy[0, 0]) == 90.5


def test_long_attributes(tmp_path: Path) -> None:
    """HDF5 keeps at most 64 kB in a compact attribute; a configuration may be longer."""
    dataset = example().assign_attrs(configuration="x" * 200_000)
    results.save(dataset, tmp_path / "a.nc")
    assert results.load(tmp_path / "a.nc").attrs["configuration"] == "x" * 200_000


def test_attributes_with_a_meaning_elsewhere_are_left_alone(tmp_path: Path) -> None:
    """ "seconds" is not decoded into a time difference, and no value is scaled or masked."""
    dataset = example()
    dataset.time.attrs["units"] = "seconds"
    dataset.energy.attrs |= {"scale_factor": 2.0, "missing_value": 1e-9}
    results.save(dataset, tmp_path / "a.nc")
    loaded = results.load(tmp_path / "a.nc")
    assert results.values_equal(loaded, dataset)
    assert loaded.time.dtype == np.float64
    assert loaded.energy.attrs == dataset.energy.attrs


NAMES = st.text("abcdefgh_é", min_size=2, max_size=6).filter(lambda name: not name.startswith("_"))
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6)
ARRAYS = hnp.arrays(
    st.sampled_from(["f4", "f8", "i1", "i4", "i8", "u1", "u2", "u4", "u8", "?"]),
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
) | hnp.arrays(object, hnp.array_shapes(min_dims=1, max_dims=2, max_side=3), elements=TEXT)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays=st.dictionaries(NAMES, ARRAYS, max_size=3),
    attributes=st.dictionaries(NAMES, TEXT | st.integers(-(2**63), 2**63 - 1) | st.floats(), max_size=3),
)
def test_anything_that_is_stored_comes_back(
    tmp_path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, str | int | float]
) -> None:
    variables = {
        name: ([f"{name}_{axis}" for axis in range(array.ndim)], array, {"units": "1", "long_name": "x"})
        for name, array in arrays.items()
    }
    dataset = xr.Dataset(variables, attrs=attributes)
    results.save(dataset, tmp_path / "p.nc")
    loaded = results.load(tmp_path / "p.nc")
    assert results.values_equal(loaded, dataset)
    for name, array in arrays.items():
        if array.dtype.kind != "O":
            assert loaded[name].values.tobytes() == array.tobytes()
            assert loaded[name].dtype == array.dtype
    for key, value in attributes.items():
        same = loaded.attrs[key] == value
        assert same or (isinstance(value, float) and math.isnan(value) and math.isnan(loaded.attrs[key]))


def test_every_truncation_is_noticed(saved: Path) -> None:
    data = saved.read_bytes()
    for length in [*range(0, len(data), 37), *range(len(data) - 120, len(data))]:
        saved.write_bytes(data[:length])
        with pytest.raises(FileError):
            results.load(saved)
    saved.write_bytes(data + b"\n")
    with pytest.raises(FileError, match="does not end in the checksum"):
        results.load(saved)


def test_every_flipped_bit_is_noticed(saved: Path) -> None:
    """Without the checksum behind the data, some of these make the HDF5 library loop for ever."""
    data = saved.read_bytes()
    draw = random.Random(0)
    positions = [*range(16), *range(len(data) - 100, len(data)), *draw.sample(range(len(data)), 3000)]
    for position in positions:
        changed = bytearray(data)
        changed[position] ^= 1 << draw.randrange(8)
        saved.write_bytes(changed)
        with pytest.raises(FileError):
            results.load(saved)


def test_values_changed_by_another_program_are_noticed(saved: Path) -> None:
    """Sealed anew after a change, the content digest still tells."""
    import h5py

    data = saved.read_bytes()
    seal = data.rindex(b"\nimc-ssm sha256 ")
    saved.write_bytes(data[:seal])
    with h5py.File(saved, "r+") as file:
        file["accuracy"][0, 0] = 99.9
    inside = saved.read_bytes()
    saved.write_bytes(inside + b"\nimc-ssm sha256 " + hashlib.sha256(inside).hexdigest().encode() + b"\n")
    with pytest.raises(FileError, match="do not match its attribute 'content_sha256'"):
        results.load(saved)


def test_foreign_and_missing_files(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(FileError, match=r"cannot read .*none\.nc: No such file"):
        results.load(tmp_path / "none.nc")
    with pytest.raises(FileError, match="Is a directory"):
        results.load(tmp_path)
    foreign = tmp_path / "foreign.nc"
    for content in (b"", b"hello", b"CDF\x01" + b"\0" * 100):
        foreign.write_bytes(content)
        with pytest.raises(FileError, match="not a netCDF-4 file"):
            results.load(foreign)
    example().to_netcdf(foreign, engine="h5netcdf")
    with pytest.raises(FileError, match="another program"):
        results.load(foreign)
    inside = b"\x89HDF\r\n\x1a\n" + b"nothing"
    foreign.write_bytes(inside + b"\nimc-ssm sha256 " + hashlib.sha256(inside).hexdigest().encode() + b"\n")
    with pytest.raises(FileError, match=r"foreign\.nc"):
        results.load(foreign)


@pytest.mark.parametrize("missing", ["units", "long_name"])
def test_a_variable_without_units_or_long_name(tmp_path: Path, missing: str) -> None:
    for value in (None, "", 3):
        dataset = example()
        del dataset.energy.attrs[missing]
        if value is not None:
            dataset.energy.attrs[missing] = value
        with pytest.raises(ConfigError, match=f"variable 'energy' has no '{missing}'"):
            results.save(dataset, tmp_path / "a.nc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [True, None, [1, 2], np.zeros(2), {"a": 1}, b"x", 1j])
def test_an_attribute_that_netcdf_would_change(tmp_path: Path, value: object) -> None:
    with pytest.raises(ConfigError, match="attribute 'odd' of the dataset"):
        results.save(example().assign_attrs(odd=value), tmp_path / "a.nc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(2, complex),
        np.array([None, "a"]),
        np.zeros(2, "M8[ns]"),
        np.zeros(2, "m8[ns]"),
        np.array([b"a", b"b"]),
    ],
)
def test_a_variable_that_is_not_stored(tmp_path: Path, values: np.ndarray) -> None:
    dataset = example().assign(odd=("chip", values, {"units": "1", "long_name": "x"}))
    with pytest.raises(ConfigError, match="variable 'odd' has type"):
        results.save(dataset, tmp_path / "a.nc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"attrs": {"text": "a\0b"}},
        {"attrs": {"text": "\ud800"}},
        {"attrs": {"big": 2**70}},
        {"name": "a/b"},
        {"text": ["a\0b", "c"]},
    ],
)
def test_what_does_not_survive_netcdf_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    dataset = example().assign_attrs(change.get("attrs", {}))
    if "name" in change:
        dataset = dataset.rename(energy=change["name"])
    if "text" in change:
        dataset["cell"] = ("chip", np.array(change["text"], object), dataset.cell.attrs)
    with pytest.raises(ConfigError, match="netCDF"):
        results.save(dataset, tmp_path / "a.nc")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_outputs_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.nc").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for path in (
        tmp_path / "file" / "a.nc",
        tmp_path / "folder.nc",
        tmp_path / "results.csv",
        "/proc/none/a.nc",
    ):
        with pytest.raises(FileError, match="cannot write"):
            results.save(example(), path)
        assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_write_keeps_the_old_result(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def interrupted(self: Path, data: bytes) -> None:
        self.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.save(example(), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_full_disk_is_one_error(saved: Path) -> None:
    """HDF5 must not meet it: it takes the process with it."""
    before = saved.read_bytes()
    code = f"""
import resource
from imc_ssm import results
from imc_ssm.errors import FileError
dataset = results.load({str(saved)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) - 100}, {len(before) - 100}))
try:
    results.save(dataset, {str(saved)!r})
except FileError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"cannot write {saved}: File too large")
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_values_equal_ignores_attributes_and_nothing_else() -> None:
    a = example()
    assert results.values_equal(a, example().assign_attrs(created="later"))
    changes = [
        a.assign(n=a.n + 1),
        a.assign(accuracy=a.accuracy.fillna(0.0)),
        a.assign(accuracy=a.accuracy.astype(np.float32)),
        a.assign(accuracy=a.accuracy.T),
        a.drop_vars("n"),
        a.assign_coords(time=[1.0, 2.0]),
        a.reset_coords("design"),
        a.isel(chip=[0]),
        a.assign(extra=a.n),
    ]
    for other in changes:
        assert not results.values_equal(a, other)
        assert not results.values_equal(other, a)


def test_provenance() -> None:
    config = {"b": 1, "a": {"x": [1.5, None]}}
    first = results.provenance(config, seed=5)
    assert json.loads(str(first["configuration"])) == config
    text = str(first["configuration"]).encode()
    assert first["configuration_sha256"] == hashlib.sha256(text).hexdigest()
    reordered = {"a": {"x": [1.5, None]}, "b": 1}
    assert results.provenance(reordered, 5)["configuration_sha256"] == first["configuration_sha256"]
    assert results.provenance({"b": 2}, 5)["configuration_sha256"] != first["configuration_sha256"]
    assert first["seed"] == 5
    assert math.isnan(float(first["compute_time_s"]))
    assert results.provenance(config, 5, 2.0)["compute_time_s"] == 2.0
    versions = json.loads(str(first["versions"]))
    assert set(versions) == {"imc-ssm", "python", "numpy", "torch", "aihwkit", "numba", "xarray"}
    assert versions["numpy"] == np.__version__
    assert {key: first[key] for key in results.processor()} == results.processor()
    age = datetime.now(UTC) - datetime.fromisoformat(str(first["created"]))
    assert 0 <= age.total_seconds() < 60
    with pytest.raises(ConfigError, match="configuration cannot be written as JSON"):
        results.provenance({"a": float("nan")}, 0)


def test_provenance_imports_nothing_heavy() -> None:
    code = (
        "import sys; from imc_ssm import results; p = results.provenance({}, 0); "
        "print([m for m in ('torch', 'aihwkit', 'numba') if m in sys.modules], *sorted(p))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "[] compute_time_s configuration configuration_sha256 created processor seed versions"  # no threads
    )


def test_the_processor_is_named_with_what_torch_uses_of_it() -> None:
    code = (
        "import torch; torch.set_num_threads(1); from imc_ssm import results; p = results.processor(); "
        "print(sorted(p), p['instruction_set'], p['threads'])"
    )
    # DEFAULT everywhere: what torch is told to use, not what the processor can
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "['instruction_set', 'processor', 'threads'] DEFAULT 1"


def test_a_processor_without_a_name_is_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(results.platform, "processor", lambda: "")
    monkeypatch.setattr(results.platform, "machine", lambda: "riscv64")
    assert results.processor()["processor"] == "riscv64"


def test_the_content_digest_is_the_same_in_another_process(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.nc"
    shutil.copy(saved, copy)
    code = f"from imc_ssm import results; print(results.load({str(copy)!r}).attrs['content_sha256'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == results.load(saved).attrs["content_sha256"]
