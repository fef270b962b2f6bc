"""``voxweft submit``: COMMAND as a job script or a manifest."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Annotated, Any

import typer

from voxweft.cli.command import Command, read
from voxweft.cli.flags import with_options
from voxweft.cli.front_end import Division, Workflow, first_and_after, ready
from voxweft.cli.front_ends import divisions
from voxweft.cli.show import Quiet, Verbose, say
from voxweft.engine.events import Emit, Event
from voxweft.errors import IncompleteError, RequestError, RunError, VoxweftError
from voxweft.launch import slurm as slurm_jobs
from voxweft.launch.argo import NUM_PARTS, Flow, Parameter, taken, workflow_template
from voxweft.launch.kubernetes import JobOptions, indexed_job
from voxweft.launch.pods import PodOptions, apply, as_yaml, literal
from voxweft.launch.slurm import SlurmOptions
from voxweft.launch.steps import Step
from voxweft.remote import is_remote
from voxweft.runner.records import plan_of
from voxweft.stores import open_sink

HERE = {"runtime_dir", "overwrite", "num_parts"}  # decide on the manifest itself, and are no parameters of it
app = typer.Typer(
    help="Run the parts of a command on SLURM, Kubernetes or Argo.",
    no_args_is_help=True,
)

Words = Annotated[list[str], typer.Argument(metavar="COMMAND", help="A voxweft command line that has parts, after --.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted, and submit nothing.")]
SETTINGS = {"allow_interspersed_args": False}


@app.command("slurm", context_settings=SETTINGS)
@with_options(SlurmOptions)
def slurm(
    words: Words,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the jobs; exit code 0 if all of them succeed.")] = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    slurmoptions: Any = None,
) -> None:
    """Array job for SLURM. Submit the same command again to continue: finished slabs are kept."""
    from voxweft.cli.progress import Listener

    command, n_parts, division = ready(read(words), slurmoptions.num_parts, divisions())
    steps = division.steps(command, n_parts)
    program = ("voxweft",) if slurmoptions.setup else (sys.executable, "-m", "voxweft")
    scripts = [slurm_jobs.script(step, slurmoptions, os.getcwd(), program) for step in steps]  # noqa: PTH109
    if dry_run:
        print(slurm_jobs.printed(steps, scripts, slurmoptions.log_dir), end="")
        return
    ids = slurm_jobs.submit(scripts, slurmoptions.log_dir)
    try:
        for step, job in zip(steps, ids, strict=True):
            print(f"{step.name}: job {job}" + f", {step.n_parts} tasks" * bool(step.n_parts), flush=True)
        if wait:
            with Listener(quiet) as listen:
                _follow((command, division), dict(zip(ids, steps, strict=True)), slurmoptions, listen)
    except KeyboardInterrupt as error:
        raise RunError(f"the jobs go on without this command. To end them: scancel {' '.join(ids)}") from error


def _follow(what: tuple[Command, Division], jobs: Mapping[str, Step], options: SlurmOptions, emit: Emit) -> None:
    """Wait for jobs and show how far they are."""
    tasks: dict[str, str] = {}
    for job, step in jobs.items():
        several = {f"{job}_{n}": f"{step.name} {n}" for n in range(step.n_parts)}
        tasks |= several or {job: step.name}
    command, division = what
    output = division.url(command)

    def tick(states: Mapping[str, str]) -> None:
        ended = sum(s in slurm_jobs.ENDED for s in states.values())
        done, total = _slabs(output) if output else (ended, len(states))
        emit(Event("progress", "slabs" if output else "tasks", {"n_done": done, "n_units": total}))

    states = slurm_jobs.follow(tasks, tick)
    done, total = _slabs(output)
    whole = 0 < total == done
    forgiven = {slurm_jobs.COMPLETED} | ({slurm_jobs.UNKNOWN} if whole else set())
    failed = [f"{tasks[t]} (job {t}) {s}" for t, s in states.items() if s not in forgiven]
    if failed:
        more = f" and {len(failed) - 6} more" if len(failed) > 6 else ""
        raise RunError(
            f"{len(failed)} of {len(states)} tasks did not complete: {', '.join(failed[:6])}{more}.\n"
            f"What they said is in {options.log_dir}. Submit the same command again: finished slabs are kept."
        )
    if division.reduces and not whole:
        raise IncompleteError(f"{output}: {done} of {total} slabs are there, although all tasks completed")
    say(f"complete: {output or f'{len(states)} tasks'}")


def _slabs(output: str) -> tuple[int, int]:
    """How many slabs of an output are there, and how many there will be; 0 of 0 where it is not there yet."""
    try:
        plan, ledger = plan_of(open_sink(output))
    except VoxweftError:
        return 0, 0
    return len(ledger.done(plan.main.name)), plan.main.n_units


@app.command("kubernetes", context_settings=SETTINGS)
@with_options(PodOptions, JobOptions)
def kubernetes(
    words: Words, dry_run: DryRun = False, verbose: Verbose = False, podoptions: Any = None, joboptions: Any = None
) -> None:
    """Indexed Job for Kubernetes, a pod a part."""
    command, n_parts, division = ready(read(words), podoptions.num_parts, divisions())
    if reason := division.in_one_job(command):
        raise RequestError(reason)
    before, parts, after = first_and_after(division.steps(command, n_parts))
    notes = [
        *_noted("Best run before the job, on a machine like its pods", before),
        *_noted("Run when the job is complete", after),
        f"To submit it again: kubectl delete job {_name(command, podoptions)} first; finished slabs are kept",
    ]
    _warn(command, podoptions)
    manifest = indexed_job(_name(command, podoptions), parts, podoptions, joboptions)
    _give("".join(f"# {one}\n" for one in notes), manifest, dry_run, notes)


def _noted(when: str, steps: Iterable[Step]) -> list[str]:
    return [" ".join(f"{when}: {step.shell()}".splitlines()) for step in steps]


@app.command("argo", context_settings=SETTINGS)
@with_options(PodOptions)
def argo(
    words: Words,
    arch: Annotated[str, typer.Option(help="Architecture of the nodes.")] = "amd64",
    dry_run: DryRun = False,
    verbose: Verbose = False,
    podoptions: Any = None,
) -> None:
    """WorkflowTemplate for Argo: look at the model, prepare, a pod a part, reduce."""
    command, n_parts, division = ready(read(words), podoptions.num_parts, divisions())
    if braces := [g.value for g in command.given.values() if "{{" in g.value]:
        raise RequestError(f"COMMAND: {braces[0]!r} would be read as a variable by Argo")
    if braces := [value for value in map(str, astuple(podoptions)) if "{{" in value]:
        raise RequestError(f"{braces[0]!r} would be read as a variable by Argo")
    _warn(command, podoptions)
    flow = _flow(_name(command, podoptions), (command, division), n_parts)
    note = f"Start it with: argo submit --from workflowtemplate/{flow.name}"
    _give(f"# {note}\n", workflow_template(flow, podoptions, arch), dry_run, [note])


def _flow(name: str, what: tuple[Command, Division], n_parts: int) -> Flow:
    """COMMAND with its values as parameters of a workflow."""
    command, division = what
    given = command.given
    names = {n: (g.flag.removeprefix("--") or n).replace("_", "-") for n, g in given.items() if g.value}
    names = {n: label for n, label in names.items() if n not in HERE}
    parameters = [Parameter(label, literal(given[n].value), given[n].help) for n, label in names.items()]
    least = division.fewest_parts
    parameters.append(Parameter(NUM_PARTS, str(n_parts), f"Parts that the work is divided into, {least} or more."))
    inserted = command.with_values({n: taken(label) for n, label in names.items()})
    variables = division.variables(names, taken)
    in_variables = tuple(n for n, g in inserted.given.items() if g.value in variables.values())
    steps = division.steps(inserted, n_parts, Workflow(taken(NUM_PARTS), in_variables, taken))
    look = division.look(inserted, variables)
    return Flow(
        name,
        steps,
        parameters,
        variables,
        (look.line, look.variables),
        division.notes(command),
        division.result(names),
    )


def _name(command: Command, options: PodOptions) -> str:
    return str(options.name) or f"voxweft-{command.name.replace(' ', '-')}"


def _warn(command: Command, options: PodOptions) -> None:
    """Say which results would be lost with the pods."""
    names = ["target", "output_dir", "output_path", "zarr_output_dir"] + ["output"] * (command.name == "pipeline")
    for given in (command.given[n] for n in names if n in command.given):
        place = given.value
        kept = any(f"{place}/".startswith(f"{m.rstrip('/')}/") for m in options.mounts)
        if not is_remote(place) and not kept:
            say(
                f"warning: {given.flag or 'OUTPUT'} {shlex.quote(place)} is on the disk of each pod and lost with it; "
                "give s3://, or a path below a --claim",
                file=sys.stderr,
            )


def _give(head: str, manifest: Mapping[str, Any], dry_run: bool, notes: Sequence[str]) -> None:
    """Print a manifest, or hand it to the cluster and say what is to be done next."""
    text = head + as_yaml(manifest)
    if dry_run:
        print(text, end="")
    else:
        print("\n".join([apply(text).strip(), *notes]))
