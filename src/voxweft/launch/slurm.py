"""SLURM: every step is a batch script, parts are an array; steps wait for each other."""

from __future__ import annotations

import itertools
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from voxweft.engine.fields import option
from voxweft.errors import RequestError, RunError, VoxweftError
from voxweft.launch.steps import Step, call, require, unprintable

COMPLETED, PENDING, CANCELLED = "COMPLETED", "PENDING", "CANCELLED"
UNKNOWN = "UNKNOWN"  # SLURM has forgotten the job
ENDED = {COMPLETED, CANCELLED, UNKNOWN, "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
ENDED.add("PREEMPTED")
LEAST_S, MOST_S, SHARE = 2.0, 30.0, 0.02  # of a wait until now, between two looks
PATIENCE = 20  # looks without an answer
AFTER = "--dependency=afterok:{} --kill-on-invalid-dep=yes"
TASK = '"$SLURM_ARRAY_TASK_ID"'
NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class SlurmOptions:
    """What is asked of SLURM; what is left empty is the cluster's to decide."""

    title: ClassVar[str] = "What SLURM is asked for"

    num_parts: int = option(8, "Parts of COMMAND, where it has no --num-parts of its own; a part is a task.")
    partition: str = option("", "Partition; default: the cluster's.")
    account: str = option("", "Account to charge; default: yours.")
    time: str = option("", "Most time a task may take, for example 4:00:00; default: the cluster's.")
    cpus: int = option(0, "CPU cores a task; 0: as many as the cluster gives.")
    memory: str = option("", "Memory a task, for example 16G; default: the cluster's.")
    gpus: int = option(0, "GPUs a task.")
    at_once: int = option(0, "Tasks that run at the same time at most; 0: as many as fit.")
    name: str = option("voxweft", "Name of the jobs, before -prepare, -parts and -reduce.")
    log_dir: str = option("voxweft-logs", "Folder for what the tasks say.")
    setup: str = option("", "Shell line before voxweft, such as 'source venv/bin/activate'; default: this very Python.")

    def __post_init__(self) -> None:
        least = {"num_parts": 1, "cpus": 0, "gpus": 0, "at_once": 0}
        given = {name: getattr(self, name) for name in least}
        problems = [f"--{k.replace('_', '-')} {n} is below {least[k]}" for k, n in given.items() if n < least[k]]
        if not NAME.fullmatch(self.name):
            problems.append(f"--name {self.name!r} is no name for a job; use letters, digits, - and _")
        if not self.log_dir:
            problems.append("--log-dir is empty; give a folder")
        problems += [p for p in unprintable(self) if not p.startswith("--setup ")]
        if problems:
            raise RequestError(*problems)


def script(step: Step, options: SlurmOptions, folder: str, program: Sequence[str]) -> str:
    """The batch script of a step; voxweft replaces the shell, so that it gets the signals itself."""
    if not folder.isprintable():
        raise RequestError(f"the folder {folder!r} holds a line break or control character, which SLURM cannot be told")
    limit = f"%{options.at_once}" if options.at_once else ""
    wanted = {
        "job-name": f"{options.name}-{step.name}",
        "array": step.n_parts and f"0-{step.n_parts - 1}{limit}",
        "chdir": folder,
        "output": f"{options.log_dir}/%x-{'%A_%a' if step.n_parts else '%j'}.log",
        "open-mode": "append",
        "partition": options.partition,
        "account": options.account,
        "time": options.time,
        "cpus-per-task": options.cpus,
        "mem": options.memory,
        "gres": options.gpus and step.on_gpu and f"gpu:{options.gpus}",
    }
    lines = ["#!/bin/bash", "#SBATCH --requeue"]
    lines += [f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in wanted.items() if value]
    lines += ["set -e", options.setup] if options.setup else []
    return "\n".join([*lines, f"exec {step.shell(TASK, program)}", ""])


def printed(steps: Sequence[Step], scripts: Sequence[str], log_dir: str) -> str:
    """All scripts as one that submits them."""
    text = f"# Submit all steps: voxweft submit ... --dry-run | bash\nmkdir -p {shlex.quote(log_dir)}\n"
    before = ""
    for step, one in zip(steps, scripts, strict=True):
        after = AFTER.format(f"${{{before}%%;*}}") + " " if before else ""
        end = next(e for n in itertools.count() if (e := f"END_OF_SCRIPT{n or ''}") not in one)
        text += f"{step.name}=$(sbatch --parsable {after}<<'{end}'\n{one}{end}\n)\n"
        before = step.name
    return text + "".join(f'echo "{step.name}: job ${step.name}"\n' for step in steps)


def submit(scripts: Sequence[str], log_dir: str) -> list[str]:
    """Submit the scripts, each to begin when the one before it has succeeded; the ids of the jobs.

    Raises
    ------
    RequestError, RunError
        If sbatch is missing or refuses; what was submitted before is cancelled.
    """
    require("sbatch")
    Path(log_dir).mkdir(parents=True, exist_ok=True)
    ids: list[str] = []
    try:
        for one in scripts:
            after = AFTER.format(ids[-1]).split() if ids else []
            ids.append(call(["sbatch", "--parsable", *after], one).strip().partition(";")[0])
    except (VoxweftError, KeyboardInterrupt):
        if ids:
            call(["scancel", *ids])
        raise
    return ids


def follow(tasks: Iterable[str], tick: Callable[[Mapping[str, str]], None]) -> dict[str, str]:
    """Wait until all tasks have ended; their states. A task that is requeued is pending again.

    Parameters
    ----------
    tasks
        Their ids: ``7``, ``8_0``.
    tick
        Told of the states after every look.

    Raises
    ------
    RunError
        If SLURM does not answer any more.
    """
    states = dict.fromkeys(tasks, PENDING)
    jobs = sorted({t.partition("_")[0] for t in states})
    begun, failures = time.monotonic(), 0
    while not ENDED.issuperset(states.values()):
        time.sleep(min(MOST_S, max(LEAST_S, SHARE * (time.monotonic() - begun))))
        try:
            listed = _listed(jobs)
            failures = 0
        except RunError:
            failures += 1
            if failures > PATIENCE:
                raise
            continue
        states = {task: _state(task, listed, state) for task, state in states.items()}
        tick(states)
    return states


def _listed(jobs: Sequence[str]) -> dict[str, str]:
    """States by task, as SLURM lists them now."""
    try:
        lines = call(["squeue", "-h", "-r", "-t", "all", "-j", ",".join(jobs), "-o", "%i %T"]).splitlines()
    except RunError as error:
        if "Invalid job id" in str(error):  # all of them ended long ago
            return {}
        raise
    return dict(line.split(maxsplit=1) for line in lines)


def _state(task: str, listed: Mapping[str, str], before: str) -> str:
    """What is known of a task.

    SLURM keeps no record of an array's task that was cancelled before it began, nor of a job that ended long ago.

    >>> _state("7_1", {"7_0": "RUNNING"}, "PENDING"), _state("7", {}, "COMPLETED"), _state("7", {}, "RUNNING")
    ('CANCELLED', 'COMPLETED', 'UNKNOWN')
    """
    if task in listed or before in ENDED:
        return listed.get(task, before)
    job = task.partition("_")[0]
    siblings = {name: state for name, state in listed.items() if name.partition("_")[0] == job}
    together = next((state for name, state in siblings.items() if name == job or "[" in name), "")
    return together or (CANCELLED if siblings and before == PENDING else UNKNOWN)
