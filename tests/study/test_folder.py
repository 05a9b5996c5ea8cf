"""Which files are run to find a study, and what a broken one does to the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes import smoke_folder

from imc_ssm.cli import main
from imc_ssm.errors import ConfigError
from imc_ssm.study import studies


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole study, and two others: one that leaves a trace when it is run, one that ends the program."""
    smoke_folder(tmp_path)
    for name, text in (
        ("other", f"open({str(tmp_path / 'trace')!r}, 'w').close()\nSTUDY = 1\n"),
        ("broken", "import sys\nsys.exit('stop')\n"),
        ("torn", "def (\n"),
    ):
        (tmp_path / "experiments" / name).mkdir()
        (tmp_path / "experiments" / name / "study.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experiment_of(folder: Path) -> str:
    (place,) = [p for p in studies(left_out=lambda *_: None) if p.folder.name == "smoke"]
    (folder / "trace").unlink()
    return place.study.experiments[0].name


def test_only_the_study_that_is_named_is_run(folder: Path) -> None:
    name = experiment_of(folder)
    (place,) = studies(named=[name])
    assert place.folder.name == "smoke"
    assert studies(named=[f"{place.study.name}/{name}"])[0].folder == place.folder
    assert not (folder / "trace").exists()
    with pytest.raises(ConfigError, match="defines no STUDY"):
        studies(named=["other"])
    assert (folder / "trace").exists()


def test_a_name_that_stands_nowhere_is_looked_for_everywhere(folder: Path) -> None:
    left: list[str] = []
    studies(named=["composed-at-run-time"], left_out=lambda where, error: left.append(where.name))
    assert left == ["broken", "other", "torn"]


def test_broken_studies_are_left_out_of_the_list(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["imc-ssm", "experiment", "list"])
    main()
    said = capsys.readouterr().out
    for name, why in (("broken", "ends the program"), ("other", "defines no STUDY"), ("torn", "SyntaxError")):
        assert any(f"{name}{os.sep}study.py" in line and why in line for line in said.splitlines())
    assert "smoke" in said
