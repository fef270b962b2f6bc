"""What lies beside an output: its plan, its provenance, and whether it may be written to."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields
from typing import Any

from voxweft.engine.ledger import Ledger, parted
from voxweft.engine.part import State
from voxweft.engine.plan import Plan
from voxweft.engine.report import Report
from voxweft.engine.stage import Sweep
from voxweft.errors import RequestError, VolumeError, first_line
from voxweft.image.protocols import Sink
from voxweft.remote import remote_errors, without_secrets
from voxweft.runner.execution import Execution
from voxweft.runner.exporting import require_free
from voxweft.runner.opening import NETWORKS, whole_network
from voxweft.runner.place import IN_MEMORY
from voxweft.stores import open_sink
from voxweft.stores.attributes import attributes_of
from voxweft.stores.url import absolute, records_at
from voxweft.version import __version__


def plan_of(sink: Sink) -> tuple[Plan, Ledger]:
    """The plan of an output and its ledger.

    Raises
    ------
    RequestError
        If voxweft did not write it.
    """
    ledger = Ledger(sink.records)
    stored = ledger.plan()
    if stored is None:
        require_no_old_records(sink.url)
        raise RequestError(f"{sink.url} is not the output of a voxweft run: no plan lies beside it")
    return Plan.from_json(stored), ledger


def read_plan(source: str) -> Plan:
    """The plan inside an output that voxweft wrote, or in a JSON file; a path, s3:// or http(s)://.

    Where an OME-Zarr was copied without the records beside it, the plan in its attributes counts.

    Raises
    ------
    RequestError
        If there is none.
    """
    source = source.rstrip("/")
    if source.endswith(".json"):
        folder, _, name = source.rpartition("/")
        unreadable: tuple[type[Exception], ...] = (OSError, *remote_errors())
        try:
            data = records_at(folder or ("." if name == source else "/")).get(name)
        except unreadable as error:
            raise RequestError(f"--plan {source} cannot be read: {first_line(error)}") from error
        if data is None:
            raise RequestError(f"--plan {source}: nothing lies there")
        return Plan.from_json(parted(data)[0] or b"")
    if not source.startswith(("http://", "https://")):
        sink = open_sink(source)
        if Ledger(sink.records).plan() is not None or not sink.exists():
            return plan_of(sink)[0]
    said = attributes_of(source).get("voxweft")
    if not isinstance(said, dict) or not isinstance(said.get("plan"), dict):
        raise RequestError(f"{source} is not the output of a voxweft run: no plan lies in or beside it")
    return Plan.from_json(json.dumps(said["plan"]).encode())


def networks_of(source: str, plan: Plan) -> dict[str, bytes]:
    """Networks that were made for a plan, by their digests, from where it was read.

    Raises
    ------
    RequestError
        If one is gone, or damaged.
    """
    source, found = source.rstrip("/"), dict[str, bytes]()
    folder = (source.rpartition("/")[0] or ".") if source.endswith(".json") else f"{source}.voxweft"
    for stage in plan.stages:
        for one in stage.passes if isinstance(stage, Sweep) else ():
            if (digest := one.setting.network) and digest not in found:
                found[digest] = whole_network(records_at(folder).get(NETWORKS + digest), digest, folder)
    return found


def report_of(ledger: Ledger) -> Report:
    """The report that a finished run left."""
    stored = ledger.report()
    known = {f.name for f in fields(Report)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known}
    return Report(**values | {"status": State(values["status"])})


def settings_of(plan: Plan) -> dict[str, Any]:
    """What decides a result beside input and model: what was asked for, and of the first sweep what was chosen."""
    found: dict[str, Any] = {}
    if sweep := next((s for s in plan.stages if isinstance(s, Sweep)), None):
        one = sweep.passes[0] if sweep.passes else None
        found = {"window": sweep.window, "mode": sweep.finish.mode, "output": sweep.finish.output}
        found |= {"activation": sweep.finish.activation, "threshold": sweep.finish.threshold}
        if one:
            scheme = one.normalization[0]
            found |= {
                "patch_zyx": list(one.grid.patch),
                "step_zyx": [axis.step for axis in one.grid.axes],
                "tta": one.tta,
                "normalization": scheme.scheme,
                "runtime": one.setting.runtime,
                "precision": one.setting.precision,
                "device": one.setting.device,
            }
    return found | {name: value for name, value in plan.request.options.items() if value not in ("", None)}


def time_of(when: float | str) -> str:
    """A time for the record, ISO 8601 in UTC; SOURCE_DATE_EPOCH, where it is set, stands for all times.

    Raises
    ------
    RequestError
        If SOURCE_DATE_EPOCH is no number.
    """
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "").strip()
    if fixed and not fixed.isdecimal():
        raise RequestError(f"SOURCE_DATE_EPOCH {fixed!r} is no number of seconds")
    if isinstance(when, str) and not fixed:
        return when
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(float(fixed or when)))


def provenance(plan: Plan, command: str = "") -> dict[str, Any]:
    """What an output says of its making, without passwords; enough for ``voxweft run --plan`` to repeat it."""
    return {
        "voxweft": {
            "version": __version__,
            "command": command,
            "plan_digest": plan.digest,
            "model_digest": ",".join(ref.digest for ref in plan.models),
            "input_fingerprint": plan.inputs[0].fingerprint,
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "plan": json.loads(without_secrets(plan.to_json().decode())),
        }
    }


def tells_another_plan(url: str, ledger: Ledger) -> bool:
    """Whether the attributes of an output hold a plan, but not the one that is stored: they were damaged."""
    if url == IN_MEMORY or (stored := ledger.plan()) is None:
        return False
    try:
        said = attributes_of(url).get("voxweft")
    except VolumeError:
        return True
    if not isinstance(said, dict) or "plan" not in said:
        return False
    return bool(said["plan"] != json.loads(without_secrets(stored.decode())))


def require_apart(source: str, output: str) -> None:
    """Refuse an output that is the input, holds it, or lies inside its array."""
    if not source or IN_MEMORY in (source, output):
        return
    read, written = (f"{absolute(url).rstrip('/')}/" for url in (source, output))
    if read.startswith(written) or (written.startswith(read) and read.endswith(".zarr/")):
        raise RequestError(f"{output} and {source}, which is read, lie in each other; choose another place to write")


def check_output(sink: Sink, execution: Execution) -> None:
    """Refuse an output that is not voxweft's, or of which only the records are left."""
    require_free(sink, execution)
    if execution.overwrite:
        return
    require_no_old_records(sink.url)
    ledger = Ledger(sink.records)
    if not sink.exists() and sink.records.keys("done/"):
        raise RequestError(
            f"{sink.url} is gone, but the records of what was done in {sink.url}.voxweft are there.",
            "Delete them too, or give --overwrite.",
        )
    if sink.exists() and ledger.plan() is None:
        raise RequestError(f"{sink.url} exists and is not the output of a voxweft run; choose another OUTPUT")


def require_no_old_records(url: str) -> None:
    """Refuse an output of release 0.1.0, whose command was called weft; its records cannot be continued or read."""
    if url != IN_MEMORY and records_at(f"{url}.weft").get("plan.json") is not None:
        raise RequestError(
            f"{url} was written by release 0.1.0 (command weft), whose records in {url}.weft this release cannot use.",
            f"The result itself opens as before. To compute it anew, delete {url} and {url}.weft.",
        )
