"""``voxweft submit kubernetes`` and ``argo``: manifests that validate, and whose containers do the work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr

from conftest import Voxweft
from e2e.test_same_bits import digest
from surfaces import small_checkpoint, waves, write_layers
from warm import WarmProcess

BLUR = "fake://blur?patch=24,24,24&normalization=instance_zscore"
IMAGE = ("--image", "place/voxweft:1")
INK = ["--model", "net.ckpt", "--start-layer", 0, "--end-layer", 5]
HOW = ["--stride", 16, "--runtime", "torch", "--batch-size", 16]


@pytest.fixture
def volume(tmp_path: Path, image: np.ndarray) -> Path:
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(16, 32, 32), dtype="uint8")[:] = image
    return tmp_path / "in.zarr"


@pytest.fixture
def container(tmp_path: Path, warm: WarmProcess) -> Any:
    """Start what a container would run, on this machine: ``voxweft`` is this Python's, /bin/sh is sh.

    That of an indexed job may be killed, so it is started as it is; others have their imports done.
    """
    (tmp_path / "bin").mkdir()
    voxweft = tmp_path / "bin/voxweft"
    voxweft.write_text(f'#!/bin/sh\nexec {sys.executable} -m voxweft "$@"\n')
    voxweft.chmod(0o755)

    def start(spec: Mapping[str, Any], env: Mapping[str, str] = {}) -> subprocess.Popen[str]:
        variables = {**env, **{v["name"]: expanded(v["value"], env) for v in spec["env"]}}
        words = [*spec["command"], *(expanded(word, variables) for word in spec.get("args", []))]
        if "source" in spec:
            (tmp_path / "source").write_text(spec["source"])
            words.append(str(tmp_path / "source"))
        path = f"{tmp_path / 'bin' if 'JOB_COMPLETION_INDEX' in env else warm.folder}:{os.environ['PATH']}"
        return subprocess.Popen(words, cwd=tmp_path, env={**os.environ, **variables, "PATH": path})

    return start


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """As Kubernetes puts variables in: $(NAME) where there is such a variable, $$ is one $."""
    return re.sub(
        r"\$\$|\$\(([\w.-]+)\)", lambda m: "$" if m[0] == "$$" else variables.get(m[1], m[0]), text
    )  # fmt: skip


def paths(node: Any, at: str = "") -> Iterator[str]:
    """Every path of keys; members of a list go by their name, where they have one."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{at}/{key}"
            yield from paths(value, f"{at}/{key}")
    elif isinstance(node, list):
        for value in node:
            name = value.get("name", "") if isinstance(value, Mapping) else ""
            yield from paths(value, f"{at}[{name}]")


def printed(voxweft: Voxweft, *words: object, **env: str) -> dict[str, Any]:
    return yaml.safe_load(voxweft("submit", *words, **env).stdout)


def test_the_job_of_every_command_is_valid(voxweft: Voxweft, tmp_path: Path) -> None:
    import kubernetes_validate

    full = [*IMAGE, "--namespace", "lab", "--at-once", 2, "--cpus", "500m", "--gpus", 0, "--retries", 5]
    full += ["--env", "AWS_REGION=eu-1", "--env", "A=b=$(c)", "--secret", "s3-keys", "--claim", "data=/data"]
    full += ["--node-selector", "gpu=h200", "--service-account", "runner", "--name", "night-run", "--dry-run", "--"]
    ink = ["ink", "infer", "s3://b/v.zarr", *INK, "--zarr-output-dir", "/data/parts"]
    commands = [
        ["run", "/data/in.zarr", "/data/out.zarr", "--model", BLUR, "--num-parts", 5],
        ["predict", "--input_dir", "s3://b/in.zarr", "--output_dir", "s3://b/parts", "--model_path", "hf://o/r"],
        ["blend_logits", "s3://b/parts", "s3://b/merged.zarr"],
        ["finalize", "s3://b/merged.zarr", "/data/deep/out.zarr", "--threshold"],
        ["pipeline", "--input", "in.zarr", "--output", "s3://b/o.zarr", "--model", "m"],
        ink,
    ]
    for command in commands:
        done = voxweft("submit", "kubernetes", *full, *command)
        assert "warning" not in done.stderr
        job = yaml.safe_load(done.stdout)
        kubernetes_validate.validate(job, "1.37.0", strict=True)
        assert kubernetes_validate.validate(job, "1.31.0", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job | {"spec": job["spec"] | {"completion": 3}}, "1.37.0", strict=True)
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimitPerIndex"]) == (8, 2, 5)
    pod = spec["template"]["spec"]
    assert "nvidia.com/gpu" not in str(pod)
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
    assert {"name": "A", "value": "b=$$(c)"} in pod["containers"][0]["env"]
    assert job["metadata"]["name"] == "night-run"
    done = voxweft("submit", "kubernetes", *IMAGE, "--claim", "d=/dat", "--dry-run", "--", *commands[0])
    assert "warning: OUTPUT /data/out.zarr is on the disk of each pod" in done.stderr
    assert (
        "# Best run before the job, on a machine like its pods: voxweft run /data/in.zarr /data/out.zarr --model 'fake://blur?"
        in done.stdout
    )
    assert done.stdout.splitlines()[0].endswith(" --prepare")


