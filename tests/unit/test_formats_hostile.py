"""Damaged and hostile files of XGBoost, LightGBM and CatBoost are refused before their library.

The libraries themselves follow a wrong child or length: LightGBM ends the process, XGBoost and
CatBoost read other memory or search forever.  ``crash`` below is what happens without the checks.
"""

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit import format_models as formats

from sluice.errors import PackageError
from sluice.package.native.flatbuffer import Flatbuffer, NotFlatbufferError
from sluice.package.native.reader import read_native

ROOT = Path(__file__).parents[2]
FILES = {
    "xgboost": "XGBClassifier",
    "lightgbm": "LGBMClassifier",
    "catboost": "CatBoostClassifier",
}
MUTATIONS = 150

CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import numpy as np
from pathlib import Path
from sluice.errors import PackageError
from sluice.package.native.engines import native_scorer
from sluice.package.native.reader import read_native
from sluice.package.native.schema import bare_inputs
from sluice.package.outcome import native_outcome
from sluice.package.scoring import ModelSchema

kind, folder, checked = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "checked"
good = read_native(kind, (folder / "good").read_bytes())
for file in sorted(folder.glob("bad-*")):
    print(file.name, flush=True)
    data = file.read_bytes()
    try:
        model = read_native(kind, data) if checked else good
        inputs = bare_inputs(model)
        task, output = native_outcome(model, None, None)
        schema = ModelSchema(inputs, "Columns", task, output)
        scorer = native_scorer(data, kind, schema, output, model)
        texts = np.array(["pro", "plus"] * 20, dtype=object)
        for rows in (1, 40):
            scorer.raw({
                i.name: texts[:rows] if i.type == "string" else np.linspace(-3, 3, rows)
                for i in inputs
            })
    except (PackageError, ValueError):
        continue
    except Exception as error:
        if type(error).__name__ != "CatBoostError":
            raise
