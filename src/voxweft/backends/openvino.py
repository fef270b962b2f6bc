"""Networks on a CPU by OpenVINO: converted once and kept, in float32, bfloat16, or quantised to int8.

    torch module, ONNX file --convert--> Network --quantise on patches--> Network      (slow; kept by digest)
                                            |                               |
                                            +-----------compile-------------+--> OpenVino, a predictor

A :class:`Network` is OpenVINO's own form of a network, as bytes: what it computes, without a processor.
"""

from __future__ import annotations

import io
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from voxweft.backends.heads import OneTensor
from voxweft.built import built, named
from voxweft.errors import ModelError, first_line
from voxweft.installed import install_line
from voxweft.model.protocols import ForwardSetting
from voxweft.processor import lacks

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
PARTS = ("network.xml", "network.bin")
LONG_AGO = (1980, 1, 1, 0, 0, 0)
MEMBERS = "member"  # of a zip: the networks of an ensemble, each by itself


def is_here() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def precisions() -> tuple[str, ...]:
    """What it is to run on this processor with the packages that are installed."""
    wanted = ("fp32", "bf16", *(("int8",) if find_spec("nncf") else ()))
    return tuple(one for one in wanted if not lacks(one)) if is_here() else ()


def converted(source: Callable[[], Any], size: tuple[int, ...], digest: str) -> bytes:
    """A network in OpenVINO's form, its input fixed to ``size``; from the cache where it was converted before.

    Parameters
    ----------
    source
        Gives an exported program, or the path of an ONNX file.
    size
        [B, C, ...], as the network takes it.
    digest
        All that decides what the network computes; "": it is not kept.

    Raises
    ------
    ModelError
        If OpenVINO is not installed or cannot convert the network.
    """

    def convert() -> bytes:
        try:
            import openvino
        except ImportError as error:
            raise ModelError(f"--runtime openvino needs the extra 'openvino': {install_line('openvino')}") from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the converters warn of their own deprecations
                model = openvino.convert_model(source())
            model.reshape(list(size))
            return _packed(model)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"OpenVINO cannot run this network: {first_line(error)}") from error

    return built(named("openvino", "openvino", "torch", digest=digest, size=size), convert) if digest else convert()


def program_of(module: OneTensor, size: tuple[int, ...]) -> Any:
    """A torch module as an exported program."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(module, (torch.zeros(size),))


def quantized(network: bytes, samples: Sequence[Any]) -> bytes:
    """A network whose convolutions work on int8; ranges are taken from ``samples``, arrays as the network takes them.

    Post-training quantisation by NNCF, with ranges from histograms: three times as long to make as from extremes, and
    a third fewer voxels change. The same samples give the same network.

    Raises
    ------
    ModelError
        If NNCF is not installed, or cannot quantise it.
    """
    try:
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    except ImportError as error:
        raise ModelError(f"--precision int8 needs the extra 'int8': {install_line('int8')}") from error
    nncf.set_log_level(40)  # errors only
    ranges = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
    )
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # it shows bars
            warnings.simplefilter("ignore")
            model = nncf.quantize(
                _unpacked(network),
                nncf.Dataset(samples),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(samples),
                advanced_parameters=ranges,
            )
        return _packed(model)
    except Exception as error:  # its errors share no other base class
        raise ModelError(f"this network cannot be quantised: {first_line(error)}") from error


def compiled(network: bytes, setting: ForwardSetting) -> OpenVino:
    """A network made ready for this processor.

    Raises
    ------
    ModelError
        If it cannot be, or the bytes are no network of this OpenVINO.
    """
    try:
        import openvino
    except ImportError as error:
        raise ModelError(f"--runtime openvino needs the extra 'openvino': {install_line('openvino')}") from error
    config: dict[str, Any] = {
        "NUM_STREAMS": setting.n_lanes,
        "INFERENCE_NUM_THREADS": setting.n_lanes * setting.n_threads,
        "INFERENCE_PRECISION_HINT": HINTS[setting.precision],
        "ENABLE_CPU_PINNING": False,  # two processes that pin would share one core
    }
    try:
        return OpenVino(openvino.Core().compile_model(_unpacked(network), "CPU", config))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"OpenVINO cannot run this network: {first_line(error)}") from error


class OpenVino:
    """A compiled network; called, it gives its first output, and :meth:`named` those that are asked for."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._own = threading.local()  # a request is not to be shared between threads

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """The first output."""
        return torch.from_numpy(self._infer(batch)[0])

    def named(self, batch: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Several outputs, by their names."""
        out = self._infer(batch)
        return {name: torch.from_numpy(out[name]) for name in names}

    def _infer(self, batch: torch.Tensor) -> Any:
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        return self._own.request.infer([batch.contiguous().numpy()], share_inputs=True, share_outputs=False)


def joined(networks: Sequence[bytes]) -> bytes:
    """Several networks, those of an ensemble, as one byte string; the same ones give the same bytes."""
    return _zip({f"{MEMBERS}-{n}": network for n, network in enumerate(networks)})


def members(networks: bytes) -> list[bytes]:
    """The networks that :func:`joined` put together.

    Raises
    ------
    ModelError
        If the bytes are something else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(networks)) as file:
            return [file.read(name) for name in file.namelist()]
    except zipfile.BadZipFile as error:
        raise ModelError(f"these are no quantised networks: {first_line(error)}") from error


def _packed(model: Any) -> bytes:
    import openvino

    model.set_friendly_name("network")
    for n, operation in enumerate(model.get_ordered_ops()):  # numbered by a counter of the process otherwise
        operation.set_friendly_name(f"{operation.get_type_name()}-{n}")
    with tempfile.TemporaryDirectory() as folder:
        xml, weights = (Path(folder) / name for name in PARTS)
        openvino.save_model(model, xml, compress_to_fp16=False)
        return _zip({path.name: path.read_bytes() for path in (xml, weights)})


def _unpacked(network: bytes) -> Any:
    import openvino

    try:
        with zipfile.ZipFile(io.BytesIO(network)) as file:
            xml, weights = (file.read(name) for name in PARTS)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"this is no network in OpenVINO's form: {first_line(error)}") from error
    return openvino.Core().read_model(xml, weights)


def _zip(files: dict[str, bytes]) -> bytes:
    """Files in a zip, uncompressed, without the time of day."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in files.items():
            file.writestr(zipfile.ZipInfo(name, LONG_AGO), data)
    return out.getvalue()