@pytest.mark.slow
def test_an_emulated_kubelet_runs_every_index_and_one_twice(
    voxweft: Voxweft, volume: Any, container: Any, tmp_path: Path
) -> None:
    """An emulation: the containers of the Job run here, one index is killed, and run again as the Job would."""
    run = ["run", "in.zarr", "o $(HOME) $x.zarr", "--chunk", "8,64,64", "--runtime", "torch", "--model"]
    printed_by = voxweft("submit", "kubernetes", *IMAGE, "--num-parts", 3, "--dry-run", "--", *run, f"{BLUR}&delay=25")
    job = yaml.safe_load(printed_by.stdout)
    spec = job["spec"]["template"]["spec"]["containers"][0]
    before = re.search(
        r"^# Best run before the job, on a machine like its pods: voxweft (.*)$", printed_by.stdout, re.M
    )[1]
    subprocess.run(["sh", "-c", f"exec {sys.executable} -m voxweft {before}"], cwd=tmp_path, check=True)
    records = tmp_path / "o $(HOME) $x.zarr.voxweft/done/sweep"
    indexes = [*range(job["spec"]["completions"])]
    for attempt in (1, 2):
        for index in [*indexes]:
            process = container(spec, {"JOB_COMPLETION_INDEX": str(index)})
            if index == 1 and attempt == 1:
                there = len(list(records.glob("*")))
                while process.poll() is None and len(list(records.glob("*"))) == there:
                    time.sleep(0.01)
                process.send_signal(signal.SIGKILL)
            if process.wait() == 0:
                indexes.remove(index)
        assert indexes == [[1], []][attempt - 1]
    voxweft("verify", "o $(HOME) $x.zarr")
    run[2] = "whole.zarr"
    voxweft(*run, BLUR)
    assert digest(tmp_path / "o $(HOME) $x.zarr") == digest(tmp_path / "whole.zarr")


def seed_example(shared: Path) -> dict[str, Any]:
    """The workflow of the reference's own document."""
    found = [*shared.glob("seeds/001*.txt")]
    if not found:
        pytest.skip("the document of the reference container is not in ../shared/seeds")
    blocks = re.findall(r"^```yaml\n(.*?)^```", found[0].read_text(), flags=re.M | re.S)
    return next(made for made in map(yaml.safe_load, blocks) if made["kind"] == "WorkflowTemplate")


ARGO = [*IMAGE, "--node-selector", "karpenter.k8s.aws/instance-generation=6", "--dry-run", "--", "ink", "run"]
CLOUD = ["s3://b/seg", *INK, "--zarr-output-dir", "s3://b/parts", "--num-parts", 3]


