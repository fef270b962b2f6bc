"""What Kubernetes jobs and Argo workflows share: containers, volumes, resources."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from voxweft.engine.fields import option
from voxweft.errors import RequestError
from voxweft.launch.steps import PartNumber, call, unprintable

QUANTITY = re.compile(r"\d+(\.\d+)?([kMGTP]i?|m)?")
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
USER_ID = 1000  # of the user in the Dockerfile
GPU = "nvidia.com/gpu"
SHM = {"name": "shm", "mountPath": "/dev/shm"}


@dataclass(frozen=True, slots=True)
class PodOptions:
    """The pod of a task."""

    title: ClassVar[str] = "What a pod is"

    image: str = option("", "Container image with voxweft in it, such as the one that the Dockerfile makes.")
    num_parts: int = option(8, "Parts of COMMAND, where it has no --num-parts of its own; a part is a pod.")
    name: str = option("", "Name of the job; default: voxweft- and COMMAND's.")
    namespace: str = option("", "Namespace; default: kubectl's.")
    cpus: str = option("6", "CPU cores a pod.")
    memory: str = option("32Gi", "Memory a pod.")
    gpus: int = option(1, "GPUs a pod; 0: none.")
    storage: str = option("10Gi", "Ephemeral storage a pod.")
    shm: str = option("20Gi", "Shared memory a pod, /dev/shm.")
    env: tuple[str, ...] = option((), "Environment variable NAME=VALUE; may be repeated.")
    secret: tuple[str, ...] = option((), "Secret whose keys become environment variables; may be repeated.")
    claim: tuple[str, ...] = option((), "Volume claim and its place, NAME=/mount/path; may be repeated.")
    node_selector: tuple[str, ...] = option((), "Only nodes with the label KEY=VALUE; may be repeated.")
    service_account: str = option("", "Service account of the pods.")

    def __post_init__(self) -> None:
        problems = [] if self.image else ["--image is missing: give a container image with voxweft in it"]
        if self.num_parts < 1 or self.gpus < 0:
            problems.append(f"--num-parts {self.num_parts}, --gpus {self.gpus}: at least 1, and 0")
        for flag in ("cpus", "memory", "storage", "shm"):
            if not QUANTITY.fullmatch(getattr(self, flag)):
                problems.append(f"--{flag} {getattr(self, flag)!r} is no amount; write for example 6, 500m or 32Gi")
        if self.name and not NAME.fullmatch(self.name):
            problems.append(f"--name {self.name!r} is no name; use small letters, digits and -")
        for flag, form in {"env": "NAME=VALUE", "claim": "NAME=/mount/path", "node_selector": "KEY=VALUE"}.items():
            pairs = [v.partition("=") for v in getattr(self, flag)]
            wrong = [f"{k}{e}{v}" for k, e, v in pairs if not (k and e) or (flag == "claim" and v[:1] != "/")]
            problems += [f"--{flag.replace('_', '-')} {one!r}: write {form}" for one in wrong[:1]]
        problems += unprintable(self)
        if problems:
            raise RequestError(*problems[:3])

    @property
    def mounts(self) -> tuple[str, ...]:
        """Where claims are mounted."""
        return tuple(_pairs(self.claim).values())

    @property
    def selector(self) -> dict[str, Any]:
        """The labels that a node must have, as a field of a pod or template; nothing where there are none."""
        return {"nodeSelector": _pairs(self.node_selector)} if self.node_selector else {}


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    return dict(text.split("=", 1) for text in texts)


def metadata(name: str, options: PodOptions) -> dict[str, Any]:
    """Name and namespace of an object."""
    space = {"namespace": options.namespace} if options.namespace else {}
    return {"name": name, **space, "labels": {"app.kubernetes.io/name": "voxweft"}}


def container(
    arguments: Sequence[str], options: PodOptions, part: str, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A container that runs a step; ``part`` is how the launcher writes the number of a part."""
    return {
        "image": options.image,
        "command": ["voxweft"],
        "args": [part if isinstance(word, PartNumber) else literal(word) for word in arguments],
        **environment(options, variables or {}),
        "resources": _resources(options),
        "volumeMounts": [SHM, *({"name": n, "mountPath": m} for n, m in _pairs(options.claim).items())],
    }


def literal(word: str) -> str:
    """A word in which Kubernetes finds no variable.

    >>> literal("cost in $(USD).zarr")
    'cost in $$(USD).zarr'
    """
    return word.replace("$", "$$")


def environment(options: PodOptions, variables: Mapping[str, str]) -> dict[str, Any]:
    """The variables of a container, and the secrets that add to them."""
    given = {"PYTHONUNBUFFERED": "1", **variables, **{n: literal(v) for n, v in _pairs(options.env).items()}}
    made: dict[str, Any] = {"env": [{"name": n, "value": v} for n, v in given.items()]}
    if options.secret:
        made["envFrom"] = [{"secretRef": {"name": name}} for name in options.secret]
    return made


def _resources(options: PodOptions) -> dict[str, Any]:
    gpu = {GPU: str(options.gpus)} if options.gpus else {}
    wanted = {"cpu": options.cpus, "memory": options.memory, "ephemeral-storage": options.storage, **gpu}
    return {"requests": wanted, "limits": {"memory": options.memory, **gpu}}


def volumes(options: PodOptions) -> list[dict[str, Any]]:
    """Shared memory, and the claims."""
    claims = [{"name": n, "persistentVolumeClaim": {"claimName": n}} for n in _pairs(options.claim)]
    return [{"name": SHM["name"], "emptyDir": {"medium": "Memory", "sizeLimit": options.shm}}, *claims]


def security(options: PodOptions) -> dict[str, Any]:
    """Where there are claims: the group of the image's user owns them, so that it may write there."""
    return {"securityContext": {"fsGroup": USER_ID}} if options.claim else {}


def as_yaml(manifest: Mapping[str, Any]) -> str:
    """A manifest as text."""
    import yaml

    apart = json.loads(json.dumps(manifest))  # what occurs twice is written twice, not referred to
    # escaped: YAML takes more characters than one for the end of a line
    return str(yaml.safe_dump(apart, sort_keys=False, width=110, allow_unicode=False))


def apply(text: str) -> str:
    """Give a manifest to the cluster; what kubectl says."""
    return call(["kubectl", "apply", "-f", "-"], text)
