"""`show`: everything a command writes can be shown, nothing foreign is overwritten, datasets are compared."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runs import done, own_toml, run
from matplotlib.figure import Figure

from imc_ssm import results
from imc_ssm.chip import Deployment
from imc_ssm.costs import actions_of, cost, energies, swings
from imc_ssm.modelfile import load_model

ROOT = Path(__file__).parent.parent.parent


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def shown(chain, tmp_path_factory):
    """The files of all commands in a folder of their own."""
    folder = tmp_path_factory.mktemp("shown")
    for name in ("m", "qat", "q", "dep"):
        shutil.copy(chain[f"{name}.safetensors"], folder)
    shutil.copy(chain["d.nc"], folder)
    done("cost", chain["dep.safetensors"], "--out", folder / "cost.nc")
    done("inspect", chain["q.safetensors"], "--sequences", 10, "--out", folder / "poles.nc")
    done("devices", "pcm-256", "--out", folder / "design.json")
    done("data", "--out", folder / "tasks.json")
    for path in (ROOT / "experiments" / "layers").glob("results/layers.nc"):
        shutil.copy(path, folder / "layers.nc")
    shutil.copy(ROOT / "experiments" / "layers" / "REPORT.md", folder)
    return folder


@pytest.mark.parametrize(
    ("name", "word", "picture"),
    [
        ("d.nc", "Accuracy in percent, 360 test sequences", True),
        ("cost.nc", "digital update", True),
        ("poles.nc", "poles outside the unit circle", True),
        ("layers.nc", "Accuracy of programmed chips (percent); mean ± deviation over 5 seeds and 10 chips", True),
        ("m.safetensors", "Training, after 6 epochs", True),
        ("qat.safetensors", "QAT, after 1 epochs", True),
        ("q.safetensors", "quantized from", False),
        ("dep.safetensors", "matrices on tiles", True),
        ("design.json", "columns_per_adc", False),
        ("tasks.json", "smnist", False),
        ("REPORT.md", "layers: QAT at 8 bits", False),
    ],
)
def test_whatever_a_command_writes_is_shown(shown, tmp_path, name, word, picture):
    copy = tmp_path / name
    shutil.copy(shown / name, copy)
    printed = done("show", copy).out
    assert word in printed
    assert copy.with_suffix(".png").exists() == picture
    assert {path.name for path in tmp_path.iterdir()} == {name, *([f"{copy.stem}.png"] if picture else [])}
    if picture:
        done("show", copy)  # its own picture may be drawn again


def test_curves_are_the_models_own(shown, tmp_path):
    done("show", shown / "m.safetensors", "--out", tmp_path / "m.png", "--csv", tmp_path / "curves.csv")
    history = load_model(shown / "m.safetensors").info["history"]
    rows = rows_of(tmp_path / "curves.csv")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    for name in ("loss_train", "accuracy_validation"):
        assert [float(row[name]) for row in rows] == history[name]


def test_a_dataset_as_text_has_every_number(shown, tmp_path):
    done("show", shown / "d.nc", "--out", tmp_path / "d.png", "--csv", tmp_path / "d.csv")
    ds = results.load(shown / "d.nc")
    rows = [row for row in rows_of(tmp_path / "d.csv") if row["variable"] == "accuracy"]
    assert len(rows) == ds["accuracy"].size
    for row in rows:
        there = ds["accuracy"].sel(model=row["model"], chip=int(float(row["chip"])), time=float(row["time"]))
        assert float(row["value"]) == float(there)
        assert row["units"] == "percent"


def test_foreign_pictures_stay(shown, tmp_path, refused):
    shutil.copy(shown / "d.nc", tmp_path)
    mine = Figure()
    mine.subplots().plot([1, 2])
    mine.savefig(tmp_path / "d.png")
    before = (tmp_path / "d.png").read_bytes()
    printed = done("show", "d.nc").out
    assert "d.png was not made by show and stays" in printed
    assert (tmp_path / "d.png").read_bytes() == before
    refused("show", "d.nc", "--out", "d.png", naming="d.png was not made by show and is not overwritten")
    done("show", "d.nc", "--out", "new.png")
    done("show", "d.nc", "--out", "new.png")


def test_the_picture_of_a_study_stays(tmp_path):
    for suffix in (".nc", ".png"):
        shutil.copy(ROOT / "experiments" / "zhao2025" / "results" / f"table1{suffix}", tmp_path)
    before = (tmp_path / "table1.png").read_bytes()
    assert "stays" in done("show", tmp_path / "table1.nc").out
    assert (tmp_path / "table1.png").read_bytes() == before


def test_several_datasets_are_compared_by_what_varies(chain, tmp_path):
    for bits in (6, 8):
        adc = f'adc = {{ type = "sar", bits = {bits} }}'
        design = own_toml(tmp_path, "designs", "reram-128", adc=adc)
        words = ("--design", design, "--chips", 2, "--times", "1d", "--sequences", 40)
        done("deploy", chain["q.safetensors"], *words, "--out", tmp_path / f"adc{bits}.nc")
    printed = done("show", tmp_path / "adc6.nc", tmp_path / "adc8.nc", "--csv", tmp_path / "both.csv").out
    assert "adc.bits=6" in printed
    assert "adc.bits=8" in printed
    assert (tmp_path / "comparison.png").exists()
    rows = [row for row in rows_of(tmp_path / "both.csv") if row["variable"] == "accuracy_digital"]
    reached = [float(results.load(tmp_path / f"adc{bits}.nc")["accuracy_digital"][0]) for bits in (6, 8)]
    assert {row["model"]: float(row["value"]) for row in rows} == dict(
        zip(("adc.bits=6", "adc.bits=8"), reached, strict=True)
    )
    for name in ("adc6.nc", "adc8.nc"):
        done("cost", chain["q.safetensors"], "--out", tmp_path / f"cost-{name}")
    assert "cost-adc6" in done("show", tmp_path / "cost-adc6.nc", tmp_path / "cost-adc8.nc").out


def test_what_cannot_be_compared(shown, refused):
    refused("show", shown / "d.nc", shown / "m.safetensors", naming="m.safetensors is no dataset")
    refused("show", shown / "d.nc", shown / "poles.nc", naming="poles holds no models on chips")
    refused("show", shown / "d.nc", shown / "d.nc", naming="is given twice")


def test_what_is_no_result_says_what_reads_it(tmp_path, refused):
    np.savez(tmp_path / "mine.npz", values=np.zeros((3, 2)))
    (tmp_path / "chip.toml").write_text("rows = 1")
    (tmp_path / "their.pt").write_bytes(b"PK")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "half.json").write_text("{")
    refused("show", "mine.npz", naming="imc-ssm data mine.npz")
    refused("show", "chip.toml", naming="imc-ssm devices chip.toml")
    refused("show", "their.pt", naming="imc-ssm import their.pt")
    refused("show", "list.json", naming="holds no entries")
    refused("show", "half.json", naming="half.json is no JSON")
    refused("show", "none.json", naming="cannot read none.json")
    refused("show", "none.safetensors", naming="none.safetensors")


def test_options_without_use_are_refused(shown, refused):
    refused("show", shown / "q.safetensors", "--out", "q.png", naming="leave --out q.png out")
    refused("show", shown / "q.safetensors", "--csv", "q.csv", naming="leave --csv q.csv out")
    refused("show", shown / "d.nc", "--csv", "d.txt", naming="must end in .csv")


def test_operations_have_joules_and_are_not_cut(chain, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    printed = done("cost", chain["dep.safetensors"], "--operations").out
    placed = Deployment.load(chain["dep.safetensors"])
    actions = actions_of(placed)
    assert "…" not in printed
    for taken in actions:
        assert taken.action.purpose in printed
    joules = energies(placed, actions)
    whole = cost(placed)  # leakage is no action's
    assert sum(joules) == pytest.approx(
        float(whole["energy_total"] - whole["energy"].sel(component="leakage")), rel=1e-12
    )
    rows = [line for line in printed.splitlines() if re.search(r"│ per (step|sequence) ", line)]
    assert len(rows) == len(actions)
    largest = max(zip(joules, rows, strict=True))
    assert f"{largest[0] * 1e9:.3g} nJ" in largest[1]


def test_a_subset_of_the_test_sequences(chain, tmp_path, refused):
    words = ("deploy", chain["q.safetensors"], "--chips", 1, "--times", "1s", "--sequences")
    for name, seed in (("a.nc", 0), ("b.nc", 0), ("c.nc", 1)):
        done(*words, 36, "--seed", seed, "--out", tmp_path / name)
    a, b, c = (results.load(tmp_path / f"{name}.nc") for name in "abc")
    assert results.values_equal(a, b)
    assert a.attrs["n_test"] == a["accuracy"].attrs["n_test"] == 36
    assert json.loads(a.attrs["configuration"])["sequences"] == 36
    assert float(a["accuracy"][0, 0, 0]) * 36 / 100 == pytest.approx(round(float(a["accuracy"][0, 0, 0]) * 0.36))
    assert not results.values_equal(a, c)
    refused(*words, 361, "--out", "new.nc", naming="sequences = 361; the split has 360")


def test_default_times_are_those_of_the_cell(chain, tmp_path):
    words = ("deploy", chain["q.safetensors"], "--chips", 1, "--sequences", 20, "--design")
    done(*words, "reram-wan-64", "--out", tmp_path / "wan.nc")
    done(*words, "pcm-256", "--out", tmp_path / "pcm.nc")
    assert results.load(tmp_path / "wan.nc")["time"].values.tolist() == [1.0, 86400.0, 172800.0]
    assert results.load(tmp_path / "pcm.nc")["time"].values.tolist() == [1.0, 3600.0, 86400.0, 2592000.0]


def test_train_takes_heads_and_steps(tmp_path, refused):
    words = ("train", "digits", "--epochs", 0, "--heads", 3, "--n-state", 4, "--dt-min", 0.02, "--dt-max", 0.2)
    done(*words, "--out", tmp_path / "m.safetensors")
    config = load_model(tmp_path / "m.safetensors").model.config
    assert (config.heads, config.layer.dt_min, config.layer.dt_max) == (3, 0.02, 0.2)
    refused("train", "digits", "--dt-min", 1, "--dt-max", 0.1, "--out", "new.safetensors", naming="dt_m")


def test_resuming_says_from_where(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("train", "digits", "--epochs", 4, "--batch", 100, "--n-state", 8, "--out", "m.safetensors")
    stopped = run(*words, interrupt_at="digits: 60 %")
    assert stopped.code == 130
    again = done(*words).out
    assert "going on from epoch 2 of 4, kept in .m.safetensors.checkpoint.safetensors" in again
    assert "going on" not in done(*words).out
    words = ("deploy", chain["q.safetensors"], "--chips", 2, "--times", "1s", "--sequences", 20, "--out", "d.nc")
    assert run(*words, interrupt_at="100 %").code == 130
    assert "going on from reading 2 of 2 (chips x times)" in done(*words).out


def test_swings_are_shown_and_drawn(chain, tmp_path):
    results.save(swings(Deployment.load(chain["dep.safetensors"])), tmp_path / "swings.nc")
    printed = done("show", tmp_path / "swings.nc").out
    assert "leakage_32" in printed
    assert (tmp_path / "swings.png").stat().st_size > 10_000
