"""Settings of a network: opened, timed with all cores at work, held against each other; remembered."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from voxweft.built import built, keep, kept, named
from voxweft.engine.forward import cores_each
from voxweft.engine.samples import Samples
from voxweft.engine.totals import n_cores
from voxweft.model.card import ModelCard
from voxweft.model.head import FIELDS, channel_ranges
from voxweft.model.protocols import ForwardSetting, Model, Predictor
from voxweft.model.ref import decisive
from voxweft.ops.flips import Agreement, compared
from voxweft.processor import processor

if TYPE_CHECKING:
    import torch

EXACT = ("fp32", "tf32")
PACKAGES = ("torch", "openvino", "nncf", "onnxruntime")
LONG_S, ROUNDS, FEW_ROUNDS = 20.0, 4, 2


class Bench:
    """A model and samples of a volume, on one device.

    Parameters
    ----------
    model, samples
        Which network; on what.
    threshold
        Of a probability, for labels and masks.
    rounds
        In which a setting is timed, at most.
    """

    def __init__(self, model: Model, samples: Samples, threshold: float, rounds: int = ROUNDS) -> None:
        self.model, self.samples, self._threshold, self._rounds = model, samples, threshold, rounds
        self._opened: dict[ForwardSetting, Predictor] = {}
        self._speeds: dict[ForwardSetting, float] = {}
        self._networks: dict[str, bytes] = {}

    def open(self, setting: ForwardSetting) -> Predictor:
        """A network made ready; it stays so until :meth:`close_all_but`."""
        if setting not in self._opened:
            model: Any = self.model
            network = self._networks.get(setting.network)
            made = model.open(setting) if network is None else model.open_network(setting, network)
            self._opened[setting] = made
        return self._opened[setting]

    def close_all_but(self, *settings: ForwardSetting) -> None:
        """Give up what was opened, but for these."""
        self._opened = {one: made for one, made in self._opened.items() if one in settings}

    def network(self, setting: ForwardSetting) -> bytes:
        """What was made for a setting; nothing for most."""
        return self._networks.get(setting.network, b"")

    def quantized(self, setting: ForwardSetting) -> ForwardSetting:
        """The setting with a network in int8, made from samples of the volume."""
        model: Any = self.model
        exact, samples = replace(setting, precision="fp32"), self.samples

        def make() -> bytes:
            return bytes(model.quantized(exact, [_batch(one, exact.batch_size) for one in samples.calibrating]))

        network = built(self._name("int8", setting, volume=samples.identity), make) if self._lasts else make()
        digest = hashlib.sha256(network).hexdigest()
        self._networks[digest] = network
        return replace(setting, network=digest)

    def speed(self, setting: ForwardSetting) -> float | None:
        """Seconds of a patch in one lane, where they were measured, now or before."""
        if setting not in self._speeds and self._lasts and (record := kept(self._name("speed", setting))):
            self._speeds[setting] = float(json.loads(record))
        return self._speeds.get(setting)

    def measure(self, setting: ForwardSetting, n_patches: int) -> float:
        """The same, measured: the best of all rounds, with all lanes at work; as many as a job has to spare."""
        import torch

        predictor, best_s = self.open(setting), math.inf
        batch = _batch(self.samples.first, setting.batch_size)

        def lane(_: int) -> None:
            with torch.inference_mode():
                predictor(batch)

        with cores_each(setting.device, setting.n_threads), ThreadPoolExecutor(setting.n_lanes) as lanes:
            for n in range(self._rounds):
                start = time.perf_counter()
                list(lanes.map(lane, range(setting.n_lanes)))
                if setting.device != "cpu":
                    torch.cuda.synchronize()
                best_s = min(best_s, (time.perf_counter() - start) / setting.batch_size)
                if best_s * n_patches / setting.n_lanes < LONG_S * max(1, n):
                    break
        self._speeds[setting] = best_s
        if self._lasts:
            keep(self._name("speed", setting), json.dumps(best_s).encode(), renew=True)
        return best_s

    def agreement(self, setting: ForwardSetting, reference: ForwardSetting, patches: Sequence[Any]) -> Agreement:
        """That of the final labels of patches [1, C, *patch] by two settings.

        Only the core of each patch counts, half of it along each axis: the blend is mostly made of it.
        """
        exact = setting.precision in EXACT  # then it is that of rounding, whatever the voxels
        told = {"reference": asdict(reference), "n": len(patches), "threshold": self._threshold}
        volume = "" if exact else self.samples.identity
        name = self._name("agreement", setting, volume=volume, network=setting.network, **told)
        if self._lasts and (record := kept(name)):
            found = json.loads(record)
            return Agreement(**found | {"dice": tuple(found["dice"])})
        card = self.model.card
        with cores_each(setting.device, setting.n_threads):
            pairs = self._pairs(setting, reference, patches)
            exclusive = not card.separate and card.activation == "softmax"
            made = compared(pairs, exclusive=exclusive, threshold=self._threshold)
        if self._lasts:
            keep(name, json.dumps(asdict(made)).encode())
        return made

    def _pairs(
        self, setting: ForwardSetting, reference: ForwardSetting, patches: Sequence[torch.Tensor]
    ) -> Iterator[tuple[Any, Any]]:
        """Probabilities [C, Z, Y, X] of the core of each patch, reference first."""
        both = [(self.open(one), one.batch_size) for one in (reference, setting)]

        def core(one: tuple[Predictor, int], patch: torch.Tensor) -> Any:
            import torch

            with torch.inference_mode():
                logits = one[0](_batch(patch, one[1]))[:1]
                for axis, n in enumerate(logits.shape[2:], start=2):
                    logits = logits.narrow(axis, n // 4, n - 2 * (n // 4))
                return probability(logits, self.model.card)[0].cpu().numpy()

        with ThreadPoolExecutor(min(reference.n_lanes, setting.n_lanes, 2)) as lanes:
            for patch in patches:
                a, b = lanes.map(core, both, (patch, patch))
                yield a, b

    @property
    def _lasts(self) -> bool:
        """Whether what is found out may be kept: the network and the volume are known by their digests."""
        return bool(self.model.card.digest and self.samples.identity)

    def _name(self, kind: str, setting: ForwardSetting, **more: Any) -> str:
        card, device = self.model.card, setting.device.partition(":")[0]
        facts = asdict(replace(setting, device=device, network=""))
        told = {"card": decisive(card), "cores": n_cores(), "processor": _processor(setting.device)}
        return named(kind, *PACKAGES, setting=facts, **told, **more)


def _processor(device: str) -> str:
    if device == "cpu":
        return processor()
    import torch

    return str(torch.cuda.get_device_name(device))


def _batch(patch: torch.Tensor, size: int) -> torch.Tensor:
    """A patch [1, C, ...] so many times over."""
    return patch.expand(size, *patch.shape[1:]).contiguous()


def probability(logits: torch.Tensor, card: ModelCard) -> torch.Tensor:
    """Probabilities of logits [B, C, Z, Y, X]; where heads are outputs of their own, of those that have classes."""
    import torch

    if not card.separate:
        return _activated(logits, card.activation)
    pairs = zip(card.heads, channel_ranges(card.heads), strict=True)
    found = [_activated(logits[:, a:b], head.activation) for head, (a, b) in pairs if head.activation not in FIELDS]
    return torch.cat(found, 1) if found else logits


def _activated(logits: torch.Tensor, activation: str) -> torch.Tensor:
    if activation == "softmax":
        return logits.softmax(dim=1)
    return logits.sigmoid() if activation == "sigmoid" else logits
