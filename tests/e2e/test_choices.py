"""What each choice buys: told before the run, and taken where that is asked for."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from conftest import Voxweft
from voxweft import Box, RunOptions, load_model, open_sink, open_volume, run
from voxweft.apps.run import run_many
from voxweft.engine.choices import Row
from voxweft.engine.events import silent
from voxweft.errors import RequestError
from voxweft.runner import choices
from voxweft.runner.choices import choose
from voxweft.runner.forecast import measure_cost
from voxweft.runner.opening import Opened
from voxweft.runner.planning import plan_run
from voxweft.runner.records import read_plan
from voxweft.runner.sampling import Sampling, probabilities

job: Any = importlib.import_module("voxweft.apps.run")
BLUR = "fake://blur?patch=16,16,16"
SMALL = "8:24,:24,20:44"


@pytest.fixture
def volume(tmp_path: Path, image: NDArray[Any]) -> str:
    zarr.create_array(str(tmp_path / "in.zarr"), data=image[:40, :48, :48], chunks=(16, 32, 32))
    return "in.zarr"


def test_the_table_has_the_dearest_what_is_asked_for_and_cheaper_ones(voxweft: Voxweft, volume: str) -> None:
    words = (
        "plan",
        volume,
        "--model",
        "demo",
        "--patch-size",
        "16",
        "--bbox",
        SMALL,
        "--choices",
        "--tta",
        "mirroring",
    )
    told = json.loads(voxweft(*words, "--json").stdout)["plan"]["measured"]["choices"]
    rows = {row["name"]: row for row in told["rows"]}
    assert [name for name in rows if "no views" in name]
    (reference,) = (row for row in rows.values() if row["is_reference"])
    assert reference["flips"] == reference["mean"] == 0 and set(reference["dice"]) == {1.0}
    (asked,) = (row for row in rows.values() if row["is_asked"])
    assert asked["is_chosen"]  # nothing is cheaper unless it is asked for
    assert told["n_regions"] and told["n_voxels"]
    assert told["elapsed_s"] < 30


def test_effort_auto_is_in_the_plan_and_the_report_and_a_rerun_follows_it(
    voxweft: Voxweft, volume: str, tmp_path: Path
) -> None:
    words = ("run", volume, "o.zarr", "--model", BLUR, "--bbox", SMALL, "--effort", "auto")
    voxweft(*words, "--tolerance", "1")
    digest = json.loads((tmp_path / "o.zarr.voxweft" / "report.json").read_text())
    plan = json.loads((tmp_path / "o.zarr.voxweft" / "plan.json").read_text())
    (taken,) = (row for row in plan["measured"]["choices"]["rows"] if row["is_chosen"])
    fastest = min(row["seconds"] for row in plan["measured"]["choices"]["rows"] if row["flips"] is not None)
    assert taken["seconds"] <= 1.03 * fastest
    assert any("--effort auto took" in note for note in digest["notes"])
    assert taken["name"] in (tmp_path / "o.zarr.voxweft" / "report.html").read_text()
    (tmp_path / "o.zarr.voxweft" / "report.json").unlink()
    told = voxweft(*words, "--tolerance", "1", "--log-json", "log.jsonl")
    assert json.loads((tmp_path / "o.zarr.voxweft" / "plan.json").read_text()) == plan, told.stdout
    assert "are compared" not in (tmp_path / "log.jsonl").read_text()  # nothing is measured anew
    refused = voxweft("run", volume, "o.zarr", "--model", BLUR, "--bbox", SMALL, code=2)
    assert "effort: stored 'auto', asked for 'asked'" in refused.stderr
    voxweft("run", "--plan", "o.zarr", "again.zarr")
    whole = Box.of((40, 48, 48))
    first, second = (open_volume(str(tmp_path / name)).read(whole) for name in ("o.zarr", "again.zarr"))
    np.testing.assert_array_equal(first, second)


def _taking(name: str) -> Callable[..., Row]:
    return lambda rows, *_: next(row for row in rows if row.choice.name.startswith(name))


def test_a_larger_window_is_followed_and_the_first_of_several_parts_decides(
    tmp_path: Path, image: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = str(tmp_path / "in.zarr"), str(tmp_path / "o.zarr")
    zarr.create_array(source, data=image[:40, :48, :48], chunks=(16, 32, 32))
    options = RunOptions(bbox=SMALL, effort="auto", runtime="torch")
    plan_chosen = job.plan_chosen

    def is_second(*words: Any, **more: Any) -> Opened:
        opened = plan_chosen(*words, **more)
        monkeypatch.setattr(job, "plan_chosen", plan_chosen)
        monkeypatch.setattr(choices, "cheapest", _taking("window"))
        run(source, target, BLUR, options)  # another part, meanwhile
        monkeypatch.setattr(choices, "choose", None)  # from now on nothing is measured
        return opened

    monkeypatch.setattr(job, "plan_chosen", is_second)
    monkeypatch.setattr(choices, "cheapest", _taking("overlap 0.25"))
    assert run(source, target, BLUR, options).status == "complete"
    plan = read_plan(target)
    assert plan.sweep.grid.patch == (24, 24, 24)
    assert run(source, target, BLUR, options).plan_digest == plan.digest


def test_a_budget_that_nothing_keeps_is_refused_with_the_time(voxweft: Voxweft, volume: str, tmp_path: Path) -> None:
    done = voxweft("run", volume, "o.zarr", "--model", BLUR, "--effort", "auto", "--budget", "0.1s", code=2)
    assert "--budget 0.1 s: even the fastest choice takes" in done.stderr
    assert not (tmp_path / "o.zarr").exists()
    done = voxweft("run", volume, "o.zarr", "--model", BLUR, "--budget", "2h", code=2)
    assert "needs --effort auto" in done.stderr


def test_commands_that_choose_nothing_refuse_to_be_asked() -> None:
    with pytest.raises(RequestError, match="one by one"):
        run_many([("a", "b")], BLUR, RunOptions(effort="auto"))
    volume = open_volume(np.random.default_rng(0).random((20, 20, 20)))
    with pytest.raises(RequestError, match="--effort auto is of voxweft run"):
        plan_run(volume, [load_model(BLUR)], RunOptions(effort="auto"))


@pytest.mark.parametrize("bbox", ["", "3:37,:,9:48"])
def test_regions_hold_what_a_whole_run_gives_there(image: NDArray[Any], bbox: str) -> None:
    options = RunOptions(bbox=bbox, runtime="torch")
    volume = open_volume(image[:40, :48, :48])
    opened = plan_run(volume, [load_model(BLUR)], options)
    cost = replace(measure_cost(opened, options, 0.1), start_s=30.0)  # of a job for which some regions are worth it
    sampling = Sampling(opened, options, cost, 1)
    trials = sampling.compare(time.perf_counter(), silent) and sampling.trials
    sink = open_sink("memory://")
    run(volume, sink, BLUR, RunOptions(runtime="torch", output="logits"))
    reference = next(one for one in trials if one.choice.is_reference)
    assert len(reference.answers) > 5
    for box, answer in reference.answers.items():
        np.testing.assert_array_equal(answer, probabilities(sink.read(box), opened.plan.sweep.finish))


def test_empty_regions_count_but_are_not_run(image: NDArray[Any]) -> None:
    array = np.zeros((40, 40, 160), np.uint8)
    array[:, :, :40] = image[:40, 10:50, :40]
    opened, _, row = choose(open_volume(array), [load_model(BLUR)], RunOptions(runtime="torch"))
    told = opened.plan.measured["choices"]
    assert row.choice.is_asked and all(r["flips"] <= 0.45 for r in told["rows"])
    assert told["n_voxels"] < 0.5 * array.size
