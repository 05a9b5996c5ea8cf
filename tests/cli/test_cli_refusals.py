"""Bad input, each kind: exit code 2, one line that names the thing, and no file left or touched.

`refused` (see conftest.py) makes these checks; `naming` is what the line has to name.
"""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cli_runs import own_toml, run

from imc_ssm import results

TRAIN = ("train", "digits", "--epochs", 0, "--out", "m.safetensors")


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (("train", "digit", "--out", "m.safetensors"), "unknown dataset 'digit'; did you mean 'digits'?"),
        (("train", "digits", "--out", "m.safetensors", "--model", "s4d-16"), "did you mean 's4d-16h'?"),
        (("train", "none.npz", "--out", "m.safetensors"), "none.npz"),
        (("quantize", "s4d-16", "--out", "q.safetensors"), "did you mean 's4d-16h'?"),
        (("quantize", "s4d-16h-seed99", "--out", "q.safetensors"), "0, 1, 2, 3, 4, not 99"),
        (("inspect", "s4d-16", "--out", "d.nc"), "did you mean 's4d-16h'?"),
        (("deploy", "s4d-16", "--out", "d.nc"), "did you mean 's4d-16h'?"),
        (("cost", "s4d-16", "--out", "d.nc"), "did you mean 's4d-16h'?"),
        (("data", "minst", "--out", "d.json"), "did you mean 'smnist'?"),
        (("devices", "pcm-265", "--out", "d.json"), "did you mean 'pcm-256'?"),
        (("devices", "none.toml"), "none.toml"),
        (("demo", "--design", "pcm-265", "--out", "d.nc"), "did you mean 'pcm-256'?"),
        (("shw", "d.nc"), "'shw'"),
        (("train", "digits", "--out", "m.safetensors", "--epoch", "3"), "--epoch"),
        (("train", "digits"), "--out"),
        (
            ("train", "digits", "--out", "m.safetensors", "--device", "gpu"),
            "unknown device 'gpu'; allowed",
        ),
        (("quantize", "s4d-16h", "--out", "q.safetensors", "--device", "tpu"), "unknown device 'tpu'"),
    ],
)
def test_unknown_names(refused, words, naming):
    refused(*words, naming=naming)


@pytest.mark.parametrize("command", ["deploy", "cost"])
def test_unknown_names_beside_a_model(refused, chain, command):
    words = (command, chain["q.safetensors"], "--out", "d.nc")
    refused(*words, "--design", "reram-182", naming="did you mean 'reram-128'?")
    refused(*words, "--dataset", "digitss", naming="did you mean 'digits'?")
    refused(command, "none.safetensors", "--out", "d.nc", naming="none.safetensors")


@pytest.mark.parametrize(
    ("shipped", "line", "naming"),
    [
        ("pcm-256", {"rows": "row = 256"}, "unknown field 'row'; did you mean 'rows'?"),
        ("pcm-256", {"rows": 'rows = "many"'}, "'rows'"),
        ("pcm-256", {"rows": "rows = 0"}, "'rows' = 0"),
        ("pcm-256", {"rows": "rows = [["}, "not valid TOML"),
        ("pcm-256", {"adc": 'adc = { type = "sar", bits = 40 }'}, "'adc.bits' = 40"),
        ("pcm-256", {"adc": "adc_bits = 6"}, 'write adc = { type = "sar", bits = 6 }'),
        ("pcm-256", {"unit": 'unit = "V"'}, "'read_noise'"),
        ("pcm-256", {"cell": 'cell = "pcm"'}, "unknown memory cell 'pcm'"),
        ("pcm-256", {"cell": 'cell = "none.toml"'}, "none.toml"),
        ("pcm-256", {"tiles": "tiles = 1"}, "'own-pcm-256' has 1"),
        ("pcm-256", {"components": 'components = "periphery"'}, "unknown component table 'periphery'"),
        ("pcm-256", {"adc": 'adc = "sar-8b"'}, 'give type and resolution: adc = { type = "sar", bits = 8 }'),
        ("pcm-256", {"adc": 'adc = { type = "sra", bits = 8 }'}, "did you mean 'sar'?"),
        ("pcm-256", {"clock": ""}, "'clock'"),
    ],
)
def test_a_design_of_the_user(refused, chain, tmp_path, shipped, line, naming):
    if "clock" in line:  # a table that is missing, not a line
        design = tmp_path / "own.toml"
        text = own_toml(tmp_path, "designs", shipped).read_text()
        design.write_text(text.replace("[clock]", "[clock_]"))
    else:
        names = {"name": 'name = "own-pcm-256"'}
        design = own_toml(tmp_path, "designs", shipped, **names, **line)
    refused("deploy", chain["q.safetensors"], "--design", design, "--out", "d.nc", naming=naming)
    refused("cost", chain["q.safetensors"], "--design", design, "--out", "d.nc", naming=naming)


