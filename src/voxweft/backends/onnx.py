"""ONNX files through onnxruntime, or through OpenVINO where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxweft.backends import openvino
from voxweft.backends.ending import ending_of_onnx, probed
from voxweft.backends.heads import network_input, one_tensor
from voxweft.backends.onnx_file import OnnxFile, read_onnx
from voxweft.backends.runtime import check_shape
from voxweft.backends.sidecar import Sidecar
from voxweft.errors import ModelError, first_line
from voxweft.geometry.box import Zyx
from voxweft.installed import install_line
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.head import Head
from voxweft.model.protocols import ForwardSetting, Predictor

PROBE = 32  # voxels of a side where the network leaves it open


def load(path: Path) -> OnnxModel:
    """Read an ONNX network [B, C, Z, Y, X] -> [B, n_classes, Z, Y, X], or what its ``NAME.json`` says instead.

    Shapes come from the graph; several outputs are heads by their names, softmaxes where they have several channels,
    unless ``NAME.json`` tells otherwise. Of the metadata ``window_level`` and ``window_width`` (Hounsfield units; the
    result is scaled to 0..1) and ``class_names`` are understood; ``NAME.json`` adds what else is needed.

    Raises
    ------
    ModelError
        If onnxruntime is not installed, the file is damaged, or the network has other dimensions than it should.
    """
    file, session = read_onnx(path), _session(str(path))
    if not session.get_inputs() or not session.get_outputs():
        raise ModelError(f"{path} is a graph without inputs or outputs")
    if len(session.get_inputs()) > 1:
        names = ", ".join(node.name for node in session.get_inputs())
        raise ModelError(f"{path} has {len(session.get_inputs())} inputs ({names}); voxweft gives a network one image")
    sidecar, given = Sidecar.beside(path), session.get_inputs()[0]
    sizes, n_axes = _sizes(given), sidecar.n_axes
    outputs = {node.name: _sizes(node) for node in session.get_outputs()}
    if missing := [h.name for h in sidecar.heads if h.name not in outputs]:
        raise ModelError(f"{path} has no output {', '.join(missing)}; its outputs are {', '.join(outputs)}")
    used = [outputs[h.name] for h in sidecar.heads] or list(outputs.values())
    if len(sizes) != n_axes or not sizes[1] or any(len(out) != n_axes or not out[1] for out in used):
        shapes = " and ".join(str(node.shape) for node in session.get_outputs())
        flat = f'; for 2-D images say "dimensions": 2 in {path.stem}.json' if len(sizes) == 4 else ""
        raise ModelError(
            f"{path} takes {given.shape} and gives {shapes}; voxweft run needs {sidecar.axes} for all{flat}"
        )
    meta = session.get_modelmeta().custom_metadata_map
    heads = None if len(outputs) == 1 else tuple(_head(name, out, sizes) for name, out in outputs.items())
    patch = tuple([1] * (5 - n_axes) + sizes[2:])
    ending = _ending(file, session, sizes) if len(outputs) == 1 and not sidecar.heads else ""
    card = sidecar.card(
        path,
        "ONNX",
        ends_in=ending,
        digest=file.digest,
        n_inputs=sizes[1],
        n_classes=sum(h.n_channels for h in heads) if heads else used[0][1],
        heads=heads,
        patch_zyx=patch if all(patch) else None,
        batch_size=sizes[0] or None,
        normalization=_window(meta, path),
        class_names=_names(meta),
        stride_zyx=_stride(meta, path),
        fixed_patch=all(patch),
        input_dtype=_dtype(given) or "float32",
        details={"metadata": dict(meta)},
    )
    kind = _dtype(given)
    if kind is None or (np.dtype(kind).kind in "ui" and any(n.scheme != "none" for n in card.normalization)):
        raise ModelError(f"{path} takes {given.type}, which voxweft cannot give it with this normalization")
    return OnnxModel(card, path, kind)


class OnnxModel:
    """A network in a file, opened anew for each setting."""

    def __init__(self, card: ModelCard, path: Path, dtype: str = "float32") -> None:
        self.card = card
        self._path, self._dtype = path, dtype

    def runtimes(self, device: str) -> tuple[str, ...]:
        """onnxruntime, and OpenVINO on CPUs where it is installed and the network takes float32."""
        both = device == "cpu" and self._dtype == "float32" and openvino.is_here()
        return ("onnx", "openvino") if both else ("onnx",)

    def open(self, setting: ForwardSetting) -> Predictor:
        """Make it ready."""
        if setting.runtime not in ("onnx", "openvino"):
            raise ModelError(f"an ONNX model cannot run on {setting.runtime!r}; use onnx or openvino")
        if setting.runtime == "onnx" and setting.precision != "fp32":
            raise ModelError(f"--precision {setting.precision} is not offered for --runtime onnx; use fp32")
        if setting.runtime == "openvino":
            return self.open_network(setting, self._converted(setting))
        predictor = _Onnx(_session(str(self._path)), setting, self.card, self._dtype)
        check_shape(predictor, setting, self.card)
        return predictor

    def precisions(self, device: str) -> tuple[str, ...]:
        """Precisions that this processor has instructions for, where OpenVINO runs the network."""
        return openvino.precisions() if "openvino" in self.runtimes(device) else ("fp32",)

    def quantized(self, setting: ForwardSetting, samples: Sequence[torch.Tensor]) -> bytes:
        """The network in int8; see :class:`~voxweft.model.protocols.Quantizable`."""
        return openvino.quantized(self._converted(setting), [network_input(s, self.card).numpy() for s in samples])

    def open_network(self, setting: ForwardSetting, network: bytes) -> Predictor:
        """Make a network in OpenVINO's form ready."""
        predictor = _OneOpenVino(openvino.compiled(network, setting), self.card)
        check_shape(predictor, setting, self.card)
        return predictor

    def _converted(self, setting: ForwardSetting) -> bytes:
        size = (setting.batch_size, self.card.n_inputs, *setting.patch_zyx[3 - self.card.n_dimensions :])
        return openvino.converted(lambda: str(self._path), size, self.card.digest)


