"""Kubernetes: the parts as an Indexed Job, a pod a part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from voxweft.engine.fields import option
from voxweft.errors import RequestError
from voxweft.launch.pods import PodOptions, container, metadata, security, volumes
from voxweft.launch.steps import Step

INDEX = "$(JOB_COMPLETION_INDEX)"
WRONG_REQUEST = 2  # the exit code of voxweft


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How pods follow each other."""

    title: ClassVar[str] = "How the job is run"

    at_once: int = option(0, "Pods that run at the same time at most; 0: all.")
    retries: int = option(3, "How often a part that fails is tried again.")

    def __post_init__(self) -> None:
        if self.at_once < 0 or self.retries < 0:
            raise RequestError(f"--at-once {self.at_once}, --retries {self.retries}: neither is negative")


def indexed_job(name: str, step: Step, options: PodOptions, how: JobOptions) -> dict[str, Any]:
    """The manifest of a step of parts.

    A wrong request ends the job at once; a pod that was evicted does not count as a failure; a part that fails too
    often does not keep the others from ending.
    """
    account = {"serviceAccountName": options.service_account} if options.service_account else {}
    pod = {
        "restartPolicy": "Never",
        **account,
        **security(options),
        **options.selector,
        "containers": [{"name": "voxweft", **container(step.arguments, options, INDEX)}],
        "volumes": volumes(options),
    }
    rules = [
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": "voxweft", "operator": "In", "values": [WRONG_REQUEST]},
        },
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(name, options),
        "spec": {
            "completions": step.n_parts,
            "parallelism": min(how.at_once or step.n_parts, step.n_parts),
            "completionMode": "Indexed",
            "backoffLimitPerIndex": how.retries,
            "maxFailedIndexes": step.n_parts,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": rules},
            "template": {"metadata": {"labels": {"app.kubernetes.io/name": "voxweft"}}, "spec": pod},
        },
    }