def test_argo_knows_every_field(voxweft: Voxweft) -> None:
    from hera.workflows.models import WorkflowTemplate

    commands = [
        ["ink", "run", *CLOUD],
        ["run", "s3://b/in.zarr", "s3://b/o.zarr", "--model", "hf://o/r", "--output", "mask"],
        ["predict", "--input-dir", "s3://b/in.zarr", "--output-dir", "s3://b/p", "--model", "m", "--disable-tta"],
        ["finalize", "s3://b/m.zarr", "s3://b/o.zarr"],
    ]
    more = ["--secret", "keys", "--claim", "data=/data", "--service-account", "runner", "--namespace", "lab"]
    for command in commands:
        made = printed(voxweft, "argo", *IMAGE, *more, "--dry-run", "--", *command)
        text = WorkflowTemplate.model_validate(made).model_dump_json(by_alias=True, exclude_none=True)
        assert set(paths(yaml.safe_load(text))) == set(paths(made)), "a key that the model does not know is dropped"


def test_argo_has_everything_that_the_reference_has(voxweft: Voxweft, shared: Path) -> None:
    example, made = seed_example(shared), printed(voxweft, "argo", *ARGO, *CLOUD)
    spec, theirs = made["spec"], example["spec"]
    for key in ("archiveLogs", "artifactRepositoryRef", "podGC", "nodeSelector", "retryStrategy"):
        assert spec[key] == theirs[key]
    assert spec["entrypoint"] == spec["templates"][0]["name"]
    ours = set(paths(made))
    for path in paths(example):
        path = path.replace("[ink-detection-entrypoint]", "[voxweft-ink-run-entrypoint]")  # noqa: PLW2901
        one_of = [path.replace("[run-ink-detection]", f"[{step}]") for step in ("infer", "reduce")]
        assert ours.intersection(one_of), path
    by_name = {t["name"]: t for t in spec["templates"]}
    container = next(t for t in theirs["templates"] if t["name"] == "run-ink-detection")
    for step in ("prepare", "infer", "reduce"):
        for key in ("env", "volumeMounts"):
            assert by_name[step]["container"][key] == container["container"][key], (step, key)
        asked = {kind: dict(values) for kind, values in container["container"]["resources"].items()}
        if step != "infer":  # copies layers, or joins what is there
            assert [values.pop("nvidia.com/gpu") for values in asked.values()] == ["1", "1"]
        assert by_name[step]["container"]["resources"] == asked
        assert by_name[step]["volumes"] == container["volumes"]
        assert by_name[step]["nodeSelector"] == container["nodeSelector"]
    assert by_name["reduce"]["outputs"] == container["outputs"]


def run_workflow(manifest: Mapping[str, Any], start: Any, changes: Mapping[str, str] = {}) -> dict[str, str]:
    """Run the steps of a manifest in their order, one pod at a time; the outputs of the workflow."""
    spec = manifest["spec"]
    templates = {t["name"]: t for t in spec["templates"]}
    known = {f"workflow.parameters.{p['name']}": p["value"] for p in spec["arguments"]["parameters"]}
    known |= {f"workflow.parameters.{n}": v for n, v in changes.items()}

    def filled(node: Any, values: Mapping[str, str]) -> Any:
        if isinstance(node, str):
            return re.sub(r"\{\{([^}]+)\}\}", lambda m: values[m[1]], node)
        if isinstance(node, list):
            return [filled(n, values) for n in node]
        return {k: filled(v, values) for k, v in node.items()} if isinstance(node, Mapping) else node

    entry = templates[spec["entrypoint"]]
    for group in entry["steps"]:
        for step in group:
            template = templates[step["template"]]
            count = filled(step.get("withSequence", {"count": "1"})["count"], known)
            for item in range(int(count)):
                values = known | ({"item": str(item)} if "withSequence" in step else {})
                given = {p["name"]: filled(p["value"], values) for p in step.get("arguments", {}).get("parameters", [])}
                assert {*given} == {p["name"] for p in template.get("inputs", {}).get("parameters", [])}
                body = template.get("container") or template["script"]
                process = start(filled(body, {f"inputs.parameters.{n}": v for n, v in given.items()}))
                assert process.wait() == 0, (step["name"], body)
            for output in template.get("outputs", {}).get("parameters", []):
                text = Path(output["valueFrom"]["path"]).read_text()
                known[f"steps.{step['name']}.outputs.parameters.{output['name']}"] = text
    inputs = {
        p["name"]: known[f"workflow.parameters.{p['name']}"] for p in entry.get("inputs", {}).get("parameters", [])
    }
    found = {}
    for output in entry["outputs"]["parameters"]:
        source = output["valueFrom"]
        if "parameter" in source:
            found[output["name"]] = filled(source["parameter"], known)
        else:
            found[output["name"]] = inputs[re.fullmatch(r"inputs\.parameters\['(.+)'\]", source["expression"])[1]]
    return found