print("done", flush=True)
"""


def data_of(kind: str) -> bytes:
    return formats.file_of(formats.models()[FILES[kind]])


def mutate(data: bytes, seed: int) -> bytes:
    """Cut short, bytes changed, a length replaced, a stretch left out, digits changed."""
    dice = random.Random(seed)
    changed = bytearray(data)
    way = seed % 5
    if way == 0:
        return data[: dice.randrange(len(data))]
    if way == 1:
        for _ in range(dice.randrange(1, 6)):
            changed[dice.randrange(len(data))] = dice.randrange(256)
    elif way == 2:
        at = dice.randrange(len(data) - 8)
        changed[at : at + 4] = dice.choice([b"\xff\xff\xff\xff", b"\0\0\0\x80", b"9999"])
    elif way == 3:
        at = dice.randrange(len(data))
        del changed[at : at + dice.randrange(1, 40)]
    else:
        digits = [at for at in range(len(data)) if 48 <= data[at] <= 57]
        for _ in range(dice.randrange(1, 5)):
            changed[dice.choice(digits)] = dice.choice(b"-0123456789")
    return bytes(changed)


def load_all(
    kind: str, folder: Path, how: str, bad: list[bytes]
) -> subprocess.CompletedProcess[str]:
    """Load files one after the other in one child process."""
    (folder / "good").write_bytes(data_of(kind))
    for index, data in enumerate(bad):
        (folder / f"bad-{index:04}").write_bytes(data)
    return subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(folder), how],
        capture_output=True, text=True, errors="replace", cwd=ROOT,
        env={"PYTHONPATH": "operator"}, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_no_damaged_file_takes_the_process_down(kind: str, tmp_path: Path) -> None:
    bad = [mutate(data_of(kind), seed) for seed in range(MUTATIONS)]
    done = load_all(kind, tmp_path, "checked", bad)
    assert done.returncode == 0, (done.stdout.split()[-1], done.stderr[-500:])
    assert done.stdout.split()[-1] == "done"


def _ring(data: bytes) -> bytes:
    """A child of the root is the root."""
    file = json.loads(data)
    tree = file["learner"]["gradient_booster"]["model"]["trees"][0]
    tree["left_children"][tree["left_children"][0]] = 0
    tree["right_children"][tree["left_children"][0]] = 0
    return json.dumps(file).encode()


def _outside(data: bytes) -> bytes:
    file = json.loads(data)
    tree = file["learner"]["gradient_booster"]["model"]["trees"][0]
    tree["left_children"][0] = 10_000_000
    return json.dumps(file).encode()


def xgboost_json() -> bytes:
    model = formats.models()["XGBClassifier"].model
    return bytes(model.get_booster().save_raw("json"))


def test_the_checks_are_what_stands_between(tmp_path: Path) -> None:
    """Without them, LightGBM ends the process over a file that was cut short."""
    cut = data_of("lightgbm")
    cut = cut[: cut.index(b"\nleaf_value=") + 20]
    crash = load_all("lightgbm", tmp_path, "unchecked", [cut])
    assert crash.returncode < 0
    assert "done" not in crash.stdout


Edit = Callable[[dict[str, Any]], None]


def _tree(file: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = file["learner"]["gradient_booster"]["model"]["trees"][0]
    return tree


XGBOOST: dict[str, Edit] = {
    "a ring": lambda f: _tree(f)["left_children"].__setitem__(1, 0),
    "a child outside": lambda f: _tree(f)["left_children"].__setitem__(0, 10_000_000),
    "a negative child": lambda f: _tree(f)["right_children"].__setitem__(0, -5),
    "a child of two": lambda f: _tree(f)["right_children"].__setitem__(
        0, _tree(f)["left_children"][0]
    ),
    "a feature outside": lambda f: _tree(f)["split_indices"].__setitem__(0, 99),
    "a short row": lambda f: _tree(f)["split_conditions"].pop(),
    "a text among numbers": lambda f: _tree(f)["split_conditions"].__setitem__(0, "1"),
    "another parent": lambda f: _tree(f)["parents"].__setitem__(1, 2),
    "a parent of the root": lambda f: _tree(f)["parents"].__setitem__(0, 1),
    "many nodes": lambda f: _tree(f)["tree_param"].__setitem__("num_nodes", "2000000000"),
    "a huge category": lambda f: _tree(f).__setitem__("categories", [2**30]),
    "categories of another node": lambda f: _tree(f)["categories_nodes"].append(0),
    "a tree of another class": lambda f: f["learner"]["gradient_booster"]["model"][
        "tree_info"
    ].__setitem__(0, 7),
    "fewer trees": lambda f: f["learner"]["gradient_booster"]["model"]["trees"].pop(),
    "rounds past the end": lambda f: f["learner"]["gradient_booster"]["model"][
        "iteration_indptr"
    ].__setitem__(-1, 500),
    "a name too many": lambda f: f["learner"]["feature_names"].append("more"),
    "a name twice": lambda f: f["learner"]["feature_names"].__setitem__(0, "income"),
    "no objective": lambda f: f["learner"]["objective"].__setitem__("name", ""),
    "an unknown booster": lambda f: f["learner"]["gradient_booster"].__setitem__("name", "x"),
    "no learner": lambda f: f.__setitem__("learner", [1]),
    "a number for a name": lambda f: f["learner"]["feature_names"].__setitem__(0, 7),
    "features without end": lambda f: f["learner"]["learner_model_param"].__setitem__(
        "num_feature", str(2**40)
    ),
}


@pytest.mark.parametrize("edit", XGBOOST.values(), ids=XGBOOST)
def test_xgboost_structure_is_checked(edit: Edit) -> None:
    file = json.loads(xgboost_json())
    edit(file)
    with pytest.raises(PackageError, match="XGBoost model is damaged") as refused:
        read_native("xgboost", json.dumps(file).encode())
    assert refused.value.reason == "Corrupt"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"learner":' + b"[" * 100_000, "damaged"),
        (b'{"learner":{},"learner":{}}', "same name twice"),
        (b'{"learner":1e999999}', "not an object"),
        (b"{L" + bytes(7) + b"\x07learner[$L#L" + b"\x7f" + b"\xff" * 7, "truncated"),
        (b"{L" + bytes(7) + b"\x07learner" + b"[" * 100, "nested"),
        (b"{L\xff\xff\xff\xff\xff\xff\xff\xff", "larger than the file"),
    ],
    ids=["deep", "two of one name", "no object", "a huge row", "deep UBJSON", "a negative length"],
)
def test_xgboost_bytes_are_checked(data: bytes, why: str) -> None:
    with pytest.raises(PackageError, match=why):
        read_native("xgboost", data)


LIGHTGBM = {
    "a ring": ("left_child=", "left_child=0 ", 1),
    "a child outside": ("right_child=", "right_child=9", 0),
    "a feature outside": ("split_feature=", "split_feature=99", 0),
    "an unknown decision": ("decision_type=", "decision_type=77", 0),
    "no number": ("leaf_value=", "leaf_value=x", 0),
    "a value too many": ("leaf_count=", "leaf_count=1 ", 0),
    "many leaves": ("num_leaves=", "num_leaves=9", 0),
    "what only numpy reads as a number": ("left_child=", "left_child=0_", 0),
    "another blank": ("split_feature=", "split_feature=\t", 0),
    "a line that is no field": ("leaf_value=", "leaf value\nleaf_value=", 0),
}


def _resized(text: str) -> bytes:
    """The head's sizes follow the trees, as the writer of a hostile file would see to."""
    head, *trees = text.split("\n\nTree=")
    last = trees[-1].partition("\nend of trees\n")[0]
    sizes = [len(t) + 7 for t in trees[:-1]] + [len(last) + 6]
    start = head.index("tree_sizes=")
    end = head.find("\n", start)
    end = len(head) if end < 0 else end
    head = head[:start] + "tree_sizes=" + " ".join(map(str, sizes)) + head[end:]
    return "\n\nTree=".join([head, *trees]).encode()


