"""What only a process of its own shows: quick help, exit codes, Ctrl-C, the same seed twice."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_pages_are_kept():
    """An array where one of the same size was needs no fresh page. (Up to 32 MiB glibc learns that by itself.)"""
    code = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from imc_ssm.cli.process import keep_pages\n"
        "if sys.argv[1] == 'keep': keep_pages()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(3):\n"
        "    before = faults(); x = np.ones(2**26, np.uint8); del x\n"
        "print(faults() - before)"
    )
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, how], capture_output=True, text=True, check=True, env=environment
        )
        for how in ("keep", "leave")
    ]
    kept, left = (int(run.stdout) for run in runs)
    fresh = 2**26 // 2**21  # in pages of 2 MiB at most
    assert kept < fresh <= left


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_output_that_is_full():
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run([script(), "data"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert result.stderr == "error: cannot print: No space left on device; send the output somewhere else\n"


def test_a_full_disk_is_not_the_output(monkeypatch, capsys):
    from imc_ssm import cli
    from imc_ssm.cli import app

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device", "cache/kernel.nbi")

    monkeypatch.setattr(app, "app", full)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert capsys.readouterr().err.startswith(
        "error: cannot write cache/kernel.nbi: No space left on device; free"
    )


INTERRUPTED = "interrupted; nothing is half written"


def test_interrupted_at_once_nothing_is_written(tmp_path):
    # the handler, because a shell's background jobs start with interrupts ignored
    handler = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = ["train", "digits", "--epochs", "100000", "--out", "deep/m.safetensors"]
    with subprocess.Popen(
        [sys.executable, "-c", f"{handler}; from imc_ssm.cli import main; main()", *words],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("train s4d-16h on digits: 0 %")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith(INTERRUPTED)
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_interrupted_later_the_same_command_goes_on_to_the_same_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "digits", "--epochs", 6, "--batch", 120, "--n-state", 16, "--dropout", 0.1, "--out"]
    stopped = run(*words, "m.safetensors", interrupt_at="digits: 50 %")
    assert stopped.code == 130
    assert stopped.err.startswith(INTERRUPTED)
    assert [path.name for path in tmp_path.iterdir()] == [".m.safetensors.checkpoint.safetensors"]
    other = run(*words, "m.safetensors", "--rate", 0.01)
    assert other.code == 2
    assert "training with other settings" in other.err
    done(*words, "m.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    done(*words, "whole.safetensors")
    same_tensors(tmp_path / "m.safetensors", tmp_path / "whole.safetensors", "model")


def test_an_interrupted_deployment_goes_on_to_the_same_result(chain, tmp_path):
    words = ["deploy", chain["q.safetensors"], "--chips", 2, "--times", "1s,1d", "--seed", 5, "--out"]
    stopped = run(*words, tmp_path / "d.nc", interrupt_at="100 %")
    assert stopped.code == 130
    assert [path.name for path in tmp_path.iterdir()] == [".d.nc.checkpoint.safetensors"]
    done(*words, tmp_path / "d.nc")
    assert {path.name for path in tmp_path.iterdir()} == {"d.nc", "d.png"}
    assert results.values_equal(results.load(tmp_path / "d.nc"), results.load(chain["d.nc"]))


CHAIN = (
    "train digits --epochs 1 --batch 100 --n-state 16 --out m.safetensors",
    "quantize m.safetensors --epochs 1 --batch 100 --out q.safetensors",
    "deploy q.safetensors --chips 2 --times 1s,1d --out d.nc --deployment dep.safetensors",
)


def test_the_same_seed_twice_in_separate_processes(tmp_path, monkeypatch):
    code = (
        "import sys; from imc_ssm.cli import main\n"
        f"for line in {CHAIN!r}: sys.argv = ['imc-ssm', *line.split(), '--seed', '3']; main()"
    )
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=there,
        env=os.environ | {"PYTHONHASHSEED": "7"},  # the order of Python's sets must not matter
        stdout=subprocess.DEVNULL,
        check=True,
    )
    monkeypatch.chdir(here)
    for line in CHAIN:
        done(*line.split(), "--seed", 3)
    assert results.values_equal(results.load(here / "d.nc"), results.load(there / "d.nc"))
    for name, kind in (("m", "model"), ("q", "model"), ("dep", "deployment")):
        same_tensors(here / f"{name}.safetensors", there / f"{name}.safetensors", kind)


def test_the_cost_does_not_depend_on_the_hashing_of_text(chain, tmp_path):
    # 0 and 6 order a set of this deployment's stores differently: a sum over it once differed in its last bit
    for hashing in ("0", "6"):
        words = [script(), "cost", str(chain["dep.safetensors"]), "--out", str(tmp_path / f"{hashing}.nc")]
        environment = os.environ | {"PYTHONHASHSEED": hashing}
        subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=True)
    assert results.values_equal(results.load(tmp_path / "0.nc"), results.load(tmp_path / "6.nc"))


def same_tensors(first: Path, second: Path, kind: str) -> None:
    """Both files hold exactly the same arrays."""
    one, two = (load_tensors(path, kind)[0] for path in (first, second))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], strict=True)


def test_another_seed_is_another_model(tmp_path):
    for seed in (0, 1):
        done("train", "digits", "--epochs", 0, "--seed", seed, "--out", tmp_path / f"{seed}.safetensors")
    one, two = (load_tensors(tmp_path / f"{seed}.safetensors", "model")[0] for seed in (0, 1))
    assert not np.array_equal(one["encoder.weight"], two["encoder.weight"])