def test_a_cell_of_the_user(refused, chain, tmp_path):
    cell = own_toml(tmp_path, "cells", "pcm-nandakumar-2019", kind='knd = "pcm"')
    design = own_toml(tmp_path, "designs", "pcm-256", cell=f'cell = "{cell.name}"')
    naming = "unknown field 'knd'; did you mean 'kind'?"
    refused("deploy", chain["q.safetensors"], "--design", design, "--out", "d.nc", naming=naming)
    refused("devices", design, "--out", "d.json", naming=naming)


def damaged(path: Path, kind: str, to: Path) -> Path:
    """A copy of a file, cut at a fraction ("cut 0.5") or with one bit flipped there ("flip 0.5")."""
    how, place = kind.split()
    data = bytearray(path.read_bytes())
    at = min(int(float(place) * len(data)), len(data) - 1)
    if how == "cut":
        del data[at:]
    else:
        data[at] ^= 0x10
    to.write_bytes(bytes(data))
    return to


DAMAGE = [
    *(f"cut {part}" for part in (0, 0.001, 0.3, 0.9, 1)),
    *(f"flip {part}" for part in (0, 0.02, 0.3, 0.7, 1)),
]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files(refused, chain, tmp_path, kind):
    model = damaged(chain["m.safetensors"], kind, tmp_path / "bad-model.safetensors")
    refused("quantize", model, "--out", "new.safetensors", naming="bad-model.safetensors")
    quantized = damaged(chain["q.safetensors"], kind, tmp_path / "bad-q.safetensors")
    refused("deploy", quantized, "--out", "new.nc", "--deployment", "new.safetensors", naming="bad-q.safetensors")
    deployment = damaged(chain["dep.safetensors"], kind, tmp_path / "bad-dep.safetensors")
    refused("cost", deployment, "--out", "new.nc", naming="bad-dep.safetensors")
    dataset = damaged(chain["d.nc"], kind, tmp_path / "bad.nc")
    refused("show", dataset, "--out", "new.png", naming="bad.nc")


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize(
    ("part", "payload", "naming"),
    [
        ("train-images-idx3-ubyte", idx(np.zeros((4, 28, 28), np.uint8))[:-5], "(4, 28, 28)"),
        ("train-images-idx3-ubyte", b"", "0 bytes"),
        ("train-images-idx3-ubyte", idx(np.zeros((4, 28, 28), np.uint8)), "SHA-256"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\x03" + idx(np.zeros((4, 28, 28), np.uint8))[4:], "magic"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((4, 28, 28), np.uint8)), mtime=0)[:-9], "gzip"),
        ("train-images-idx3-ubyte", None, "holds t10k-images"),
    ],
    ids=["truncated", "empty", "changed", "magic", "gzip", "missing"],
)
def test_bad_idx_files(refused, tmp_path, part, payload, naming):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, rank in (("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1)):
        (folder / f"{name}-idx{rank}-ubyte").write_bytes(idx(np.zeros((4, 28, 28)[:rank], np.uint8)))
    if payload is not None:
        (folder / part).write_bytes(payload)
    for command in ("train", "data"):
        out = "m.safetensors" if command == "train" else "d.json"
        result = refused(command, "smnist", "--data-dir", tmp_path, "--out", out, naming=naming)
        assert "train-images-idx3-ubyte" in result.err
    refused("train", "smnist", "--data-dir", "nowhere", "--out", "m.safetensors", naming="nowhere")


def with_nan(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[3, 2, 0] = np.nan
    return values


GOOD = np.random.default_rng(0).normal(size=(30, 6, 1))
LABELS = np.arange(30) % 3


@pytest.mark.parametrize(
    ("arrays", "naming"),
    [
        ({"values": with_nan(GOOD), "labels": LABELS}, "[3, 2, 0]"),  # brackets survive the terminal
        ({"values": with_nan(GOOD) * np.inf, "labels": LABELS}, "not finite"),
        ({"values": GOOD[None], "labels": LABELS}, "(1, 30, 6, 1)"),
        ({"values": GOOD[:, 0, 0], "labels": LABELS}, "(30,)"),
        ({"values": GOOD[:, :0], "labels": LABELS}, "(30, 0, 1)"),
        ({"values": GOOD, "labels": LABELS[:-1]}, "labels"),
        ({"values": GOOD, "labels": LABELS + 0.5}, "labels"),
        ({"values": GOOD, "labels": LABELS * 0}, "one class"),
        ({"values": GOOD, "labels": LABELS, "lengths": LABELS}, "lengths"),
        ({"values": GOOD, "labels": LABELS, "sample_rate": 0.0}, "sample_rate"),
        ({"values": GOOD, "labels": LABELS, "train": np.arange(9)}, "validation"),
        ({"values": GOOD, "label": LABELS}, "did you mean 'labels'?"),
        ({"values": GOOD[:, :1]}, "labels"),
        ({"values": GOOD.astype(object), "labels": LABELS}, "own.npz"),
        ({"values": GOOD.astype(complex), "labels": LABELS}, "complex"),
    ],
)
def test_bad_sequences(refused, tmp_path, arrays, naming):
    np.savez(tmp_path / "own.npz", **arrays)
    refused("train", "own.npz", "--epochs", 1, "--out", "m.safetensors", naming=naming)


@pytest.mark.parametrize("kind", ["cut 0.5", "cut 0", "flip 0.3"])
def test_damaged_sequences(refused, tmp_path, kind):
    np.savez(tmp_path / "good.npz", values=GOOD, labels=LABELS)
    damaged(tmp_path / "good.npz", kind, tmp_path / "own.npz")
    refused("train", "own.npz", "--epochs", 1, "--out", "m.safetensors", naming="own.npz")
    refused("data", "own.npz", "--out", "d.json", naming="own.npz")


def test_sequences_that_do_not_fit_the_model(refused, chain, tmp_path):
    np.savez(tmp_path / "two.npz", values=np.repeat(GOOD, 2, axis=2), labels=np.arange(30) % 10)
    np.savez(tmp_path / "few.npz", values=GOOD, labels=LABELS)
    model, quantized = chain["m.safetensors"], chain["q.safetensors"]
    for own, naming in (("two.npz", "1 input channels"), ("few.npz", "10 classes")):
        refused("quantize", model, "--dataset", own, "--out", "new.safetensors", naming=naming)
        refused("deploy", quantized, "--dataset", own, "--out", "new.nc", naming=naming)
        refused("cost", quantized, "--dataset", own, "--out", "new.nc", naming=naming)


def test_sequences_that_are_gone(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "own.npz", values=GOOD, labels=LABELS)
    assert run("train", "own.npz", "--epochs", 0, "--out", "own.safetensors").code == 0
    (tmp_path / "own.npz").unlink()
    refused("quantize", "own.safetensors", "--out", "q.safetensors", naming="--dataset names another")


def test_outputs_that_cannot_be_written(refused, chain, tmp_path):
    (tmp_path / "file").write_text("here stands a file, not a folder")
    for name in ("folder.safetensors", "folder.nc", "folder.png", "folder.json"):
        (tmp_path / name).mkdir()
    model, quantized, dataset = chain["m.safetensors"], chain["q.safetensors"], chain["d.nc"]
    commands = {
        ".safetensors": [("train", "digits", "--epochs", 0), ("quantize", model)],
        ".nc": [("demo",), ("deploy", quantized, "--chips", 1), ("cost", quantized)],
        ".png": [("show", dataset)],
        ".json": [("devices",), ("data", "digits")],
    }
    for suffix, several in commands.items():
        for words in several:
            refused(*words, "--out", f"file/out{suffix}", naming=f"file/out{suffix}")
            refused(*words, "--out", f"folder{suffix}", naming=f"folder{suffix}: it is a folder")
            refused(*words, "--out", "out.txt", naming=f"must end in {suffix}")
    deploy = ("deploy", quantized, "--chips", 1, "--out", "new.nc", "--deployment")
    refused(*deploy, "file/dep.safetensors", naming="file/dep.safetensors")
    refused(*deploy, "dep.json", naming="must end in .safetensors")


@pytest.mark.parametrize("command", ["demo", "deploy"])
def test_a_figure_that_cannot_be_written(refused, chain, tmp_path, command):
    (tmp_path / "new.png").mkdir()
    words = ("deploy", chain["q.safetensors"], "--chips", 1, "--times", "1s") if command == "deploy" else ("demo",)
    refused(*words, "--out", "new.nc", naming="new.png: it is a folder")


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (("--epochs", -1), "--epochs"),
        (("--epochs", "ten"), "--epochs"),
        (("--batch", 0), "--batch"),
        (("--rate", 0), "'learning_rate' = 0.0"),
        (("--rate", "nan"), "'learning_rate' = nan"),
        (("--weight-decay", -1), "'weight_decay' = -1.0"),
        (("--dropout", 1), "'dropout' = 1.0"),
        (("--n-state", 3), "'n_state' = 3"),
        (("--layers", 0), "--layers"),
        (("--norm", "group"), "'norm' = 'group'"),
        (("--initialisation", "random"), "'initialisation' = 'random'"),
        (("--discretisation", "euler"), "'discretisation' = 'euler'"),
        (("--seed", -1), "--seed"),
        (("--seed", 2**70), "--seed"),
    ],
)
def test_bad_numbers_in_train(refused, words, naming):
    refused(*TRAIN, *words, naming=naming)


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        *(
            ((f"--{part}", bits), f"= {bits}")
            for part in ("poles", "state", "weights", "activations")
            for bits in (1, 17)
        ),
        (("--percentile", 20), "'percentile' = 20.0"),
        (("--percentile", "inf"), "'percentile' = inf"),
        (("--granularity", "row"), "'granularity' = 'row'"),
        (("--epochs", -1), "--epochs"),
        (("--rate", 0), "'learning_rate' = 0.0"),
        (("--noise", -0.1), "'noise' = -0.1"),
        (("--noise-output", -1), "'noise_output' = -1.0"),
        (("--seed", -1), "--seed"),
    ],
)
def test_bad_numbers_in_quantize(refused, chain, words, naming):
    refused("quantize", chain["m.safetensors"], "--out", "new.safetensors", *words, naming=naming)


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (("--times", "1x"), "'1x'"),
        (("--times", ""), "''"),
        (("--times", "1s,,1d"), "''"),
        (("--times", "nan"), "'nan'"),
        (("--times", "1d,1h"), "must rise"),
        (("--times", "1s,1s"), "given twice"),
        (("--times", "-1s"), "'-1s'"),
        (("--times", "1h", "--design", "reram-wan-64"), "not at 3600 s"),
        (("--times", "0s", "--design", "reram-128"), "no model at 0 s"),
        (("--times", "100000d"), "8.64e+09 s"),
        (("--chips", 0), "--chips"),
        (("--seed", -1), "--seed"),
    ],
)
def test_bad_numbers_in_deploy_and_demo(refused, chain, words, naming):
    refused("deploy", chain["q.safetensors"], "--out", "new.nc", *words, naming=naming)
    refused("demo", "--out", "new.nc", *words, naming=naming)


