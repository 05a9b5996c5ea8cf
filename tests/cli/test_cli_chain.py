"""The commands in the order a person types them, on real data, nothing mocked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from cli_runs import done, own_toml, run

from imc_ssm import __version__, datasets, results
from imc_ssm.chip import Deployment, evaluate
from imc_ssm.cli.app import app
from imc_ssm.devices import Components, device_names, load_cell, load_components, load_design, load_entry
from imc_ssm.modelfile import load_model, tensors_of
from imc_ssm.training import accuracy

COMMANDS = (
    "demo",
    "train",
    "import",
    "quantize",
    "prune",
    "inspect",
    "deploy",
    "cost",
    "advise",
    "export",
    "show",
    "explore",
    "data",
)


def test_the_chain_leaves_exactly_its_files(chain):
    names = {path.name for path in chain.folder.iterdir()}
    assert names == {"m.safetensors", "q.safetensors", "qat.safetensors", "dep.safetensors", "d.nc", "d.png"}
    assert (chain["d.png"]).read_bytes().startswith(b"\x89PNG")


def test_train_writes_a_model_that_learned(chain):
    stored = load_model(chain["m.safetensors"])
    reached = accuracy(stored.model, datasets.load("digits").split("test"))
    assert stored.scheme is None
    assert stored.info["task"] == "digits"
    assert stored.info["training"]["epochs"] == 6
    assert len(stored.info["history"]["loss_train"]) == 6
    assert reached > 70
    assert reached == pytest.approx(stored.info["accuracy_test"])
    assert f"test accuracy {reached:.2f} % on 360 sequences, 3850 parameters" in chain.printed["train"]
    assert f"wrote {chain['m.safetensors']}" in chain.printed["train"]


def test_quantize_keeps_the_accuracy_and_says_what_it_did(chain):
    full, ptq, qat = (load_model(chain[f"{name}.safetensors"]) for name in ("m", "q", "qat"))
    assert ptq.scheme is not None
    assert (ptq.scheme.bits.state, ptq.scheme.bits.poles, ptq.scheme.bits.weights) == (10, 8, 8)
    # Over four trainings: -0.7 points with a deviation of 1.2 for PTQ, 2.1 with 0.5 for an epoch of QAT.
    assert ptq.info["accuracy_test"] > full.info["accuracy_test"] - 8
    assert ptq.info["quantized_from"] == "m.safetensors"
    assert qat.info["qat"]["epochs"] == 1
    assert qat.info["accuracy_test"] > full.info["accuracy_test"] - 6
    before, after = tensors_of(ptq.model), tensors_of(qat.model)
    assert any(not np.array_equal(before[name], after[name]) for name in before if name.endswith("weight"))


def test_deploy_writes_one_dataset_of_the_same_chip(chain):
    ds = results.load(chain["d.nc"])
    assert ds.sizes["chip"] == 2
    assert ds["time"].values.tolist() == [1.0, 86400.0]
    assert ds["model"].values.tolist() == ["q"]
    assert float(ds["bits_state"][0]) == 10
    assert float(ds["accuracy_digital"][0]) == load_model(chain["q.safetensors"]).info["accuracy_test"]
    assert (ds["accuracy"].values > 50).all()
    assert ds["accuracy"].attrs["units"] == "percent"
    assert ds.attrs["seed"] == 5
    assert json.loads(ds.attrs["configuration"])["times"] == [1.0, 86400.0]


def test_a_saved_deployment_is_the_chip_that_was_evaluated(chain):
    placed = Deployment.load(chain["dep.safetensors"])
    again = evaluate(placed, datasets.load("digits"), 2, (1.0, 86400.0), seed=5)
    ds = results.load(chain["d.nc"]).sel(model="q")
    np.testing.assert_array_equal(again["accuracy"].values, ds["accuracy"].values)


def test_show_prints_and_plots(chain, tmp_path):
    ds = results.load(chain["d.nc"])
    for name in ("a.png", "a.pdf", "folder/a.svg"):
        printed = done("show", chain["d.nc"], "--out", tmp_path / name).out
        assert f"{float(ds['accuracy_digital'][0]):.2f}" in printed
        assert str(tmp_path / name) in printed
        assert (tmp_path / name).stat().st_size > 1000
    copy = tmp_path / "copy.nc"
    copy.write_bytes(chain["d.nc"].read_bytes())
    done("show", copy)
    assert copy.with_suffix(".png").read_bytes() == chain["d.png"].read_bytes()


def test_cost_is_the_same_from_the_model_and_from_the_deployment(chain, tmp_path):
    printed = done("cost", chain["q.safetensors"], "--out", tmp_path / "model.nc").out
    done("cost", chain["dep.safetensors"], "--operations", "--out", tmp_path / "deployment.nc")
    first, second = (results.load(tmp_path / name) for name in ("model.nc", "deployment.nc"))
    assert results.values_equal(first, second)
    assert float(first["energy_total"]) > 0
    deployed = results.load(chain["d.nc"])
    for part in ("energy", "latency", "area", "memory"):
        np.testing.assert_array_equal(deployed[part].sel(model="q").values, first[part].values)
    assert "per inference, 64 steps" in printed
    assert re.search(r"recurrence: [\d.]+ [munp]J, [\d.]+ % of the energy\n", printed)
    assert re.search(r"total +[\d.,]+ +[\d.,]+ to [\d.,]+ +100\.0 ", printed)  # with its interval
    assert re.search(r"efficiency +[\d.]+ TOPS/W +[\d.]+ TOPS/W +[\d.]+ TOPS/W", printed)
    assert re.search(r"leakage_32 +[\d.]+ to [\d.]+ +[\d.]+ to [\d.]+ [µn]J", printed)


def test_cost_with_constants_of_the_user(chain, tmp_path):
    """A library whose leakage is known: the interval closes, in every table alike."""
    own = tmp_path / "own.toml"
    lines = ["[leakage_32]", "value = 50.0", "low = 40.0", "high = 60.0", 'unit = "W/m2"', 'kind = "cited"']
    own.write_text("\n".join([*lines, 'holds = "our library"', 'source = "our own library"']), encoding="utf-8")
    done("cost", chain["dep.safetensors"], "--out", tmp_path / "theirs.nc")
    printed = done("cost", chain["dep.safetensors"], "--constants", own, "--out", tmp_path / "ours.nc").out
    theirs, ours = (results.load(tmp_path / f"{name}.nc") for name in ("theirs", "ours"))
    leaks = [ds["energy"].sel(component="leakage") for ds in (ours, theirs)]
    assert float(leaks[0] / leaks[1]) == pytest.approx(50 / 516)
    high = [float(ds["energy_total_bounds"].sel(bound="high") / ds["energy_total"]) for ds in (ours, theirs)]
    assert high[0] < high[1]
    assert "leakage_32" not in printed.split("Where the intervals")[1].splitlines()[4]


def test_cost_on_a_design_of_the_user(chain, tmp_path):
    cell = own_toml(tmp_path, "cells", "pcm-nandakumar-2019", name='name = "mine"')
    lines = {"cell": f'cell = "{cell.name}"', "lanes": "lanes = 64", "rows": "rows = 12"}
    design = own_toml(tmp_path, "designs", "pcm-256", **lines)  # the cell is found beside the design
    printed = done("cost", chain["q.safetensors"], "--design", design, "--out", tmp_path / "own.nc").out
    own = results.load(tmp_path / "own.nc")
    shipped = results.load(chain["d.nc"]).sel(model="q")
    assert "64 steps" in printed
    assert float(own["latency_total"]) < float(shipped["latency"].sum())  # four times the lanes
    assert float(own["tiles"]) == 5  # 16 rows of mixing and of the decoder need two tiles of 12


def waves(path: Path) -> Path:
    """A user's sequences: three frequencies in two channels, of different lengths."""
    rng = np.random.default_rng(0)
    n, time = 150, 24
    labels = np.arange(n) % 3
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1)) + np.array([0.0, np.pi / 2])
    t = np.arange(time)[None, :, None]
    values = np.sin(2 * np.pi * np.array([0.04, 0.12, 0.3])[labels][:, None, None] * t + phase)
    values = values + rng.normal(0, 0.1, values.shape)
    np.savez(path, values=values, labels=labels, lengths=rng.integers(12, time + 1, n), sample_rate=100.0)
    return path


