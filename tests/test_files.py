"""Files are whole or not there; tensor files notice every changed bit."""

import json
import os
import random
import re
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imc_ssm.errors import ConfigError, FileError
from imc_ssm.files import atomic_path, canonical_json, check_writable, load_tensors, save_tensors

HEADER = {"model": "s4d-16h", "bits": [8, 16], "scale": 0.1, "note": "é", "nested": {"a": None, "b": True}}


def example_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "weight": rng.standard_normal((3, 5)).astype(np.float32),
        "codes": rng.integers(-128, 128, 7, dtype=np.int8),
        "scalar": np.asarray(2.5),
        "empty": np.zeros((0, 4), np.int64),
        "mask": np.array([True, False]),
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    save_tensors(path, example_tensors(), HEADER, "model")
    return path


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype.name == b[name].dtype.name
        assert a[name].shape == b[name].shape
        assert a[name].tobytes() == b[name].tobytes()


class TestAtomicPath:
    def test_writes_with_the_suffix_and_ordinary_permissions(self, tmp_path: Path) -> None:
        target = tmp_path / "new" / "folder" / "a.nc"
        with atomic_path(target) as temporary:
            assert temporary.parent == target.parent
            assert temporary.suffix == ".nc"
            assert temporary != target
            temporary.write_text("whole")
            assert not target.exists()
        assert target.read_text() == "whole"
        assert list(target.parent.iterdir()) == [target]
        ordinary = tmp_path / "ordinary"
        ordinary.write_text("")
        assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_an_interrupted_write_leaves_what_was_there(self, tmp_path: Path, error: type[BaseException]) -> None:
        target = tmp_path / "a.txt"
        target.write_text("before")

        def write() -> None:
            with atomic_path(target) as temporary:
                temporary.write_text("half")
                raise error

        with pytest.raises(error):
            write()
        assert target.read_text() == "before"
        assert list(tmp_path.iterdir()) == [target]

    def test_a_failed_write_removes_the_folders_it_made(self, tmp_path: Path) -> None:
        def write() -> None:
            with atomic_path(tmp_path / "a" / "b" / "c.txt") as temporary:
                temporary.write_text("half")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            write()
        assert list(tmp_path.iterdir()) == []

    def test_an_os_error_inside_becomes_one_clear_line(self, tmp_path: Path) -> None:
        def write() -> None:
            with atomic_path(tmp_path / "c.txt"):
                raise OSError(28, "No space left on device")

        with pytest.raises(FileError, match=r"c\.txt: No space left on device; free some space"):
            write()
        assert list(tmp_path.iterdir()) == []

    def test_a_link_is_followed(self, tmp_path: Path) -> None:
        real, link = tmp_path / "real.txt", tmp_path / "link.txt"
        real.write_text("old")
        link.symlink_to(real)
        with atomic_path(link) as temporary:
            temporary.write_text("new")
        assert link.is_symlink()
        assert real.read_text() == "new"


def unwritable(folder: Path) -> dict[str, tuple[Path | str, str]]:
    """Paths that cannot be written, also by the root user, and what the message says."""
    (folder / "file").write_text("x")
    (folder / "directory").mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    return {
        "a folder": (folder / "directory", "it is a folder; give the name of a file in it"),
        "below a file": (folder / "file" / "a.nc", "Not a directory; a part of the path is a file"),
        "far below a file": (folder / "file" / "b" / "c" / "a.nc", "a part of the path is a file"),
        "too long": (folder / ("x" * 300 + ".nc"), "File name too long; choose a shorter name"),
        "a device": ("/dev/null", "not a regular file"),
        "no kernel lets you": ("/proc/imc-ssm/a.nc", "choose"),
        "null byte": (str(folder / "a\0b"), "choose another path"),
        "loop": (folder / "loop" / "a.nc", "choose another path"),
        "nothing": ("", "it is a folder"),
    }


CASES = [
    "a folder",
    "below a file",
    "far below a file",
    "too long",
    "a device",
    "no kernel lets you",
    "null byte",
    "loop",
    "nothing",
]


