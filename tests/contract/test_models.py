"""Every backend keeps the contract."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import voxweft
from inknets import lightning, small_timesformer
from voxweft.errors import ModelError
from voxweft.testing import ModelContract


def small_net(n_inputs: int = 1, n_classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv3d(n_inputs, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, n_classes, 1)
    ).eval()


class TestFake(ModelContract):
    def make(self, tmp_path: Path) -> Any:
        return voxweft.load_model("fake://blur?patch=16,16,16&classes=3")


class TestNnunet(ModelContract):
    patch_zyx = (32, 32, 32)

    @pytest.fixture(autouse=True)
    def _folder(self, shared: Path) -> None:
        self.folder = shared / "golden/scroll/model_c2_p32"

    def make(self, tmp_path: Path) -> Any:
        return voxweft.load_model(self.folder)


class TestTorchScript(ModelContract):
    def make(self, tmp_path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(small_net(2), torch.zeros(1, 2, 16, 16, 16)), str(tmp_path / "net.pt"))
        return voxweft.load_model(tmp_path / "net.pt")


class TestExported(ModelContract):
    def make(self, tmp_path: Path) -> Any:
        program = torch.export.export(small_net(), (torch.zeros(1, 1, 16, 16, 16),))
        torch.export.save(program, tmp_path / "net.pt2")
        return voxweft.load_model(tmp_path / "net.pt2")


class TestOnnx(ModelContract):
    patch_zyx = (64, 64, 64)

    @pytest.fixture(autouse=True)
    def _file(self, shared: Path) -> None:
        self.file = shared / "models/onnx_ct_bone/model.onnx"

    def make(self, tmp_path: Path) -> Any:
        return voxweft.load_model(self.file)

    def test_the_window_of_its_metadata_is_the_normalization(self, tmp_path: Path) -> None:
        (scheme,) = self.make(tmp_path).card.normalization
        assert (scheme.scheme, scheme.lower, scheme.upper, scheme.mean, scheme.std) == ("ct", -300, 900, -300, 1200)


class TestInk(ModelContract):
    patch_zyx = (32, 1, 32)

    def make(self, tmp_path: Path) -> Any:
        state = small_timesformer().state_dict()
        return voxweft.load_model(lightning(tmp_path / "net.ckpt", state, num_frames=5, image_size=32))


def test_a_sidecar_says_what_the_file_does_not(tmp_path: Path) -> None:
    model = TestTorchScript().make(tmp_path)
    assert model.card.patch_zyx is None
    assert model.card.n_inputs == 2
    assert "does not say its normalization" in model.card.normalization_note
    (tmp_path / "net.json").write_text(
        json.dumps({"patch_size": [16, 16, 16], "normalization": "instance_zscore", "class_names": ["a", "b", "c"]})
    )
    card = voxweft.load_model(tmp_path / "net.pt").card
    assert (card.patch_zyx, card.normalization[0].scheme, card.class_names) == (
        (16, 16, 16),
        "instance_zscore",
        ("a", "b", "c"),
    )
    (tmp_path / "net.json").write_text('{"patchsize": 3}')
    with pytest.raises(ModelError, match="patchsize"):
        voxweft.load_model(tmp_path / "net.pt")


def test_a_two_dimensional_network_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 9, 9)), str(tmp_path / "flat.pt"))
    with pytest.raises(ModelError, match="2-D"):
        voxweft.load_model(tmp_path / "flat.pt")


def test_folds_are_averaged_and_one_can_be_chosen(shared: Path, tmp_path: Path) -> None:
    from voxweft.model import ForwardSetting

    folder = tmp_path / "model"
    shutil.copytree(shared / "golden/scroll/model_c2_p32", folder)
    shutil.copytree(folder / "fold_0", folder / "fold_1")
    checkpoint = folder / "fold_1/checkpoint_final.pth"
    state = torch.load(checkpoint, weights_only=False)
    for value in state["network_weights"].values():
        value.mul_(1.1)
    torch.save(state, checkpoint)
    setting = ForwardSetting("torch", "cpu", "fp32", 1, (32, 32, 32))
    batch = torch.randn(1, 1, 32, 32, 32)
    one, other, both = (
        voxweft.load_model(p).open(setting)(batch) for p in (folder / "fold_0", folder / "fold_1", folder)
    )
    assert voxweft.load_model(folder).card.n_folds == 2
    assert torch.allclose((one + other) / 2, both, atol=1e-5)


@pytest.mark.parametrize("name", ["nnunet_fibsem_membrane", "nnunet_t1_tissue"])
def test_real_folders_load_and_describe_themselves(shared: Path, name: Any) -> None:
    card = voxweft.load_model(shared / "models" / name).card
    assert card.format == "nnU-Net v2"
    assert card.class_names[0] == "background"
    assert card.patch_zyx