def test_own_sequences_take_the_same_road(tmp_path):
    own = waves(tmp_path / "my [own] waves.npz")  # rich would take the brackets for markup
    model, quantized, out = tmp_path / "m.safetensors", tmp_path / "q.safetensors", tmp_path / "d.nc"
    done("train", own, "--epochs", 12, "--batch", 15, "--n-state", 16, "--out", model)
    done("quantize", model, "--out", quantized)
    chip = ("--design", "reram-wan-64", "--chips", 1, "--times", "1d")
    printed = done("deploy", quantized, *chip, "--out", out).out
    stored = load_model(model)
    assert (stored.model.config.inputs, stored.model.config.classes) == (2, 3)
    assert stored.model.config.layer.n_state == 16
    assert stored.info["accuracy_test"] > 60
    ds = results.load(out)
    assert ds.attrs["n_test"] == 22
    assert "22 test sequences" in " ".join(printed.split())
    assert str(own) in ds.attrs["title"]
    described = done("data", own, "--out", tmp_path / "own.json").out
    assert "my[own]waves.npz" in re.sub(r"[\s│]", "", described)  # a long path wraps anywhere
    about = json.loads((tmp_path / "own.json").read_text())[str(own)]
    assert about["shape"] == [150, 24, 2]
    assert about["read and checked"] == {"train": 106, "validation": 22, "test": 22}