def test_models_of_the_wrong_kind(refused, chain, tmp_path):
    full, quantized, deployment = (chain[f"{name}.safetensors"] for name in ("m", "q", "dep"))
    refused("deploy", full, "--out", "new.nc", naming="full precision; quantize it first")
    refused("cost", full, "--out", "new.nc", naming="full precision; quantize it first")
    refused("quantize", quantized, "--out", "new.safetensors", naming="quantized already")
    refused("quantize", deployment, "--out", "new.safetensors", naming="'deployment' file")
    refused("deploy", deployment, "--out", "new.nc", naming="'deployment' file")
    refused("cost", deployment, "--design", "pcm-256", naming="--design")


def test_things_that_cannot_be_shown(refused, chain, tmp_path):
    xr.Dataset({"x": ("t", np.zeros(3))}).to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    (tmp_path / "text.nc").write_text("not a dataset")
    number = {"units": "1", "long_name": "A number"}
    results.save(xr.Dataset({"x": ((), 0.0, number)}), tmp_path / "ours.nc")
    shutil.copy(chain["m.safetensors"], tmp_path / "model.nc")
    for name, naming in (
        ("theirs.nc", "theirs.nc"),
        ("text.nc", "not a netCDF-4 file"),
        ("model.nc", "not a netCDF-4 file"),
        ("ours.nc", "ours.nc: nothing of this dataset can be drawn (variables: x)"),
        ("none.nc", "none.nc"),
        (".", "."),
    ):
        refused("show", name, naming=naming)


def test_work_that_fails_in_the_middle_leaves_nothing(refused):
    words = ("train", "digits", "--out", "m.safetensors")
    refused(*words, "--rate", 1e30, "--epochs", 2, naming="smaller learning rate")
    assert run(*words, "--epochs", 1).code == 0  # nothing of the failure stands in the way


def test_a_training_that_diverges_late_leaves_nothing(refused):
    # one huge batch an epoch: the first checkpoint is written before the warm-up reaches rates that diverge
    words = ("train", "digits", "--batch", 2000, "--rate", 1e30, "--epochs", 40, "--out", "m.safetensors")
    result = refused(*words, naming="smaller learning rate")
    assert "epoch 1/" not in result.err


def test_names_are_printed_as_they_are(refused):
    refused("train", "a [/red] :smile:.npz", "--out", "m.safetensors", naming="a [/red] :smile:.npz")
    refused("train", "two\nlines.npz", "--out", "m.safetensors", naming="two lines.npz")
