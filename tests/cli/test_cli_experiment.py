"""`experiment list | run | report` on a study of seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli_runs import contents, done, run

from imc_ssm import results
from imc_ssm.cli.experiment import selection
from imc_ssm.errors import ConfigError
from imc_ssm.study import folder as folders

SMOKE = Path(__file__).parents[1] / "study" / "smoke_study.py"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `experiments/smoke`, entered."""
    folder = tmp_path / "experiments" / "smoke"
    folder.mkdir(parents=True)
    (folder / "study.py").write_text(SMOKE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return folder


def words(text: str) -> str:
    return " ".join(text.split())


def test_list_run_report(study):
    listed = words(done("experiment", "list").out)
    assert "widths PTQ over the word le... 0 of 6 - about" in listed
    printed = done(
        "experiment", "run", "widths", "--only", "model=tiny,bits=32,8", "--seeds", 1, "--threads", 1
    ).out
    assert "widths: PTQ over the word length; 2 of 2 cells to compute, about" in words(printed)
    assert "[1/2] model=tiny bits=32 seed=0: " in printed
    assert "(models/tiny-seed0.safetensors)" in printed
    assert "[2/2] model=tiny bits=8 seed=0: " in printed
    assert "50.00 ± 10.00" in printed
    ds = results.load(study / "results" / "widths.nc")
    assert int(ds["accuracy"].notnull().sum()) == 2
    again = done("experiment", "run", "widths", "--seeds", 1, "--only", "bits=8").out
    assert "0 of 1 cells to compute: nothing to do" in words(again)
    assert "2 of 6" in words(done("experiment", "list").out)
    cells = words(done("experiment", "list", "widths").out)
    assert "tiny 32 0 1 tiny 8 0 1 tiny 4 - 0 1" in cells  # seeds done, seeds missing
    assert "tiny 2" not in cells
    reported = done("experiment", "report").out
    accuracy = float(ds["accuracy"].sel(model="tiny", bits=8, seed=0))
    assert f"{(accuracy - 40) / 5:+.1f}" in reported
    text = (study / "REPORT.md").read_text(encoding="utf-8")
    assert f"| tiny | 8 | {accuracy:.2f} | 1 | 40.00 ± 5.00 | {(accuracy - 40) / 5:+.1f} |" in text
    assert "2 of 6 cells" in text
    assert {path.name for path in (study / "results").glob("*.nc")} == {
        f"{name}.nc" for name in ("widths", "curves", "again", "poles", "kernel")
    }


@pytest.mark.parametrize(
    ("arguments", "naming"),
    [
        (("run", "width"), "unknown experiment 'width'; did you mean 'widths'?"),
        (("run", "widths", "--only", "bitss=8"), "did you mean 'bits'?"),
        (("run", "widths", "--only", "bits=7"), "unknown bits '7'"),
        (("list", "width"), "unknown experiment 'width'; did you mean 'widths'?"),
        (("run", "widths", "--only", "bits"), "give KEY=VALUE"),
        (("run", "widths", "--seeds", 3), "declares 2 seeds"),
        (("run", "widths", "--threads", 1000), "--threads 1000"),
        (("run",), "NAMES"),
        (("report", "smok"), "did you mean 'smoke'?"),
        (("lst",), "'lst'"),
    ],
)
def test_refusals(study, arguments, naming):
    before = contents(study.parent)
    result = run("experiment", *arguments)
    assert result.code == 2, result
    assert result.err.startswith("error: "), result.err
    assert result.err.count("\n") == 1, result.err
    assert naming.lower() in result.err.lower()
    assert contents(study.parent).keys() - before.keys() <= {
        p for p in contents(study.parent) if "pycache" in str(p)
    }


def test_without_a_clone_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "site-packages" / "imc_ssm" / "study" / "folder.py"
    monkeypatch.setattr(folders, "__file__", str(package))
    result = run("experiment", "list")
    assert (result.code, result.out) == (2, "")
    assert "the studies are in the repository, not in the installed package" in result.err
    assert result.err.count("\n") == 1


def test_a_study_that_defines_none(study):
    (study / "study.py").write_text("STUDIES = []\n")
    result = run("experiment", "list")
    assert result.code == 2
    assert "defines no STUDY" in result.err


@pytest.mark.parametrize(
    ("old", "new", "naming"),
    [
        ("calibration=64", "calibratoin=64", "unknown field 'calibratoin'; did you mean 'calibration'?"),
        ("rate=3e-2", "rate=-1", "TrainConfig field 'learning_rate' = -1: allowed is more than 0"),
        ('"poles_outside"),', '"poles_outsied"),', "poles: unknown variable 'poles_outsied'; did you mean"),
    ],
)
def test_a_study_with_a_mistake_in_it(study, old, new, naming):
    text = (study / "study.py").read_text()
    (study / "study.py").write_text(text.replace(old, new, 1))
    result = run("experiment", "list")
    assert result.code == 2
    assert naming in result.err
    assert str(study / "study.py") in result.err
    assert result.err.count("\n") == 1


def test_two_studies_of_one_name(study):
    shutil.copytree(study, study.parent / "copy")
    result = run("experiment", "run", "widths")
    assert result.code == 2
    assert "are both named 'smoke'; give one of them another name" in result.err


def test_folders_that_cannot_be_written_are_found_at_once(study):
    for name in ("models", "runs"):
        (study / name).write_text("")
        result = run("experiment", "run", "widths")
        assert result.code == 2
        assert f"cannot write {study / name}" in result.err
        assert "train tiny" not in result.out
        (study / name).unlink()


def test_ctrl_c_says_how_to_go_on(study):
    stopped = run("experiment", "run", "curves", "--seeds", 1, interrupt_at="QAT tiny seed 0 a8-x8: 10 %")
    assert stopped.code == 130, stopped
    assert stopped.err.startswith("interrupted; finished cells are in the dataset")
    assert stopped.err.count("\n") == 1, stopped.err
    assert results.load(study / "results" / "curves.nc").attrs["cells_done"] == 0
    assert "[2/2]" in done("experiment", "run", "curves", "--seeds", 1).out


def test_selections():
    assert selection(["model=a,b", "seed=1"]) == {"model": ["a", "b"], "seed": ["1"]}
    assert selection(["model=a,seed=1,2"]) == {"model": ["a"], "seed": ["1", "2"]}
    assert selection([]) == {}
    for wrong in ("model", "=a", "model=", "a,model=b"):
        with pytest.raises(ConfigError, match="KEY=VALUE"):
            selection([wrong])


def test_help():
    assert "report" in done("experiment", "--help").out
    assert "--only" in done("experiment", "run", "--help").out