def test_sequences_of_one_step_are_sequences(tmp_path):
    values = np.linspace(-1, 1, 30)[:, None]
    np.savez(tmp_path / "one.npz", values=values, labels=(values[:, 0] > 0).astype(int))
    done("train", tmp_path / "one.npz", "--epochs", 1, "--out", tmp_path / "m.safetensors")


@pytest.mark.parametrize("command", [*COMMANDS, "devices show", "devices fit"])
def test_help_of_every_command(command):
    printed = done(*command.split(), "--help").out
    assert "--seed" in printed
    assert "--out" in printed


def test_every_option_is_documented():
    group = typer.main.get_command(app)
    assert set(group.commands) == {*COMMANDS, "devices", "experiment", "sweep"}
    for name, command in group.commands.items():
        assert command.help, name
        bare = [p.name for p in command.params if p.name != "help" and not getattr(p, "help", None)]
        assert not bare, f"{name}: {bare} have no help"


def test_version_and_the_bare_command():
    assert done("--version").out.strip() == __version__
    bare = run()
    assert bare.code == 2
    assert "imc-ssm [OPTIONS] COMMAND" in bare.out


def test_devices_lists_all_and_writes_json(tmp_path):
    printed = done("devices", "--out", tmp_path / "library.json").out
    library = json.loads((tmp_path / "library.json").read_text())
    assert [cell["name"] for cell in library["cells"]] == device_names("cells")
    assert [design["name"] for design in library["designs"]] == device_names("designs")
    for name in (*device_names("cells"), *device_names("designs")):
        assert name in printed


@pytest.mark.parametrize("name", [*device_names("cells"), *device_names("designs")])
def test_devices_shows_one_with_the_source_of_every_number(name, tmp_path):
    printed = done("devices", name, "--out", tmp_path / "one.json").out
    entry = load_cell(name) if name in device_names("cells") else load_design(name)
    content = json.loads((tmp_path / "one.json").read_text())
    assert type(entry).parse(content) == entry
    words = "".join(character for character in printed if character.isalnum())
    for field, value in content.items():
        if isinstance(value, dict) and "value" in value:
            assert field.replace("_", "") in words
            values = value["value"] if isinstance(value["value"], list) else [value["value"]]
            assert all(f"{v:g}" in printed for v in values)
            source = "".join(c for c in value["source"] if c.isalnum())
            assert source[:5] in words  # columns wrap anywhere


