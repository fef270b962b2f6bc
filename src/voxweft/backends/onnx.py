"""ONNX files through onnxruntime, or through OpenVINO where that is asked for."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from voxweft.backends.runtime import check_shape, compile_openvino
from voxweft.backends.sidecar import Sidecar
from voxweft.errors import ModelError
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.protocols import ForwardSetting, Predictor


def load(path: Path) -> OnnxModel:
    """Read an ONNX network [B, C, Z, Y, X] -> [B, n_classes, Z, Y, X].

    Shapes come from the graph. Of the metadata ``window_level`` and ``window_width`` (Hounsfield units; the result is
    scaled to 0..1) and ``class_names`` are understood; ``NAME.json`` adds what else is needed.

    Raises
    ------
    ModelError
        If onnxruntime is not installed, the file is damaged, or the network is not 3-D.
    """
    session = _session(str(path))
    given, result = session.get_inputs()[0], session.get_outputs()[0]
    sizes, out = ([n if isinstance(n, int) else 0 for n in node.shape] for node in (given, result))
    if len(sizes) != 5 or len(out) != 5 or not sizes[1] or not out[1]:
        raise ModelError(
            f"{path} takes {given.shape} and gives {result.shape}; voxweft run needs [B, C, Z, Y, X] for both"
        )
    meta = session.get_modelmeta().custom_metadata_map
    card = Sidecar.beside(path).card(
        path,
        "ONNX",
        n_inputs=sizes[1],
        n_classes=out[1],
        patch_zyx=tuple(sizes[2:]) if all(sizes[2:]) else None,
        batch_size=sizes[0] or None,
        normalization=_window(meta, path),
        class_names=_names(meta),
        details={"metadata": dict(meta), "fixed_patch": all(sizes[2:])},
    )
    return OnnxModel(card, path)


class OnnxModel:
    """A network in a file, opened anew for each setting."""

    def __init__(self, card: ModelCard, path: Path) -> None:
        self.card = card
        self._path = path

    def runtimes(self, device: str) -> tuple[str, ...]:
        """onnxruntime, and OpenVINO on CPUs where it is installed."""
        return ("onnx", *(("openvino",) if device == "cpu" and find_spec("openvino") else ()))

    def open(self, setting: ForwardSetting) -> Predictor:
        """Make it ready."""
        if setting.runtime not in ("onnx", "openvino"):
            raise ModelError(f"an ONNX model cannot run on {setting.runtime!r}; use onnx or openvino")
        if setting.runtime == "onnx" and setting.precision != "fp32":
            raise ModelError(f"--precision {setting.precision} is not offered for --runtime onnx; use fp32")
        predictor: Predictor
        if setting.runtime == "openvino":
            size = (setting.batch_size, self.card.n_inputs, *setting.patch_zyx)
            predictor = compile_openvino(str(self._path), size, setting)
        else:
            predictor = _Onnx(_session(str(self._path)), setting)
        check_shape(predictor, setting, self.card)
        return predictor


class _Onnx:
    def __init__(self, session: Any, setting: ForwardSetting) -> None:
        self._session, self._device = session, setting.device
        self._input, self._output = session.get_inputs()[0].name, session.get_outputs()[0].name

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        try:
            (out,) = self._session.run([self._output], {self._input: batch.cpu().contiguous().numpy()})
        except Exception as error:  # as in _session
            raise RuntimeError(str(error).splitlines()[0]) from error
        return torch.from_numpy(out).float().to(self._device)


def _session(path: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"{path} needs the extra 'onnx': pip install 'voxweft[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one core a call; the lanes make use of the others
    options.log_severity_level = 3
    wanted = [
        p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in onnxruntime.get_available_providers()
    ]
    try:
        return onnxruntime.InferenceSession(path, options, providers=wanted)
    except Exception as error:  # onnxruntime's exceptions share no base class that it exports
        raise ModelError(f"{path} cannot be read as ONNX: {str(error).splitlines()[0][:200]}") from error


def _window(meta: dict[str, str], path: Path) -> tuple[Normalization, ...] | None:
    if "window_level" not in meta or "window_width" not in meta:
        return None
    try:
        level, width = float(meta["window_level"]), float(meta["window_width"])
    except ValueError as error:
        raise ModelError(f"{path}: its window_level and window_width are no numbers: {error}") from error
    low = level - width / 2
    return (Normalization("ct", mean=low, std=width, lower=low, upper=low + width),)


def _names(meta: dict[str, str]) -> tuple[str, ...] | None:
    try:
        names = json.loads(meta.get("class_names", "null"))
    except ValueError:
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None
