"""What the README and the pages show is run, or at least parsed, as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from imc_ssm import results
from imc_ssm.devices import load_constants

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "CHANGELOG.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS if name != "CHANGELOG.md"}
GUIDE = PAGES["docs/guide.md"]


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def joined(block: str) -> list[str]:
    """The commands of a block, those over several lines as one."""
    return block.replace("\\\n", " ").splitlines()


def calls() -> list[list[str]]:
    """Every `imc-ssm` call of a shell block of all pages: whole commands."""
    lines = [line for text in PAGES.values() for block in blocks("sh", text) for line in joined(block)]
    return [shlex.split(line)[1:] for line in dict.fromkeys(lines) if line.startswith("imc-ssm ")]


def mentions() -> list[list[str]]:
    """The commands that running text names, with the options of which it speaks."""
    lines = [line for text in PAGES.values() for line in re.findall(r"`(imc-ssm [^`]+)`", text)]
    whole = [line for line in dict.fromkeys(" ".join(line.split()) for line in lines) if " | " not in line]
    return [shlex.split(line.replace(" ...", ""))[1:] for line in whole]


def parsed(words: list[str]) -> None:
    """Parse a command line as the program would; nothing runs."""
    from typer.main import get_command

    from imc_ssm.cli.app import app

    group: Any = get_command(app)
    name, *arguments = words
    assert name in group.commands, f"a page names a command {name!r} that does not exist"
    command = group.commands[name]
    if hasattr(command, "commands") and arguments and arguments[0] in command.commands:  # of a group
        name, *arguments = arguments
        command = command.commands[name]
    if arguments or not hasattr(command, "commands"):
        command.make_context(name, arguments)


def test_quickstart_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "README.md", "exec"), {"__name__": "readme"})
    first, second = capsys.readouterr().out.splitlines()
    after = [float(number) for number in re.findall(r"\d+\.\d*", first.split("%")[0])]  # 87. is one
    assert len(after) == 2
    assert min(after) > 70  # a short training: 90 % and more, ten classes
    assert 1e-9 < float(second.split()[0]) < 1e-5


def test_the_table_is_the_datasets() -> None:
    """Accuracies of the demo over seeds, mean and deviation."""
    ds = results.load(ROOT / "experiments" / "digits" / "results" / "pcm-256.nc")
    rows = {"full precision": "fp32", "PTQ, 8-bit poles and state": "ptq-a8-x8"}
    rows["noise-aware QAT, 8-bit poles and state"] = "qat-a8-x8"
    assert ds.sizes["seed"] == 10
    assert "Over ten seeds" in README
    for title, name in rows.items():
        model = ds.sel(model=name)
        chips = model["accuracy"].mean("chip")
        cells = [model["accuracy_digital"], *(chips.isel(time=t) for t in range(ds.sizes["time"]))]
        said = [f"{float(c.mean()):.2f} ({float(c.std(ddof=1)):.2f})" if c.notnull().all() else "" for c in cells]
        (line,) = re.findall(rf"^\| {title} \|(.*)\|$", README, flags=re.MULTILINE)
        assert [cell.strip() for cell in line.split("|")] == said, title
    energy = [
        1e9 * float(ds["energy"].sel(model=n).sum("component").mean("seed")) for n in ("ptq-a8-x8", "qat-a8-x8")
    ]
    assert f"takes {energy[0]:.0f} nJ (PTQ; {energy[1]:.0f} with QAT)" in GUIDE


def test_layers_are_those_of_the_study() -> None:
    ds = results.load(ROOT / "experiments" / "layers" / "results" / "layers.nc")
    assert ds.sizes["seed"] == 5
    assert "Over five seeds" in GUIDE
    for title, name in (("S4D", "s4d"), ("S5", "s5")):
        layer = ds.sel(layer=name)
        at = {1.0: None, 86400.0: None, 30 * 86400.0: None}
        chips = layer["accuracy"].mean("chip")
        cells = [layer["accuracy_digital"], *(chips.sel(time=t) for t in at)]
        said = [f"{float(c.mean()):.2f} ({float(c.std(ddof=1)):.2f})" for c in cells]
        total = {v: float(layer[v].sum("component").mean("seed")) for v in ("energy", "latency", "area", "memory")}
        said += [f"{total['energy'] * 1e9:.0f} nJ", f"{total['latency'] * 1e6:.0f} us"]
        said += [f"{total['area'] * 1e6:.2f} mm2", f"{total['memory'] / 1e3:.1f} kbit"]
        (line,) = re.findall(rf"^\| {title} \|(.*)\|$", GUIDE, flags=re.MULTILINE)
        assert [cell.strip() for cell in line.split("|")] == said


def test_the_rules_are_as_the_page_says() -> None:
    (text,) = (block for block in blocks("python", GUIDE) if "Rule(" in block)
    found: dict[str, Any] = {}
    exec(compile(text, "README.md", "exec"), found)
    scheme = found["scheme"]
    assert [scheme.spec(p).bits for p in ("blocks.0.gelu", "blocks.1.gelu", "blocks.1.ssm.poles")] == [8, 6, 8]
    assert scheme.spec("blocks.1.mixing.bias").bits == 16


def test_own_sequences_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imc_ssm import datasets

    monkeypatch.chdir(tmp_path)
    own = next(block for block in blocks("python", PAGES["docs/data.md"]) if "savez" in block)
    exec(compile(own, "README.md", "exec"), {"__name__": "readme"})
    data = datasets.load("mine.npz")
    assert (data.channels, data.time, data.n_classes, data.sample_rate) == (3, 100, 2, 100.0)
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [210, 45, 45]


@pytest.mark.parametrize("words", calls(), ids=" ".join)
def test_commands_run(words: list[str]) -> None:
    parsed(words)


@pytest.mark.parametrize("words", mentions(), ids=" ".join)
def test_commands_and_options_that_are_named_exist(words: list[str]) -> None:
    try:
        parsed(words)
    except Exception as error:
        # Text need not repeat the arguments; an unknown option or a wrong value is another error.
        if type(error).__name__ != "MissingParameter":
            raise


def test_every_command_is_listed() -> None:
    from typer.main import get_command

    from imc_ssm.cli.app import app

    group: Any = get_command(app)
    page = PAGES["docs/command_line.md"]
    table = [line for line in page.splitlines() if line.startswith("| `imc-ssm ")]
    assert sorted(line.split("`")[1].split()[1] for line in table) == sorted(group.commands)


def test_five_commands_pass_files_on() -> None:
    walk = next(block for block in blocks("sh") if "imc-ssm deploy" in block)
    written: set[str] = set()
    for line in walk.splitlines():
        words = shlex.split(line)
        source = words[2]
        assert source == "digits" or source in written, f"{line!r} reads a file that nothing before it wrote"
        if "--out" in words:
            written.add(words[words.index("--out") + 1])


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_the_guide_compares_chips_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import imc_ssm

    monkeypatch.chdir(tmp_path)
    model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=8, dt_min=0.0125, dt_max=0.5))
    imc_ssm.save_model("m.safetensors", imc_ssm.StoredModel(model, None))
    found: dict[str, Any] = {}
    (text,) = (block for block in blocks("python", GUIDE) if "together" in block)
    exec(compile(text, "guide.md", "exec"), found)
    legend = found["figure"].axes[0].get_legend().get_texts()
    assert [entry.get_text() for entry in legend] == ["5-bit ADC", "8-bit ADC", "dashed: digital"]
    assert Path("adc.png").stat().st_size > 10_000


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = re.findall(r"(?:^|`)make (?:\w+=\S+ )?([\w-]+)", README, flags=re.MULTILINE)
    assert {"demo", "test"} <= set(named)
    assert set(named) <= set(targets)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{document} links to {target}, which does not exist"


def test_names_of_the_device_library_exist() -> None:
    from imc_ssm.devices import device_names

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for kind in ("cells", "designs", "components"):
        assert all(f"`{name}`" in changelog for name in device_names(kind))  # type: ignore[arg-type]
    for name in (n for text in PAGES.values() for n in re.findall(r"--design ([a-z]\S*?)[`\s]", text)):
        assert name.endswith(".toml") or name in device_names("designs")


def test_what_is_modelled_agrees_with_the_laws() -> None:
    """Of the README's table: what `utilised_area` stands for is modelled, and schedules overlap."""
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:4] for line in README.splitlines() if line.startswith("| ")
    }
    rest = load_constants()["utilised_area"].holds.split("the rest is ")[1]
    assert all(word in rows["Area"][0] for word in rest.split(", "))
    assert "overlap" in rows["Latency"][0]
    assert "overlap" not in rows["Latency"][1]