def test_devices_shows_a_component_table(tmp_path):
    printed = done("devices", "periphery-32nm", "--out", tmp_path / "one.json").out
    assert "1.667e-12 J" in printed
    table = json.loads((tmp_path / "one.json").read_text())
    assert Components.parse(table) == load_components("periphery-32nm")


@pytest.mark.parametrize("name", ["generic-reram", "pcm-256", "periphery-32nm"])
def test_devices_copies_a_toml_and_shows_it_whatever_it_is(name, tmp_path):
    done("devices", name, "--out", tmp_path / "mine.toml")
    assert load_entry(tmp_path / "mine.toml").name == name
    shown, again = done("devices", name).out, done("devices", tmp_path / "mine.toml").out
    assert (
        shown[shown.index("┏") :] == again[again.index("┏") :]
    )  # but for the title, which may take several lines


def test_a_toml_of_another_kind_is_named(tmp_path):
    done("devices", "pcm-256", "--out", tmp_path / "base.toml")
    design = own_toml(tmp_path, "designs", "reram-128", cell='cell = "base.toml"')
    wrong = run("devices", design)
    assert wrong.code == 2
    assert "base.toml is a chip design, not a memory cell; give the path of a memory cell's TOML" in wrong.err
    bare = own_toml(tmp_path, "designs", "reram-128", cell='cell = "base"')
    assert "a file of your own is given by its path, such as 'base.toml'" in run("devices", bare).err
    (tmp_path / "other.toml").write_text("lr = 1\n")
    assert "no field of a memory cell" in run("devices", tmp_path / "other.toml").err


def test_devices_shows_a_design_of_the_user(tmp_path):
    path = own_toml(tmp_path, "designs", "reram-128", tiles="tiles = 7")
    assert " 7 " in done("devices", path).out


def test_data_lists_the_tasks_and_reads_one(tmp_path):
    listed = done("data", "--out", tmp_path / "all.json").out
    assert set(json.loads((tmp_path / "all.json").read_text())) == set(datasets.names())
    for name in datasets.names():
        assert name in listed
    done("data", "digits", "--out", tmp_path / "one.json")
    about = json.loads((tmp_path / "one.json").read_text())["digits"]
    assert about["read and checked"] == about["splits"] == {"train": 1077, "validation": 360, "test": 360}


@pytest.mark.parametrize("goal", ["steps", "values"])
def test_other_answers_go_through_the_commands(tmp_path, monkeypatch, goal):
    """Labels of steps with names, and values: trained, quantized, deployed, priced, and said as what they are."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((40, 16, 2)).astype(np.float32)
    level = np.cumsum(values[..., 0], 1)
    labels = {"labels": (level > 0).astype(int), "class_names": ["down", "up"]}
    np.savez("own.npz", values=values, **(labels if goal == "steps" else {"targets": level[:, -1]}))
    said = done("train", "own.npz", "--epochs", 1, "--n-state", 4, "--out", "m.safetensors").out
    said += done("quantize", "m.safetensors", "--biases", 16, "--out", "q.safetensors").out
    deployed = done("deploy", "q.safetensors", "--chips", 2, "--times", "1s", "--out", "d.nc").out
    assert "energy" in done("cost", "q.safetensors").out
    ds = results.load(tmp_path / "d.nc")
    if goal == "steps":
        assert "on 96 steps of 6 sequences" in said
        assert "F1 of down" in said
        assert "F1 of each class" in deployed
        assert ds["f1"].dims == ("model", "chip", "time", "class")
        assert ds["accuracy"].attrs["n_steps"] == 6 * 16
    else:
        assert "mean absolute error" in said
        assert {"mae", "r2", "mae_digital", "r2_digital", "energy"} <= set(ds.data_vars)
        assert "accuracy" not in ds