class _Onnx:
    def __init__(self, session: Any, setting: ForwardSetting, card: ModelCard, dtype: str) -> None:
        self._session, self._device, self._card, self._dtype = session, setting.device, card, np.dtype(dtype)
        self._input = session.get_inputs()[0].name
        self._outputs = [h.name for h in card.heads] or [session.get_outputs()[0].name]

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        voxels = network_input(batch, self._card).cpu().contiguous().numpy()
        if self._dtype.kind in "ui":
            limits = np.iinfo(self._dtype)
            voxels = np.clip(voxels.round(), limits.min, limits.max)
        voxels = voxels.astype(self._dtype, copy=False)
        try:
            found = self._session.run(self._outputs, {self._input: voxels})
        except Exception as error:  # as in _session
            raise RuntimeError(first_line(error)) from error
        maps = [torch.from_numpy(out).float() for out in found]
        z, y, x = batch.shape[2:]
        return one_tensor(maps[0] if len(maps) == 1 else maps, self._card, (z, y, x)).to(self._device)


class _OneOpenVino:
    """Takes and gives what a predictor should, whatever the compiled network does."""

    def __init__(self, compiled: openvino.OpenVino, card: ModelCard) -> None:
        self._compiled, self._card = compiled, card

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        voxels, names = network_input(batch, self._card), [h.name for h in self._card.heads]
        found: Any = self._compiled.named(voxels, names) if names else self._compiled(voxels)
        z, y, x = batch.shape[2:]
        return one_tensor(found, self._card, (z, y, x))


def _session(path: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"{path} needs the extra 'onnx': {install_line('onnx')}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one core a call; the lanes make use of the others
    options.log_severity_level = 3
    wanted = [
        p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in onnxruntime.get_available_providers()
    ]
    try:
        return onnxruntime.InferenceSession(path, options, providers=wanted)
    except Exception as error:  # onnxruntime's exceptions share no base class that it exports
        raise ModelError(f"{path} cannot be read as ONNX: {first_line(error)}") from error


def _dtype(node: Any) -> str | None:
    """The numpy dtype of an input; None for what no image is."""
    name = str(node.type).removeprefix("tensor(").removesuffix(")")
    known = {"float": "float32", "double": "float64", "float16": "float16"}
    return known.get(name) or (name if name in ("uint8", "uint16", "int8", "int16", "int32") else None)


def _sizes(node: Any) -> list[int]:
    """Sizes of an input or output; 0 where one is dynamic."""
    return [n if isinstance(n, int) else 0 for n in node.shape]


def _head(name: str, out: list[int], given: list[int]) -> Head:
    """A head from an output [B, C, ...]; its scale from the sizes, 1 where they are dynamic."""
    scale = [max(1, a // b) if a and b else 1 for a, b in zip(given[2:], out[2:], strict=True)]
    z, y, x = [1] * (5 - len(out)) + scale
    return Head(name, out[1], "sigmoid" if out[1] == 1 else "softmax", (z, y, x))


def _ending(file: OnnxFile, session: Any, sizes: list[int]) -> str:
    """The activation that the only output ends in, or ""."""
    given, name = session.get_inputs()[0], session.get_outputs()[0].name
    dtype = np.dtype(_dtype(given) or "float32")

    def run(noise: torch.Tensor) -> torch.Tensor:
        values = noise.numpy() if dtype.kind == "f" else noise.numpy().clip(0) * 60
        return torch.from_numpy(session.run([name], {given.name: values.astype(dtype)})[0]).float()

    found = ending_of_onnx(file.endings.get(name, ("", None)), len(sizes))
    return probed(run, [n or PROBE for n in sizes]) if found is None else found


def _window(meta: dict[str, str], path: Path) -> tuple[Normalization, ...] | None:
    if "window_level" not in meta or "window_width" not in meta:
        return None
    try:
        level, width = float(meta["window_level"]), float(meta["window_width"])
    except ValueError as error:
        raise ModelError(f"{path}: its window_level and window_width are no numbers: {first_line(error)}") from error
    low = level - width / 2
    return (Normalization("ct", mean=low, std=width, lower=low, upper=low + width),)


def _stride(meta: dict[str, str], path: Path) -> Zyx | None:
    """``patch_stride`` of the ``inference_config`` that itk_infer reads; None where there is none."""
    try:
        found = json.loads(meta.get("inference_config", "{}")).get("patch_stride")
    except (ValueError, AttributeError):
        return None
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(n, int) and n > 0 for n in found):
        raise ModelError(
            f"{path}: the patch_stride of its inference_config is {found!r:.60}; three integers are wanted"
        )
    z, y, x = found
    return z, y, x


def _names(meta: dict[str, str]) -> tuple[str, ...] | None:
    try:
        names = json.loads(meta.get("class_names", "null"))
    except ValueError:
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None
