"""Everything that reads a file, each with a small valid one to break."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
import struct
import tempfile
import tomllib
import wave
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from fuzz_harness import Loader
from fuzz_mutations import broken_arrays, broken_bytes, broken_text, broken_tree
from safetensors.numpy import save as save_safetensors

import imc_ssm
from imc_ssm.datasets.fsdd import _recordings
from imc_ssm.datasets.idx import read_idx
from imc_ssm.devices.library import device_names, device_path
from imc_ssm.errors import ConfigError
from imc_ssm.files import _digest, canonical_json, load_tensors
from imc_ssm.training import TrainConfig

LOADERS: dict[str, Loader] = {}


def add(name: str, broken: Callable[[Path, Random], Path], read: Callable[[Path], Any], sane: Any) -> None:
    LOADERS[name] = Loader(name, broken, read, sane)


def whole(read: Any) -> bool:
    """Numbers without NaN and infinities, in arrays, tensors and all that holds them."""
    if isinstance(read, (np.ndarray, float)):
        return bool(np.isfinite(read).all()) if np.asarray(read).dtype.kind == "f" else True
    if isinstance(read, torch.Tensor):
        return whole(read.detach().numpy())
    if isinstance(read, dict):
        return all(map(whole, read.values()))
    if isinstance(read, (list, tuple)):
        return all(map(whole, read))
    return True


# -- datasets


@cache
def arrays_of_a_dataset() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "values": rng.normal(size=(12, 6, 2)).astype(np.float32),
        "labels": np.arange(12) % 3,
        "lengths": np.full(12, 5),
        "sample_rate": np.array(100.0),
        "train": np.arange(6),
        "validation": np.arange(6, 9),
        "test": np.arange(9, 12),
    }


def broken_npz(folder: Path, rng: Random) -> Path:
    path = folder / "mine.npz"
    arrays, kind = arrays_of_a_dataset(), rng.randrange(5)
    buffer = io.BytesIO()
    np.savez(buffer, **(broken_arrays(arrays, rng) if kind < 2 else arrays))
    data = buffer.getvalue()
    if kind == 2:
        data = broken_bytes(data, rng)
    if kind > 2:  # a member replaced, broken inside, or there twice
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive, zipfile.ZipFile(io.BytesIO(data)) as old:
            chosen = rng.choice(old.namelist())
            for name in old.namelist():
                content = old.read(name)
                if name == chosen:
                    content = rng.choice((broken_bytes(content, rng), b"", _huge_npy(), _pickled_npy()))
                archive.writestr(name, content)
                if name == chosen and kind == 4:
                    import warnings

                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        archive.writestr(name, old.read(name))
        data = buffer.getvalue()
    path.write_bytes(data)
    return path


def _huge_npy() -> bytes:
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000000), }"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def _pickled_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def sane_dataset(data: Any) -> bool:
    return whole(data.values) and len(data) == len(data.values) and whole(float(data.sample_rate))


add("npz", broken_npz, imc_ssm.load_dataset, sane_dataset)


def broken_idx(folder: Path, rng: Random) -> Path:
    path = folder / "images"
    plain = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2, 3, 4) + bytes(range(24))
    data = gzip.compress(plain, mtime=0) if rng.random() < 0.5 else plain
    if rng.random() < 0.3:
        data = bytes((0, 0, 8, 3)) + struct.pack(">3I", *(rng.choice((0, 1, 2**31, 2**32 - 1)) for _ in range(3)))
    path.write_bytes(broken_bytes(data, rng))
    return path


add("idx", broken_idx, lambda path: read_idx(path, 3), lambda array: array.ndim == 3)


@cache
def recording() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(range(200)))
    return buffer.getvalue()


def broken_recordings(folder: Path, rng: Random) -> Path:
    content = broken_bytes(recording(), rng)
    if rng.random() < 0.3:
        (folder / "0_george_0.wav").write_bytes(content)
        return folder
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        archive.writestr("recordings/0_george_0.wav", content)
        archive.writestr("recordings/1_theo_7.wav", recording())
    path = folder / "fsdd.zip"
    path.write_bytes(broken_bytes(buffer.getvalue(), rng) if rng.random() < 0.6 else buffer.getvalue())
    return path


add("recordings", broken_recordings, lambda path: dict(_recordings(path)), lambda found: all(found.values()))


# -- the device library


def toml_of(tree: Any) -> str:
    """A tree as TOML, as far as TOML can say it: all tables inline."""

    def word(value: Any) -> str:
        if value is None:
            return '"none"'
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            return json.dumps(value).replace("\\/", "/")
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(str(k))} = {word(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(word, value)) + "]"
        return repr(value) if isinstance(value, float) else _digits(value)

    if not isinstance(tree, dict):
        tree = {"value": tree}
    return "\n".join(f"{json.dumps(str(name))} = {word(value)}" for name, value in tree.items()) + "\n"


def _digits(value: int) -> str:
    import sys

    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return str(value)
    finally:
        sys.set_int_max_str_digits(before)


def broken_toml(kind: str) -> Callable[[Path, Random], Path]:
    def broken(folder: Path, rng: Random) -> Path:
        text = device_path(kind, rng.choice(device_names(kind))).read_text(encoding="utf-8")  # type: ignore[arg-type]
        path, how = folder / "mine.toml", rng.random()
        if how < 0.15:
            path.write_bytes(broken_bytes(text.encode(), rng))
        elif how < 0.3:
            path.write_bytes(broken_text(text, rng).encode("utf-8", "surrogatepass"))
        else:
            path.write_bytes(toml_of(broken_tree(tomllib.loads(text), rng)).encode("utf-8", "surrogatepass"))
        return path

    return broken


def sane_cell(cell: Any) -> bool:
    """What physics rules out for one device: nothing of a millimetre or below an atom, of a siemens, of a billion
    levels, nothing read at no voltage or in no time."""
    levels = 2 if cell.levels is None else cell.levels.value
    return bool(
        0 <= cell.g_min.value < cell.g_max.value <= 0.1
        and 1e-20 <= cell.area.value <= 1e-6
        and 1e-15 <= cell.t_read.value <= 1
        and 1e-9 <= cell.v_read.value <= 100
        and 2 <= levels <= 1e6
        and whole(numbers(cell))
    )


def numbers(config: Any) -> Any:
    return config.model_dump()


def sane_design(chip: Any) -> bool:
    return sane_cell(chip.cell) and 1 <= chip.design.clock.value <= 1e12 and whole(numbers(chip))


def sane_components(table: Any) -> bool:
    return whole(numbers(table)) and all(whole(vars(table.memory(bits))) for bits in (1, 10**4, 10**9))


add("cell", broken_toml("cells"), imc_ssm.load_cell, sane_cell)
add("design", broken_toml("designs"), imc_ssm.resolve_design, sane_design)
add("components", broken_toml("components"), imc_ssm.load_components, sane_components)


# -- sealed tensor files


def sealed(arrays: dict[str, np.ndarray], header: Any, kind: str, version: Any = 1) -> bytes:
    """As `files.save_tensors` writes it, without its checks: the digest is right, whatever is in it."""
    content = {"header": header, "kind": kind, "version": version}
    try:
        content["sha256"] = _digest(arrays, content)
        text = canonical_json(content)
    except (ConfigError, RecursionError):  # not JSON: the seal cannot be made, any text will do
        text = json.dumps({"kind": kind, "version": 1, "sha256": "", "header": "?"}, sort_keys=True)
    return save_safetensors(arrays, metadata={"imc_ssm": text})


def broken_sealed(kind: str, make: Callable[[], bytes]) -> Callable[[Path, Random], Path]:
    def broken(folder: Path, rng: Random) -> Path:
        arrays, header = _parts(kind, make)
        path, how = folder / f"{kind}.safetensors", rng.random()
        if how < 0.15:
            path.write_bytes(broken_bytes(make(), rng))
            return path
        version = 1 if rng.random() < 0.95 else rng.choice((2, 0, -1, "1", 10**30))
        if how < 0.6:
            arrays = broken_arrays(arrays, rng)
        if how > 0.4:
            header = broken_tree(header, rng)
        plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        path.write_bytes(sealed(plain, header, kind if rng.random() < 0.97 else "other", version))
        return path

    return broken


@cache
def _parts(kind: str, make: Callable[[], bytes]) -> tuple[dict[str, np.ndarray], Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(make())
        return load_tensors(path, kind)


@cache
def tiny() -> Any:
    torch.manual_seed(0)
    return imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4, inputs=2, classes=3))


@cache
def data() -> Any:
    arrays = arrays_of_a_dataset()
    splits = {name: arrays[name] for name in ("train", "validation", "test")}
    return imc_ssm.SequenceDataset(arrays["values"], arrays["labels"], splits)


@cache
def quantized() -> Any:
    return imc_ssm.quantize(tiny(), "uniform", data())


def _saved(save: Callable[[Path], Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        save(path)
        return path.read_bytes()


@cache
def model_file() -> bytes:
    info = {"task": "digits", "history": {"loss_train": [1.0]}, "accuracy_test": 50.0}
    return _saved(lambda path: imc_ssm.save_model(path, imc_ssm.StoredModel(tiny(), None, info)))


@cache
def quantized_file() -> bytes:
    return _saved(lambda path: imc_ssm.save_model(path, quantized()))


@cache
def deployment_file() -> bytes:
    return _saved(imc_ssm.compile_model(quantized(), "pcm-256", data()).save)


def read_model(path: Path) -> Any:
    stored = imc_ssm.load_model(path)
    repr(stored)
    stored.info.get("task")
    return stored


def sane_model(stored: Any) -> bool:
    if not all(whole(value) for value in stored.model.state_dict().values()):
        return False
    scales = [v for name, v in stored.model.state_dict().items() if name.endswith("scale")]
    return all(bool((scale > 0).all()) for scale in scales)


def read_deployment(path: Path) -> Any:
    deployment = imc_ssm.Deployment.load(path)
    repr(deployment)
    return deployment, imc_ssm.cost(deployment), deployment.digest()


def sane_deployment(read: Any) -> bool:
    deployment, cost, _ = read
    sizes = [m.input_range > 0 and all(t.output_range > 0 for t in m.tiles) for m in deployment.matrices]
    arrays = [m.target for m in deployment.matrices] + [m.scale for m in deployment.matrices]
    total = float(cost["energy_total"])
    return whole(deployment.tensors) and whole(arrays) and all(sizes) and bool(0 < total < 1.0)


add("model", broken_sealed("model", model_file), read_model, sane_model)
add("quantized model", broken_sealed("model", quantized_file), read_model, sane_model)
add("deployment", broken_sealed("deployment", deployment_file), read_deployment, sane_deployment)

RECIPE = TrainConfig(epochs=2, batch=3)


@cache
def checkpoint_file() -> bytes:
    import copy

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.safetensors"

        class Stop(Exception):
            pass

        def stop(done: int, total: int, note: str) -> None:
            if done > 2 and path.exists():
                raise Stop

        with contextlib.suppress(Stop):
            imc_ssm.train(copy.deepcopy(tiny()), data(), RECIPE, checkpoint=path, progress=stop)
        return path.read_bytes()


def resumed(path: Path) -> Any:
    import copy

    model = copy.deepcopy(tiny())
    history = imc_ssm.train(model, data(), RECIPE, checkpoint=path)
    return model, asdict(history)


def sane_run(read: Any) -> bool:
    model, history = read
    return all(whole(value) for value in model.state_dict().values()) and whole(history)


add("checkpoint", broken_sealed("checkpoint", checkpoint_file), resumed, sane_run)


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