@pytest.mark.slow
def test_the_steps_of_the_workflow_make_the_picture_of_one_run(
    voxweft: Voxweft, container: Any, tmp_path: Path
) -> None:
    small_checkpoint(tmp_path / "net.ckpt")
    write_layers(tmp_path / "seg", waves(5, 700, 150))
    notes = ["--runtime-dir", tmp_path / "notes", "--model-type", "timesformer"]
    made = printed(voxweft, "argo", *ARGO, "seg", *INK, *HOW, *notes, "--zarr-output-dir", "shared", "--num-parts", 8)
    assert [s[0]["name"] for s in made["spec"]["templates"][0]["steps"]] == [
        "validate-model",
        "prepare",
        "infer",
        "reduce",
    ]
    outputs = run_workflow(made, container, {"num-parts": "3"})
    picture = tmp_path / "seg/predictions/prediction_net_00_05.png"
    assert outputs == {"result-s3-url": str(picture)}
    assert len(list((tmp_path / "shared").glob("*.zarr.voxweft/parts/*-of-3.json"))) == 3
    voxweft("ink", "run", "seg", "whole.png", *INK, *HOW, "--zarr-output-dir", "other", *notes)
    assert picture.read_bytes() == (tmp_path / "whole.png").read_bytes()
    with pytest.raises(AssertionError, match="validate-model"):
        run_workflow(made, container, {"model": "nothing.ckpt"})
    with pytest.raises(AssertionError, match="validate-model"):
        run_workflow(made, container, {"end-layer": "4"})


@pytest.mark.slow
def test_the_steps_of_any_command_write_its_output(
    voxweft: Voxweft, volume: Any, container: Any, tmp_path: Path
) -> None:
    run = ["run", "in.zarr", "o.zarr", "--model", BLUR, "--chunk", "8,64,64", "--runtime", "torch"]
    made = printed(voxweft, "argo", *IMAGE, "--num-parts", 2, "--dry-run", "--", *run)
    assert run_workflow(made, container) == {"output": "o.zarr"}
    assert run_workflow(made, container, {"target": "p.zarr", "num-parts": "1"}) == {"output": "p.zarr"}
    run[2] = "whole.zarr"
    voxweft(*run)
    assert digest(tmp_path / "o.zarr") == digest(tmp_path / "whole.zarr") == digest(tmp_path / "p.zarr")


def test_kubectl_gets_the_manifest_and_its_words_are_passed_on(voxweft: Voxweft, tmp_path: Path) -> None:
    fake = tmp_path / "bin/kubectl"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\ncat > got.yaml; echo "$@"; if [ -e no ]; then echo "error: no such place" >&2; exit 1; fi'
    )
    fake.chmod(0o755)
    env = {"PATH": f"{fake.parent}:/usr/bin:/bin"}
    words = ["--name", "n", *IMAGE, "--", "blend", "s3://b/parts", "s3://b/m.zarr"]
    assert "apply -f -" in voxweft("submit", "kubernetes", *words, **env).stdout
    assert yaml.safe_load((tmp_path / "got.yaml").read_text())["kind"] == "Job"
    assert "argo submit --from workflowtemplate/n" in voxweft("submit", "argo", *words, **env).stdout
    assert yaml.safe_load((tmp_path / "got.yaml").read_text())["kind"] == "WorkflowTemplate"
    (tmp_path / "no").touch()
    assert "error: no such place" in voxweft("submit", "argo", *words, code=1, **env).stderr
    env = {"PATH": "/nowhere"}
    assert "kubectl is not on this machine" in voxweft("submit", "argo", *words, code=2, **env).stderr
    assert "sbatch is not on this machine" in voxweft("submit", "slurm", "--", *words[-3:], code=2, **env).stderr
