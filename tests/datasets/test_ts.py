"""Files of the UCR, UEA and TSER archives."""

from pathlib import Path

import numpy as np
import pytest

from imc_ssm import datasets
from imc_ssm.errors import DataError

HEAD = (
    "# a note\n@problemName toy\n"
    + "@timeStamps false\n@missing false\n@univariate false\n@classLabel true a b\n@data\n"
)
ROWS = [f"{i},2,3.5:-1,0,1e-2:{'ab'[i % 2]}" for i in range(10)]


def write(path: Path, head: str = HEAD, rows: list[str] = ROWS) -> Path:
    path.write_text(head + "\n".join(rows) + "\n")
    return path


def test_a_pair_and_a_file_alone(tmp_path: Path) -> None:
    write(tmp_path / "Toy_TRAIN.ts")
    write(tmp_path / "Toy_TEST.ts", rows=ROWS[:4])
    data = datasets.load(tmp_path / "Toy_TRAIN.ts")
    assert data.values.shape == (14, 3, 2)
    np.testing.assert_allclose(data.values[3], [[3, -1], [2, 0], [3.5, 0.01]], rtol=1e-6)
    assert (data.task, data.goal, data.class_names, data.lengths) == ("Toy", "classes", ("a", "b"), None)
    assert data.splits["test"].tolist() == [10, 11, 12, 13]
    assert len(data.splits["validation"]) == 2
    assert sorted([*data.splits["train"], *data.splits["validation"]]) == list(range(10))
    other = datasets.load(tmp_path / "Toy_TEST.ts")
    np.testing.assert_array_equal(other.values, data.values)
    alone = datasets.load(write(tmp_path / "alone.ts"))
    assert {name: len(part) for name, part in alone.splits.items()} == {"train": 6, "validation": 2, "test": 2}
    assert datasets.info(tmp_path / "alone.ts")["shape"] == (10, 3, 2)
    assert datasets.digest(tmp_path / "alone.ts") is not None


def test_lengths_and_targets(tmp_path: Path) -> None:
    head = HEAD.replace("classLabel true a b", "targetLabel true")
    data = datasets.load(write(tmp_path / "own.ts", head, ["1,2:0.5", "1,2,3:1.5", "1:-2"]))
    assert (data.goal, data.per_step, data.outputs) == ("values", False, 1)
    assert data.lengths is not None
    assert data.targets is not None
    assert data.lengths.tolist() == [2, 3, 1]
    assert data.targets[:, 0].tolist() == [0.5, 1.5, -2.0]


@pytest.mark.parametrize(
    ("head", "rows", "said"),
    [
        (HEAD.replace("@missing", "@misssing"), ROWS, r"line 4: unknown tag 'misssing'; did you mean 'missing'"),
        (HEAD.replace("@data\n", ""), ROWS, "line 7: series before @data"),
        (HEAD.replace("timeStamps false", "timeStamps true"), ROWS, "line 8: series have time stamps"),
        (HEAD.replace("true a b", "false"), ROWS, "line 8: neither @classLabel true"),
        (HEAD, [*ROWS, "1,2,3:1,2:a"], r"line 18: channels of \[3, 2\] steps"),
        (HEAD, [*ROWS, "1,2,3:1,2,3:c"], "line 18: .*classes are"),
        (HEAD, [*ROWS, "1,?,3:1,2,3:a"], "line 18: .*missing values are not read"),
        (HEAD, [*ROWS, "a"], r"line 18: channels of \[\] steps"),
        (HEAD, [*ROWS, "1,2,3:a"], r"series have \[1, 2\] channels"),
        (HEAD, ROWS[:2], "holds 2 series; give at least 3"),
        (HEAD, [], "holds no series"),
        ("", ["\0\0"], "line 1: series before @data"),
    ],
)
def test_wrong_files(tmp_path: Path, head: str, rows: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        datasets.load(write(tmp_path / "own.ts", head, rows))
    assert "\n" not in str(caught.value)


def test_no_text_no_file_no_partner(tmp_path: Path) -> None:
    (tmp_path / "own.ts").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"own.ts: it is no text; give the path"):
        datasets.load(tmp_path / "own.ts")
    with pytest.raises(DataError, match=r"cannot read .*none.ts: No such file"):
        datasets.load(tmp_path / "none.ts")
    write(tmp_path / "Toy_TRAIN.ts")
    with pytest.raises(DataError, match=r"cannot read .*Toy_TEST.ts"):
        datasets.load(tmp_path / "Toy_TRAIN.ts")
    write(tmp_path / "Toy_TEST.ts", HEAD.replace("a b", "b a"))
    with pytest.raises(DataError, match="give files of one task"):
        datasets.load(tmp_path / "Toy_TRAIN.ts")
