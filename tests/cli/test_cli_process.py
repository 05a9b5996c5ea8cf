"""What only a process of its own shows: quick help, exit codes, Ctrl-C, the same seed twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from cli_runs import done, run

from imc_ssm import results
from imc_ssm.files import load_tensors

HEAVY = ("torch", "xarray", "aihwkit", "numba", "sklearn", "scipy", "matplotlib", "pooch", "pydantic", "h5py")


def script() -> str:
    """The installed command."""
    return str(Path(sys.executable).with_name("imc-ssm"))


def test_help_imports_nothing_heavy():
    code = (
        "import sys, imc_ssm.cli; sys.argv = ['imc-ssm', '--help']\n"
        "try: imc_ssm.cli.main()\n"
        f"finally: print('HEAVY', sorted(set({HEAVY}) & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "deploy" in result.stdout
    assert "HEAVY []" in result.stdout


def test_exit_codes_of_the_installed_command(tmp_path):
    options = {"capture_output": True, "text": True, "cwd": tmp_path}
    good = subprocess.run([script(), "data"], **options)
    assert (good.returncode, good.stderr) == (0, "")
    assert "digits" in good.stdout
    bad = subprocess.run([script(), "data", "digit"], **options)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: unknown dataset 'digit'; did you mean 'digits'?")
    assert bad.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early():
    """`imc-ssm data | head -1` ends quietly."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        result = subprocess.run([script(), "data"], stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert result.stderr == ""


def interrupted(folder: Path, words: list[object], begin: str) -> None:
    """Start `imc-ssm words...`, press Ctrl-C at the first line that begins so, and check how it ends."""
    # the handler, because a shell's background jobs start with interrupts ignored
    handler = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{handler}; from imc_ssm.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith(begin) for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("interrupted; no result was written")
    assert err.count("\n") == 1


def test_interrupted_at_once_nothing_is_written(tmp_path):
    words = ["train", "digits", "--epochs", 100000, "--out", "deep/m.safetensors"]
    interrupted(tmp_path, words, "train s4d-16h on digits: 0 %")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_later_the_same_command_goes_on_to_the_same_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "digits", "--epochs", 10, "--batch", 120, "--n-state", 16, "--dropout", 0.1, "--out"]
    interrupted(tmp_path, [*words, "m.safetensors"], "train s4d-16h on digits: 30 %")
    assert [path.name for path in tmp_path.iterdir()] == [".m.safetensors.checkpoint.safetensors"]
    other = run(*words, "m.safetensors", "--rate", 0.01)
    assert other.code == 2
    assert "training with other settings" in other.err
    done(*words, "m.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    done(*words, "whole.safetensors")
    resumed, whole = (load_tensors(f"{name}.safetensors", "model")[0] for name in ("m", "whole"))
    assert resumed.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name], strict=True)


CHAIN = """
import sys
from imc_ssm.cli import main
for line in (
    "train digits --epochs 1 --batch 100 --n-state 16 --out m.safetensors",
    "quantize m.safetensors --epochs 1 --batch 100 --out q.safetensors",
    "deploy q.safetensors --chips 2 --times 1s,1d --out d.nc --deployment dep.safetensors",
):
    sys.argv = ["imc-ssm", *line.split(), "--seed", "3"]
    main()
"""


def test_the_same_seed_twice_in_separate_processes(tmp_path):
    processes = []
    for hashing in ("1", "2"):  # the order of Python's sets and dictionaries must not matter
        (tmp_path / hashing).mkdir()
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", CHAIN],
                cwd=tmp_path / hashing,
                env=os.environ | {"PYTHONHASHSEED": hashing},
                text=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        )
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, "")
    first, second = (tmp_path / name for name in "12")
    assert results.values_equal(results.load(first / "d.nc"), results.load(second / "d.nc"))
    for name, kind in (("m", "model"), ("q", "model"), ("dep", "deployment")):
        one, two = (load_tensors(folder / f"{name}.safetensors", kind)[0] for folder in (first, second))
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], strict=True)


def test_another_seed_is_another_model(tmp_path):
    for seed in (0, 1):
        done("train", "digits", "--epochs", 0, "--seed", seed, "--out", tmp_path / f"{seed}.safetensors")
    one, two = (load_tensors(tmp_path / f"{seed}.safetensors", "model")[0] for seed in (0, 1))
    assert not np.array_equal(one["encoder.weight"], two["encoder.weight"])