def test_an_unchanged_lightgbm_file_is_resized_to_itself() -> None:
    assert _resized(data_of("lightgbm").decode()) == data_of("lightgbm")


@pytest.mark.parametrize(("old", "new", "drop"), LIGHTGBM.values(), ids=LIGHTGBM)
def test_lightgbm_structure_is_checked(old: str, new: str, drop: int) -> None:
    before, _, after = data_of("lightgbm").decode().partition(f"\n{old}")
    after = after.split(" ", drop)[-1]
    with pytest.raises(PackageError, match="LightGBM model is damaged") as refused:
        read_native("lightgbm", _resized(f"{before}\n{new}{after}"))
    assert refused.value.reason == "Corrupt"


def test_a_tree_where_only_lightgbm_looks_for_one_is_refused() -> None:
    """It begins the trees at the first line Tree=, and without sizes it reads on to the end."""
    text = data_of("lightgbm").decode()
    head, mark, trees = text.partition("\n\nTree=")
    tree = "Tree=" + trees.partition("\n\nTree=")[0]
    unsized = re.sub(r"tree_sizes=.*\n", "", head + "\n")
    for hidden in (
        f"{head}\n{tree}{mark}{trees}",
        f"{unsized}\nend of trees\n\n{tree}\n\n{trees.partition('end of trees')[2]}",
    ):
        with pytest.raises(PackageError, match="LightGBM model is damaged"):
            read_native("lightgbm", hidden.encode())


def test_texts_over_each_other_do_not_fill_memory() -> None:
    """A row of entries that all point to one long text."""
    entries, size = 1000, 1_000_000
    row = struct.pack("<I", entries)
    row += b"".join(struct.pack("<I", 4 * (entries - i)) for i in range(entries))
    data = struct.pack("<I", 4) + row + struct.pack("<I", size) + b"x" * size
    with pytest.raises(NotFlatbufferError, match="over each other"):
        Flatbuffer(data).texts({0: 0}, 0)


@pytest.mark.parametrize("kind", ["xgboost", "catboost", "lightgbm"])
def test_no_part_of_a_file_passes_for_the_whole(kind: str) -> None:
    data = data_of(kind)
    end = data.index(b"\nend of parameters") if kind == "lightgbm" else len(data)
    for size in range(20, end, max(1, end // 150)):
        with pytest.raises(PackageError) as refused:
            read_native(kind, data[:size])
        assert refused.value.reason == "Corrupt"


@pytest.mark.parametrize("kind", ["xgboost", "catboost"])
def test_nothing_may_follow_a_file(kind: str) -> None:
    with pytest.raises(PackageError, match="follow its end"):
        read_native(kind, data_of(kind) + b"\x80\x04.")


@pytest.mark.parametrize("cut", [_ring, _outside])
def test_the_runtime_refuses_it_before_the_library(
    cut: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    from sluice.package.load import open_package

    file = tmp_path / "model.json"
    file.write_bytes(cut(xgboost_json()))
    with pytest.raises(PackageError, match="damaged"):
        open_package(file)
