"""One real chain of commands on the digits, shared by the tests, and the check of a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_runs import Run, contents, done, run


@dataclass(frozen=True)
class Chain:
    """The files of train -> quantize -> deploy, and what each command printed."""

    folder: Path
    printed: dict[str, str]

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """train -> quantize (PTQ, and one epoch of QAT) -> deploy (two chips, two times), nothing mocked."""
    folder = tmp_path_factory.mktemp("chain")
    model, ptq, qat = (folder / f"{name}.safetensors" for name in ("m", "q", "qat"))
    quiet = ("--noise", 0, "--noise-output", 0)
    deploy = ("--chips", 2, "--times", "1s,1d", "--seed", 5)
    steps = {
        "train": ("train", "digits", "--epochs", 6, "--batch", 25, "--out", model),
        "ptq": ("quantize", model, "--out", ptq, "--state", 10),
        "qat": ("quantize", model, "--out", qat, "--epochs", 1, *quiet),
        "deploy": ("deploy", ptq, *deploy, "--out", folder / "d.nc", "--deployment", folder / "dep.safetensors"),
    }
    return Chain(folder, {name: done(*words).out for name, words in steps.items()})


Refused = Callable[..., Run]


@pytest.fixture
def refused(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """`refused(*words, naming=...)`: exit code 2, one line that names the thing, and no file touched.

    The command runs inside `tmp_path`, so whatever it would write by a relative name is seen too.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMC_SSM_DATA", raising=False)

    def check(*words: object, naming: str) -> Run:
        before = contents(tmp_path, chain.folder)
        result = run(*words)
        assert result.code == 2, result
        assert result.err.startswith("error: "), result.err
        assert result.err.count("\n") == 1, result.err
        assert result.err.endswith("\n"), result.err
        assert naming in result.err, result.err
        assert "Traceback" not in result.out + result.err
        assert contents(tmp_path, chain.folder) == before
        return result

    return check
