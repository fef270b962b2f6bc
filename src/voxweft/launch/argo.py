"""Argo: a WorkflowTemplate that looks at the model, prepares, fans out and reduces."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from voxweft.launch.pods import PodOptions, container, environment, metadata, security, volumes
from voxweft.launch.steps import Step

PART_ID, NUM_PARTS = "part-id", "num-parts"
RETRY = {
    "limit": 3,
    "retryPolicy": "Always",
    "backoff": {"duration": "10s", "factor": 2, "maxDuration": "1h"},
}
LOOK = {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}
INPUT = re.compile(r"\{\{inputs\.parameters\.([\w-]+)\}\}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that whoever starts the workflow may change."""

    name: str
    value: str
    description: str


@dataclass(frozen=True, slots=True)
class Flow:
    """A command as a workflow.

    Attributes
    ----------
    steps
        Their words hold ``taken(NAME)`` where a parameter belongs.
    variables
        Environment variables of every container, and their values.
    look
        Shell line of the first step, which looks at the model, and its environment variables; "" for none.
    notes
        What a step leaves in a file for others, by the name of the step: the name of the output and the file.
    result
        The output of the whole workflow: its name, and the step whose note it is, or else the parameter.
    """

    name: str
    steps: Sequence[Step]
    parameters: Sequence[Parameter]
    variables: Mapping[str, str]
    look: tuple[str, Mapping[str, str]]
    notes: Mapping[str, tuple[str, str]]
    result: tuple[str, str]


def taken(name: str) -> str:
    """Where a container takes a parameter.

    >>> taken("start-layer")
    '{{inputs.parameters.start-layer}}'
    """
    return f"{{{{inputs.parameters.{name}}}}}"


def workflow_template(flow: Flow, options: PodOptions, arch: str) -> dict[str, Any]:
    """The manifest."""
    templates = [_task(flow, step, options) for step in flow.steps]
    if flow.look[0]:
        templates.insert(0, _look(flow, options))
    counts = {step.name: step.n_parts for step in flow.steps}
    steps, outputs = [], dict[str, str]()
    for template in templates:
        step = {"name": template["name"], "template": template["name"], **_arguments(template, outputs)}
        if counts.get(template["name"]):
            step["withSequence"] = {"count": f"{{{{workflow.parameters.{NUM_PARTS}}}}}"}
        steps.append([step])
        if note := flow.notes.get(template["name"]):
            output = f"{{{{steps.{template['name']}.outputs.parameters.{note[0]}}}}}"
            outputs[note[0].replace("_", "-")] = output
    account = {"serviceAccountName": options.service_account} if options.service_account else {}
    entry = f"{flow.name}-entrypoint"
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "WorkflowTemplate",
        "metadata": metadata(flow.name, options),
        "spec": {
            "archiveLogs": True,
            "entrypoint": entry,
            "artifactRepositoryRef": {"configMap": "argo-default-artifact-repository"},
            "podGC": {"strategy": "OnPodSuccess", "deleteDelayDuration": "30s"},
            "arguments": {
                "parameters": [
                    {"name": p.name, "value": p.value, "description": p.description} for p in flow.parameters
                ]
            },
            "nodeSelector": {"kubernetes.io/arch": arch},
            **account,
            **security(options),
            "retryStrategy": RETRY,
            "templates": [{"name": entry, "steps": steps, **_result(flow, outputs)}, *templates],
        },
    }


def _result(flow: Flow, outputs: Mapping[str, str]) -> dict[str, Any]:
    """The output of the workflow: a note of a step, or a parameter as it came in."""
    name, source = flow.result
    if source in flow.notes:
        found: dict[str, Any] = {"parameter": outputs[flow.notes[source][0].replace("_", "-")]}
        return {"outputs": {"parameters": [{"name": name, "valueFrom": found}]}}
    found = {"expression": f"inputs.parameters['{source}']"}
    return {
        "inputs": {"parameters": [{"name": source}]},
        "outputs": {"parameters": [{"name": name, "valueFrom": found}]},
    }


def _arguments(template: Mapping[str, Any], outputs: Mapping[str, str]) -> dict[str, Any]:
    """Where the inputs of a step come from: an earlier step, the fan-out, or the workflow."""
    given = {PART_ID: "{{item}}", **outputs}
    names = [p["name"] for p in template.get("inputs", {}).get("parameters", [])]
    values = [{"name": n, "value": given.get(n, f"{{{{workflow.parameters.{n}}}}}")} for n in names]
    return {"arguments": {"parameters": values}} if values else {}


def _inputs(body: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a container or script takes."""
    names = dict.fromkeys(INPUT.findall(json.dumps(body)))
    return {"inputs": {"parameters": [{"name": n} for n in names]}} if names else {}


def _look(flow: Flow, options: PodOptions) -> dict[str, Any]:
    """The step before all others, which fails where the model cannot be opened."""
    line, variables = flow.look
    body = {
        "image": options.image,
        "command": ["sh", "-eu"],
        **environment(options, variables),
        "resources": LOOK,
        "volumeMounts": container((), options, "")["volumeMounts"],
        "source": f"exec {line}",
    }
    return {"name": "validate-model", **_inputs(body), "volumes": volumes(options), "script": body}


def _task(flow: Flow, step: Step, options: PodOptions) -> dict[str, Any]:
    options = options if step.on_gpu else replace(options, gpus=0)
    body = container(step.arguments, options, taken(PART_ID), flow.variables)
    notes = {}
    if note := flow.notes.get(step.name):
        notes = {"outputs": {"parameters": [{"name": note[0], "valueFrom": {"path": note[1]}}]}}
    return {
        "name": step.name,
        **_inputs(body),
        **options.selector,
        "volumes": volumes(options),
        "container": body,
        **notes,
    }
