"""A front end in a few lines: a sweep, its result inverted block by block with the foreground counted, and the sum."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxweft.backends import load_model
from voxweft.engine.fields import option
from voxweft.engine.op import Made, Op, block_op, gather_op
from voxweft.engine.options import RunOptions
from voxweft.engine.stage import Blocks, Gather, Output, Source, Sweep
from voxweft.runner.devices import devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.place import Place
from voxweft.runner.planning import AppRequest, plan_run
from voxweft.runner.records import check_output
from voxweft.runner.run import run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink, open_volume


@dataclass(frozen=True, slots=True)
class ToyOptions(RunOptions):
    above: int = option(127, "Grey level above which a voxel is counted.")


@block_op
def invert(sources: Any, cell: Any, *, above: Any) -> Any:
    (values,) = sources
    return Made((255 - values,), {"n": np.array((values > above).sum())})


@gather_op
def total(gathered: Any) -> Any:
    n = sum(int(table["n"]) for _, table in gathered.tables("invert"))
    Path(gathered.files["total"]).write_text(str(n), encoding="ascii")
    return Made(table={"total": np.array(n)})


def stages(sweep: Sweep, options: ToyOptions) -> list[Blocks | Gather]:
    blocks = Blocks(
        name="invert",
        op=Op.of(invert, above=options.above),
        sources=(Source(sweep.name),),
        outputs=(Output("inverted", sweep.spec),),
        shape_zyx=sweep.spec.shape_zyx,
        region=sweep.region,
        block_zyx=sweep.spec.shard_zyx,
        needs=(sweep.name,),
    )
    return [blocks, Gather("total", Op.of(total), needs=("invert",), outputs=(Output("total"),))]


def toy(source: Any, output: Any, model: Any, options: Any = None, execution: Any = None) -> Any:
    options, execution = options or ToyOptions(), execution or Execution()
    workers = Workers.of(execution, devices_of(options.device))
    sink = open_sink(output)
    check_output(sink, execution)
    opened = plan_run(
        open_volume(source),
        [load_model(model)],
        options,
        app=AppRequest("toy", then=lambda sweep: stages(sweep, options)),
        records=None if execution.overwrite else sink.records,
        n_workers=workers.n_sharing,
    )
    return run_plan(opened, Place.of(sink, {"total": f"{output}.txt"}), workers, execution, lambda _event: None)


def main() -> None:
    """``python -c 'import toy; toy.main()' INPUT OUTPUT MODEL OPTIONS EXECUTION``, the last two as JSON."""
    source, output, model, options, execution = sys.argv[1:]
    report = toy(source, output, model, ToyOptions(**json.loads(options)), Execution(**json.loads(execution)))
    sys.stdout.write(json.dumps(report.to_dict()))