class TestUnwritable:
    @pytest.mark.parametrize("case", CASES)
    def test_every_way_to_write_names_the_path_and_leaves_nothing(self, tmp_path: Path, case: str) -> None:
        path, message = unwritable(tmp_path)[case]
        before = sorted(tmp_path.rglob("*"))

        def write() -> None:
            with atomic_path(path) as temporary:
                temporary.write_text("never")

        named = "/.*/.*[.]{3}x+[.]nc" if case == "too long" else re.escape(str(path))
        pattern = f"(?s)^cannot write {named}: .*{re.escape(message)}"
        for attempt in (write, lambda: check_writable(path), lambda: save_tensors(path, {}, {}, "model")):
            with pytest.raises(FileError, match=pattern):
                attempt()
            assert sorted(tmp_path.rglob("*")) == before

    def test_a_folder_without_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The root user may write everywhere: what any other user meets is the operating system's answer."""

        def denied(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", denied)
        for attempt in (check_writable, lambda path: save_tensors(path, {}, {}, "model")):
            with pytest.raises(FileError, match=r"a\.nc: Permission denied; choose a folder that you may write"):
                attempt(tmp_path / "new" / "a.nc")
            assert list(tmp_path.iterdir()) == []

    def test_check_writable_leaves_nothing_and_keeps_the_file(self, tmp_path: Path) -> None:
        target = tmp_path / "a.nc"
        target.write_text("precious")
        check_writable(target)
        check_writable(tmp_path / "to" / "come" / "b.nc")
        assert target.read_text() == "precious"
        assert list(tmp_path.iterdir()) == [target]

    def test_a_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        check_writable("a.nc")
        save_tensors("m.safetensors", {}, {}, "model")
        assert os.listdir() == ["m.safetensors"]


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
JSON = st.recursive(
    LEAVES | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


class TestTensors:
    def test_round_trip(self, saved: Path) -> None:
        tensors, header = load_tensors(saved, "model")
        assert_same(tensors, example_tensors())
        assert header == HEADER
        tensors["weight"][0, 0] = 1.0  # torch.from_numpy wants memory that can be written

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        tensors=st.dictionaries(
            st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).filter(
                lambda name: name != "__metadata__"
            ),
            hnp.arrays(
                st.sampled_from(["<f4", ">f8", "f2", "i1", ">i4", "i8", "u2", "u8", "?"]),
                hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
            ),
            max_size=4,
        ),
        header=st.dictionaries(
            st.text(max_size=5),
            JSON,
            max_size=4,
        ),
    )
    def test_anything_that_is_stored_comes_back(
        self, tmp_path: Path, tensors: dict[str, np.ndarray], header: dict[str, object]
    ) -> None:
        path = tmp_path / "p.safetensors"
        save_tensors(path, tensors, header, "model")
        again, head = load_tensors(path, "model")
        assert_same(again, {name: a.astype(a.dtype.newbyteorder("<")) for name, a in tensors.items()})
        assert head == header

    def test_a_view_is_stored_in_its_own_order(self, tmp_path: Path) -> None:
        array = np.arange(12.0).reshape(3, 4)
        save_tensors(tmp_path / "v", {"t": array.T, "s": array[::2, 1]}, {}, "model")
        tensors, _ = load_tensors(tmp_path / "v", "model")
        np.testing.assert_array_equal(tensors["t"], array.T)
        np.testing.assert_array_equal(tensors["s"], array[::2, 1])

    def test_equal_contents_give_equal_files(self, saved: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        save_tensors(other, dict(reversed(example_tensors().items())), dict(reversed(HEADER.items())), "model")
        assert load_tensors(other, "model")[1] == HEADER
        again = tmp_path / "again"
        save_tensors(again, example_tensors(), HEADER, "model")
        assert again.read_bytes() == saved.read_bytes()

    def test_every_truncation_is_noticed(self, saved: Path) -> None:
        data = saved.read_bytes()
        for length in range(len(data)):
            saved.write_bytes(data[:length])
            with pytest.raises(FileError, match="truncated or was changed"):
                load_tensors(saved, "model")
        saved.write_bytes(data + b"\0")
        with pytest.raises(FileError, match="truncated or was changed"):
            load_tensors(saved, "model")

    def test_every_flipped_bit_is_noticed(self, saved: Path) -> None:
        data = saved.read_bytes()
        for position in range(len(data)):
            for bit in range(8):
                changed = bytearray(data)
                changed[position] ^= 1 << bit
                saved.write_bytes(changed)
                with pytest.raises(FileError):
                    load_tensors(saved, "model")

    def test_random_bytes_are_noticed(self, saved: Path) -> None:
        data, draw = saved.read_bytes(), random.Random(0)
        for _ in range(300):
            start = draw.randrange(len(data) - 8)
            changed = data[:start] + draw.randbytes(8) + data[start + 8 :]
            saved.write_bytes(changed)
            with pytest.raises(FileError):
                load_tensors(saved, "model")

    def test_another_kind(self, saved: Path) -> None:
        with pytest.raises(FileError, match=r"this is a 'model' file, a 'deployment' was expected"):
            load_tensors(saved, "deployment")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "truncated"),
            (b"hello", "truncated"),
            (b"\x80\x04N.", "PyTorch checkpoint, which is never unpickled here: `imc-ssm import x.safetensors"),
            (b"PK\x03\x04" + b"archive/data.pkl", "PyTorch checkpoint"),
            (b"PK\x03\x04" + b"values.npy", "NumPy .npz file: a dataset is read by"),
            (b"\x89HDF\r\n", "a result .*imc-ssm show"),
            (b"\0" * 64, "truncated"),
        ],
    )
    def test_not_safetensors(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        with pytest.raises(FileError, match=message):
            load_tensors(path, "model")

    def test_missing_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match=r"cannot read .*none: No such file"):
            load_tensors(tmp_path / "none", "model")
        with pytest.raises(FileError, match="Is a directory"):
            load_tensors(tmp_path, "model")

    def test_safetensors_of_another_program(self, tmp_path: Path) -> None:
        from safetensors.numpy import save_file

        for number, metadata in enumerate((None, {"format": "pt"})):
            save_file({"a": np.zeros(3)}, tmp_path / f"{number}", metadata)
            with pytest.raises(
                FileError, match=r"was not written by imc-ssm: .* another program.*`imc-ssm import"
            ):
                load_tensors(tmp_path / f"{number}", "model")

    @pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 5000, '{"kind":"model"}'])
    def test_a_foreign_header_under_our_key(self, tmp_path: Path, text: str) -> None:
        from safetensors.numpy import save_file

        save_file({"a": np.zeros(3)}, tmp_path / "x", {"imc_ssm": text})
        with pytest.raises(FileError, match="header"):
            load_tensors(tmp_path / "x", "model")

    def test_a_newer_version(self, tmp_path: Path) -> None:
        from safetensors.numpy import save_file

        content = {"header": {}, "kind": "model", "sha256": "0" * 64, "version": 2}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        save_file({"a": np.zeros(3)}, tmp_path / "x", {"imc_ssm": text})
        with pytest.raises(FileError, match=r"file version 2, this imc-ssm reads up to 1; update"):
            load_tensors(tmp_path / "x", "model")

    @pytest.mark.parametrize(
        "array", [np.zeros(2, complex), np.array([None]), np.array(["a"]), [1.0], np.zeros(2, "M8[s]")]
    )
    def test_an_array_that_is_not_real(self, tmp_path: Path, array: object) -> None:
        with pytest.raises(ConfigError, match="tensor 'poles' has"):
            save_tensors(tmp_path / "x", {"poles": array}, {}, "model")  # type: ignore[dict-item]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("value", [float("nan"), np.zeros(2), {1, 2}, object()])
    def test_a_header_that_is_not_json(self, tmp_path: Path, value: object) -> None:
        with pytest.raises(ConfigError, match="header of the model file"):
            save_tensors(tmp_path / "x", {}, {"a": value}, "model")
        assert list(tmp_path.iterdir()) == []


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == canonical_json({"a": [1.5, "é"], "b": 1})
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"\\u00e9","b":1}'


