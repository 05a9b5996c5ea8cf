"""How long a sweep of many design points takes, and whether what is killed and resumed ends as what ran through.

    python benchmarks/sweeps.py --points 2000 --sequences 500 --kills 10

One model of the digits, Sobol points over cell, converters, sizes and unit of its chip, five chips each after a
second and a day. Timed: `imc-ssm sweep run --cluster local --workers N`. Then the first points once more in other
folders: killed with all its processes at random moments and run again each time; and with one worker killed. All
three datasets have to be equal.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
import xarray as xr

from imc_ssm import datasets, results
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.study import FINE_TUNING, initial_steps
from imc_ssm.sweeps import load
from imc_ssm.training import TrainConfig, train

SWEEP = """
title = "Benchmark"
method = "sobol"
trials = {points}

[objective]
start = "{start}"
design = "pcm-256"
chips = 5
times = "1s,1d"
sequences = {sequences}
split = "train"

[space]
design.cell = ["pcm-nandakumar-2019", "pcm-hermes-dual", "reram-cmo-falcone", "reram-wan-2022"]
design.adc.bits = [4, 5, 6, 7, 8]
design.dac.bits = [4, 5, 6, 7, 8]
design.devices = [1, 2]
design.columns_per_adc = [8, 16, 32, 64]
design.drift_compensation = ["none", "global", "column"]
design.read_noise = {{ low = 0.005, high = 0.1, log = true }}
design.lanes = {{ low = 4, high = 64, log = true }}
size = {{ values = [64, 128, 256], fields = ["design.rows", "design.columns"] }}
"""
PROGRAM = "import sys; from imc_ssm.cli import main; sys.argv[0] = 'imc-ssm'; main()"


def start(toml: Path, folder: Path, points: int, workers: int) -> subprocess.Popen[bytes]:
    """The command, with its processes in a group of their own."""
    words = ["sweep", "run", str(toml), "--out", str(folder), "--trials", str(points)]
    words += ["--cluster", "local", "--workers", str(workers)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], start_new_session=True, stdout=subprocess.DEVNULL
    )


def finished(toml: Path, folder: Path, points: int, workers: int) -> xr.Dataset:
    """Run it to its end."""
    if start(toml, folder, points, workers).wait():
        raise SystemExit("the sweep failed")
    return load(folder)


def cells(folder: Path) -> int:
    """How many are there."""
    return len(list(folder.glob("cells.zarr/record/*.0")))


def killed(toml: Path, folder: Path, points: int, workers: int, kills: int) -> xr.Dataset:
    """Killed at random moments, then run to its end."""
    rng = random.Random(0)
    for wanted in sorted(rng.sample(range(1, points), kills)):
        process = start(toml, folder, points, workers)
        while process.poll() is None and cells(folder) < wanted:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"  killed with {cells(folder)} of {points} cells", flush=True)
    return finished(toml, folder, points, workers)


def bereaved(toml: Path, folder: Path, points: int, workers: int) -> xr.Dataset:
    """One worker is killed at half of the cells."""
    process = start(toml, folder, points, workers)
    while process.poll() is None and cells(folder) < points // 2:
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    worker = max(below, key=lambda one: one.cpu_times().user)
    print(f"  worker killed with {cells(folder)} of {points} cells", flush=True)
    worker.kill()
    if process.wait():
        raise SystemExit("the sweep failed")
    return load(folder)


def trained(path: Path) -> None:
    """The model of the digits, with noise-aware QAT."""
    data = datasets.load("digits")
    dt_min, dt_max = initial_steps(data.time)
    torch.manual_seed(0)
    model = Classifier(ModelConfig(heads=16, dt_min=dt_min, dt_max=dt_max))
    train(model, data, TrainConfig(epochs=60, batch=32, weight_decay=0.05), mode="convolution")
    quantized = quantize(model, Scheme.recommended(), *calibration_batch(data, 16))
    train(quantized, data, FINE_TUNING)
    save_model(path, StoredModel(quantized, quantized.scheme, {"task": "digits"}))


def main() -> None:
    """Print times, and whether the datasets are equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--sequences", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--again", type=int, default=400, help="points of the runs that are killed")
    parser.add_argument("--model", type=Path, help="quantized model file of the digits; default: trained here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or folder / "q.safetensors"
        if options.model is None:
            trained(model)
        toml = folder / "sweep.toml"
        toml.write_text(
            SWEEP.format(points=options.points, sequences=options.sequences, start=Path(model).resolve())
        )
        begin = time.perf_counter()
        whole = finished(toml, folder / "whole", options.points, options.workers)
        took = time.perf_counter() - begin
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{whole.attrs['cells_done']} points, 5 chips, {options.sequences} sequences, 2 times: {took:.0f} s "
            f"on {options.workers} workers, {used.ru_utime + used.ru_stime:.0f} s of processor time in all",
            flush=True,
        )
        first = whole.isel(trial=slice(options.again))
        many = toml, folder / "killed", options.again, options.workers
        same = results.values_equal(killed(*many, options.kills), first)
        print(f"killed {options.kills} times: the first {options.again} points equal: {same}", flush=True)
        same = results.values_equal(bereaved(toml, folder / "bereaved", options.again, options.workers), first)
        print(f"one worker killed: the first {options.again} points equal: {same}")


if __name__ == "__main__":
    main()
