"""The ink networks give what the networks they were trained as give.

TimeSformer is compared with timesformer-pytorch in a process of its own; ResNet3D with the sum of its published facts,
written down here once more on the tensors of a state dict.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from inknets import narrow_resnet
from voxweft.nets.resnet3d import BLOCKS
from voxweft.nets.timesformer import TimeSformer, TimeSformerSize

PEERS = Path(os.environ.get("VOXWEFT_PEERS", Path(__file__).resolve().parents[2] / ".peers"))
COMMON = {"channels": 1, "attn_dropout": 0.1, "ff_dropout": 0.1}
CASES = {
    "tiny": {
        "dim": 64,
        "image_size": 64,
        "patch_size": 16,
        "num_frames": 11,
        "num_classes": 16,
        "depth": 3,
        "heads": 4,
        "dim_head": 16,
    },
    "odd": {
        "dim": 30,
        "image_size": 24,
        "patch_size": 8,
        "num_frames": 5,
        "num_classes": 9,
        "depth": 2,
        "heads": 3,
        "dim_head": 12,
    },
    "partly rotated": {
        "dim": 16,
        "image_size": 16,
        "patch_size": 4,
        "num_frames": 3,
        "num_classes": 4,
        "depth": 1,
        "heads": 2,
        "dim_head": 10,
    },
    "colour": {
        "dim": 24,
        "image_size": 16,
        "patch_size": 8,
        "num_frames": 4,
        "num_classes": 2,
        "depth": 2,
        "heads": 2,
        "dim_head": 8,
        "channels": 3,
    },
    "learned": {
        "dim": 32,
        "image_size": 32,
        "patch_size": 16,
        "num_frames": 4,
        "num_classes": 4,
        "depth": 2,
        "heads": 2,
        "dim_head": 64,
        "rotary_emb": False,
    },
}
PEER = """
import json, sys, torch
from timesformer_pytorch import TimeSformer
for name, size in json.loads(sys.argv[1]).items():
    torch.manual_seed(7)
    network = TimeSformer(**size).eval()
    if size.get("rotary_emb", True):
        network.image_rot_emb.scales.mul_(1.1)  # not the values of the constructor
    video = torch.rand(2, size["num_frames"], size["channels"], size["image_size"], size["image_size"])
    with torch.no_grad():
        found = {"state": network.state_dict(), "video": video, "logits": network(video)}
    torch.save(found, f"{sys.argv[2]}/{name}.pt")
"""


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not (PEERS / "timesformer_pytorch").is_dir():
        pytest.skip(f"no timesformer-pytorch in {PEERS}: pip install --target .peers --no-deps -r tests/peers.txt")
    folder = tmp_path_factory.mktemp("peers")
    cases = json.dumps({name: {**COMMON, **size} for name, size in CASES.items()})
    env = {**os.environ, "PYTHONPATH": str(PEERS), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", PEER, cases, str(folder)], env=env, check=True, timeout=120)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_timesformer_equals_the_package(peers: Any, name: Any) -> None:
    case = {**COMMON, **CASES[name]}
    found = torch.load(peers / f"{name}.pt", weights_only=True)
    told = ("image_size", "num_frames", "channels")
    size = TimeSformerSize.of(found["state"], {n: case[n] for n in told})
    assert {n: getattr(size, n) for n in CASES[name]} == CASES[name]
    network = TimeSformer(size).eval()
    network.load_state_dict(found["state"], strict=True)
    with torch.no_grad():
        logits = network(found["video"])
    assert (logits - found["logits"]).abs().max() < 1e-5
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def norm(x: Any, state: Any, name: Any) -> Any:
    mean, var, weight, bias = (
        state[f"{name}.{k}"].view(1, -1, *(1,) * (x.ndim - 2))
        for k in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def reference_resnet(volume: Any, state: Any, depth: Any) -> Any:
    """The forward pass by the names of the tensors; the maximum over depth comes before the decoder."""
    if "normalization.weight" in state:
        volume = norm(volume, state, "normalization")
    x = functional.conv3d(volume, state["backbone.conv1.weight"], stride=(1, 2, 2), padding=3)
    x = functional.max_pool3d(norm(x, state, "backbone.bn1").relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    maps = []
    for stage in range(4):
        for block in range(BLOCKS[depth][stage]):
            at, stride = f"backbone.layer{stage + 1}.{block}", 2 if stage and not block else 1
            y = norm(functional.conv3d(x, state[f"{at}.conv1.weight"]), state, f"{at}.bn1").relu()
            y = functional.conv3d(y, state[f"{at}.conv2.weight"], stride=stride, padding=1)
            y = functional.conv3d(norm(y, state, f"{at}.bn2").relu(), state[f"{at}.conv3.weight"])
            if not block:
                x = functional.conv3d(x, state[f"{at}.downsample.0.weight"], stride=stride)
                x = norm(x, state, f"{at}.downsample.1")
            x = (norm(y, state, f"{at}.bn3") + x).relu()
        maps.append(x.max(dim=2).values)
    for i in (3, 2, 1):
        both = torch.cat([maps[i - 1], functional.interpolate(maps[i], scale_factor=2, mode="bilinear")], 1)
        y = functional.conv2d(both, state[f"decoder.convs.{i - 1}.0.weight"], padding=1)
        maps[i - 1] = norm(y, state, f"decoder.convs.{i - 1}.1").relu()
    return functional.conv2d(maps[0], state["decoder.logit.weight"], state["decoder.logit.bias"])


@pytest.mark.parametrize(("depth", "normalization"), [(50, True), (101, False)])
def test_resnet_equals_its_description(depth: Any, normalization: Any) -> None:
    network = narrow_resnet(depth, normalization)
    volume = torch.rand(2, 1, 9, 64, 96)
    with torch.no_grad():
        found, wanted = network(volume), reference_resnet(volume, network.state_dict(), depth)
    assert found.shape == (2, 1, 16, 24)
    assert wanted.std() > 1e-3
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