class TestLeftovers:
    def test_only_stale_ones_of_ours_go_at_the_next_write(self, tmp_path: Path) -> None:
        names = {
            ".imc-ssm.tmp-0123456789ab.nc": (7200, True),
            ".imc-ssm.tmp-0123456789ab": (7200, True),
            ".imc-ssm.tmp-ba9876543210.nc": (60, False),  # somebody writes to it
            ".imc-ssm.tmp-notes.txt": (7200, False),
            "imc-ssm.tmp-0123456789ab.nc": (7200, False),
        }
        now = time.time()
        for name, (age, _) in names.items():
            (tmp_path / name).write_text("x")
            os.utime(tmp_path / name, (now - age, now - age))
        (tmp_path / ".imc-ssm.tmp-aaaaaaaaaaaa.nc").mkdir()
        with atomic_path(tmp_path / "new.nc") as temporary:
            temporary.write_text("y")
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {n for n, (_, goes) in names.items() if not goes} | {
            "new.nc",
            ".imc-ssm.tmp-aaaaaaaaaaaa.nc",
        }


NAMES = ("x" * 300, "a\0b", "\ud800", "", ".")


@pytest.mark.parametrize("name", NAMES, ids=["long", "null", "surrogate", "empty", "folder"])
def test_names_that_no_file_can_have(name: str) -> None:
    """Whatever reads a file says so in one sentence."""
    import imc_ssm
    from imc_ssm.pretrained import model_file

    for suffix, read in (
        (".toml", imc_ssm.load_design),
        (".toml", imc_ssm.load_cell),
        (".npz", imc_ssm.load_dataset),
        (".safetensors", imc_ssm.load_model),
        (".safetensors", imc_ssm.Deployment.load),
        (".nc", imc_ssm.open_results),
        (".pt", imc_ssm.load_foreign),
        (".csv", imc_ssm.fit_cell),
        (".pt", model_file),
    ):
        with pytest.raises(imc_ssm.ImcSsmError) as error:
            read(name + suffix)
        assert len(str(error.value)) < 600
        assert "\n" not in str(error.value)
