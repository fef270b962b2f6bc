"""Where the work is done, and which part of it."""

from __future__ import annotations

from dataclasses import dataclass

from voxweft.engine.fields import option
from voxweft.errors import RequestError
from voxweft.runner.workers import WorkerOptions


@dataclass(frozen=True, slots=True)
class Execution(WorkerOptions):
    """Where the work is done; nothing here changes a bit of the output.

    Attributes
    ----------
    executor, scheduler, workers
        "serial", "processes", "dask" (workers of its own, or those of a scheduler), or any
        :class:`concurrent.futures.Executor`; how many workers (0: one a device, or one a core).
    num_parts, part_id
        Do only share ``part_id`` of ``num_parts``; -1: all of them.
    overwrite
        Delete what an earlier run wrote to the same output.
    prepare
        Only store the plan and make the empty output; parts that begin later need not plan again.
    command
        The command line, for the record.

    Examples
    --------
    >>> Execution(num_parts=4, part_id=1).executor
    'auto'
    >>> Execution(part_id=1)
    Traceback (most recent call last):
    voxweft.errors.RequestError: --part-id 1 needs --num-parts
    """

    num_parts: int = option(0, "Divide the work into N parts; 0: up to 8 a worker.")
    part_id: int = option(-1, "Do only this part, 0 to N-1, for one job of many; -1: all of them.")
    overwrite: bool = option(False, "Delete what an earlier run wrote to OUTPUT.")
    prepare: bool = option(False, "Store the plan and make the empty OUTPUT, for parts to follow; compute nothing.")
    command: str = ""

    def __post_init__(self) -> None:
        WorkerOptions.__post_init__(self)
        problems = []
        if self.num_parts < 0:
            problems.append(f"--num-parts {self.num_parts} is negative")
        if self.part_id >= 0 and self.num_parts < 1:
            problems.append(f"--part-id {self.part_id} needs --num-parts")
        elif self.part_id < -1 or self.part_id >= max(self.num_parts, 1):
            problems.append(
                f"--part-id {self.part_id} with --num-parts {self.num_parts}: use 0 to {max(self.num_parts, 1) - 1}"
            )
        if self.prepare and self.part_id >= 0:
            problems.append("--prepare comes before the parts; leave --part-id out")
        if self.overwrite and self.part_id >= 0:
            problems.append(
                "--overwrite with --part-id would delete what the other parts wrote; delete OUTPUT and its records"
            )
        if problems:
            raise RequestError(*problems)
