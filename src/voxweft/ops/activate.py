"""From blended logits to what is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError

if TYPE_CHECKING:
    import torch

MODES = ("binary", "multiclass")
OUTPUTS = (
    "probability",
    "probability16",
    "probability32",
    "mask",
    "labels",
    "logits",
    "probability_and_label",
    "merged",
    "entropy",
    "entropy8",
    "variance",
    "deviation8",
    "patches",
    "normals",
    "normals16",
    "raw",
)
DEFAULT_THRESHOLD = 0.5
FAR = -100.0  # logit of a class that is absent
KEPT = ("logits", "merged")  # outputs that are logits themselves
TINY = np.float32(1e-30)
FARTHEST = np.float32(80.0)  # distance between logits that matters; exp(-80) is 0 beside 1, and still a normal number
FLOAT = ("probability32", "entropy", "variance")
UNCERTAIN = ("entropy", "entropy8", "variance", "deviation8")  # of one channel, whatever the classes
OVER_PASSES = ("variance", "deviation8")
VALUES = ("normals", "normals16", "raw")  # of maps that are no classes
DTYPES = {
    "logits": "float32", "merged": "float16", "normals": "int8", "normals16": "float16", "probability16": "uint16",
    "raw": "float32", **dict.fromkeys(FLOAT, "float32"),
}  # fmt: skip
SHORTEST = np.float32(1e-6)  # of a vector that has a direction
UNIT = 127  # length one, in int8


@dataclass(frozen=True, slots=True)
class Finish:
    """How blended logits become the output.

    ==========  =====================  ==============================================  =============
    mode        output                 value                                           channels
    ==========  =====================  ==============================================  =============
    binary      probability            floor(255 p) of the foreground                  1
    binary      probability16          floor(65535 p) of the foreground, uint16        1
    binary      mask                   255 where p > threshold, else 0                 1
    binary      labels                 1 where p > threshold, else 0                   1
    multiclass  probability            floor(255 p) of every class                     n_classes
    multiclass  probability16          floor(65535 p) of every class, uint16           n_classes
    multiclass  labels                 index of the largest (the first of equals)      1
    multiclass  mask                   255 where that index is not 0                   1
    multiclass  mask, of sigmoids      255 where p > threshold, for every class        n_classes
    multiclass  labels, of sigmoids    label of the last class where p > threshold     1
    multiclass  probability_and_label  floor(255 p) of every class, then that index    n_classes + 1
    any         probability32          p of every class, float32                       n_classes
    any         entropy                -sum p log p / log n_classes, float32           1
    any         entropy8               the same, uint8: round(255 times it)            1
    any         variance               of p over passes, of the class where it varies  1
                                       most, float32
    any         deviation8             round(510 times its square root), uint8         1
    any         logits                 the blended logits, float32                     n_classes
    any         merged                 the same in float16, 0 where no patch ran       n_classes
    any         patches                nothing: every patch is kept by itself          0
    any         normals                round(127 v / |v|), int8; 0 where |v| < 1e-6    3
    any         normals16              v / |v|, float16                                3
    any         raw                    what the network gives, blended, float32        n_classes
    ==========  =====================  ==============================================  =============

    Softmax and argmax of a linear blend need only the differences to class 0, so ``n_accumulated`` is one less than the
    number of classes where the activation is "softmax" and the logits themselves are not asked for.

    Attributes
    ----------
    mode, output, activation
        As in the table; "softmax", "sigmoid" (each channel by itself), "none" (the network gives probabilities), or
        "normals" and "raw", which are no classes.
    n_classes
        Output channels of the network.
    threshold
        Probability.
    targets
        Of a network with several tasks: first channel and end of each. One binary output channel a task: a sigmoid for
        one channel, else class 1 of the softmax over its channels.
    label_ids
        Of sigmoids, which may overlap: the label of each class, the later written over the earlier; a voxel where none
        is over the threshold is 0. Empty: 1, 2, 3 and so on.
    whole
        Whether logits are accumulated though differences would do, since another output needs them.
    pass_weights
        Weights of passes that are blended apart, summing to one; empty: their logits are blended in one sum.
    average
        What of passes that are blended apart is averaged: "logits" or "probabilities"; "maximum": the largest
        probability of any pass is taken.
    channels
        The first and the end of the channels that this output is made of, where the network has several heads and each
        of them an output of its own; all else is said of these channels alone, but for n_classes. None: all of them.

    Raises
    ------
    RequestError
        If mode, output and model do not fit each other.
    """

    mode: str
    output: str
    n_classes: int
    activation: str = "softmax"
    threshold: float = 0.5
    targets: tuple[tuple[int, int], ...] = ()
    label_ids: tuple[int, ...] = ()
    whole: bool = False
    pass_weights: tuple[float, ...] = ()
    average: str = "logits"
    channels: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.channels:
            _ = self.own  # is checked
            return
        if self.mode not in MODES:
            raise RequestError(f"--mode {self.mode!r} is unknown; use {' or '.join(MODES)}")
        if self.output not in OUTPUTS:
            raise RequestError(f"--output {self.output!r} is unknown; use one of {', '.join(OUTPUTS)}")
        if not 0 < self.threshold < 1:
            raise RequestError(f"--threshold {self.threshold} is no probability; use a number between 0 and 1")
        if self.targets or self.output in VALUES:
            return
        if self.mode == "binary" and self.n_classes > 2:
            raise RequestError(f"--mode binary with a model of {self.n_classes} classes; use --mode multiclass")
        if self.output in OVER_PASSES and not self.pass_weights:
            raise RequestError("a variance is that of several passes; take more views, or an ensemble of models")
        if self.mode == "multiclass" and self.n_classes < 2:
            raise RequestError("--mode multiclass with a model of one class; use --mode binary")
        if self.mode == "multiclass" and self.threshold != DEFAULT_THRESHOLD and not self.overlapping:
            raise RequestError(
                f"--threshold {self.threshold} has no meaning for classes that exclude each other: the largest wins",
                "Leave it out, or take --output probability.",
            )
        if self.average == "maximum" and self.activation == "softmax":
            raise RequestError("the largest probabilities of passes are none of a softmax; take their mean")
        if self.n_classes == 1 and self.activation == "softmax":
            raise RequestError("a softmax over one class is always 1; the model's card should say 'sigmoid'")

    @property
    def own(self) -> Finish:
        """What becomes of its channels, as if the network had no others."""
        a, b = self.channels or (0, self.n_classes)
        return replace(self, channels=None, n_classes=b - a, whole=True)

    @property
    def overlapping(self) -> bool:
        """Whether a voxel may be of several classes: sigmoids."""
        return self.mode == "multiclass" and self.activation == "sigmoid"

    @property
    def differences(self) -> bool:
        """Whether differences to class 0 are accumulated instead of the logits."""
        return (
            not self.channels
            and self.activation == "softmax"
            and self.output not in KEPT
            and not self.targets
            and not self.whole
        )

    @property
    def n_accumulated(self) -> int:
        """Channels of the accumulator."""
        if self.output == "patches":
            return 0
        n = self.n_classes - 1 if self.differences else self.n_classes
        return n * max(1, len(self.pass_weights))

    @property
    def n_channels(self) -> int:
        """Channels of the output."""
        if self.channels:
            return self.own.n_channels
        if self.output in ("patches", *VALUES):
            return 0 if self.output == "patches" else self.n_classes
        if self.targets and self.output not in KEPT:
            return len(self.targets)
        if self.output in UNCERTAIN:
            return 1
        if self.output == "probability_and_label":
            return self.n_classes + 1
        several = self.mode == "multiclass" and (self.output.startswith("probability") or self.overlapping)
        many = self.output in (*KEPT, "probability32") or (
            several and self.output in ("probability", "probability16", "mask")
        )
        return self.n_classes if many else 1

    @property
    def dtype(self) -> str:
        """The output's numpy dtype."""
        if self.channels:
            return self.own.dtype
        if self.output in DTYPES:
            return DTYPES[self.output]
        if self.output in ("labels", "probability_and_label") and self.mode == "multiclass":
            return str(np.min_scalar_type(self.largest_label))
        return "uint8"

    @property
    def is_label(self) -> bool:
        """Whether the output is one label a voxel: a class, or foreground and background."""
        return self.output == "labels" or (self.output == "mask" and self.n_channels == 1)

    @property
    def largest_label(self) -> int:
        """The largest value of labels."""
        return max(self.ids) if self.overlapping else max(1, self.n_classes - 1)

    @property
    def ids(self) -> tuple[int, ...]:
        """Of sigmoids, the label of each class."""
        return self.label_ids or tuple(range(1, self.n_classes + 1))

    @property
    def background(self) -> tuple[float, ...]:
        """The logits of background: class 0 of a softmax is certain, everything else absent."""
        if self.channels:
            return self.own.background
        groups = self.targets or (((0, self.n_classes),) if self.activation == "softmax" else ())
        first = {a for a, b in groups if b - a > 1}
        return tuple(0.0 if c in first else FAR for c in range(self.n_classes))

    @property
    def logit_threshold(self) -> float:
        """The threshold on the accumulated scale."""
        return self.threshold if self.activation == "none" else math.log(self.threshold / (1 - self.threshold))

    def __call__(self, blended: torch.Tensor) -> NDArray[Any]:  # noqa: PLR0911 - one for each row of the table
        """The output [n_channels, Z, Y, X] of accumulated logits float32 [n_accumulated, Z, Y, X] on the CPU.

        See :mod:`voxweft.ops.activate_device` for those on an accelerator.

        Each voxel depends on nothing but its own logits, to the bit. NaN comes out as NaN (logits) or is refused by the
        caller, who checks before.
        """
        if self.channels:
            return self.own(self._sliced(blended))
        if self.pass_weights or self.output in VALUES:
            return self._of_passes(blended) if self.pass_weights else _values(blended.numpy(), self.output)
        logits = blended.numpy()
        if self.output in KEPT:
            return to_half(logits) if self.output == "merged" else logits.copy()
        if self.output == "probability32" or self.output in UNCERTAIN:
            return self._probabilities(logits) if self.output == "probability32" else self._entropy(logits)
        if self.targets:
            return np.concatenate([self._of_target(logits[a:b]) for a, b in self.targets])
        foreground = logits[-1:]  # of two classes the second, of one the only
        if self.whole and self.activation == "softmax" and self.mode == "binary":
            foreground = logits[1:] - logits[:1]
        if self.mode == "binary":
            if self.output in ("probability", "probability16"):
                return _quantize(self._probability(foreground), self.dtype)
            return _mask(foreground > self.logit_threshold, 255 if self.output == "mask" else 1)
        if self.output in ("probability", "probability16"):
            return _quantize(self._probabilities(logits), self.dtype)
        over = logits > self.logit_threshold if self.overlapping else None
        if over is not None and self.output == "mask":
            return _mask(over, 255)
        labels = _argmax(logits, self.differences).astype(self.dtype) if over is None else self._last_over(over)
        if self.output == "probability_and_label":
            return np.concatenate([_quantize(self._probabilities(logits)).astype(self.dtype), labels])
        return _mask(labels != 0, 255) if self.output == "mask" else labels

    def _sliced(self, blended: torch.Tensor) -> torch.Tensor:
        """Its channels, of each pass where they are blended apart."""
        groups = blended.reshape(-1, self.n_classes, *blended.shape[1:])
        return groups[:, slice(*(self.channels or (None, None)))].flatten(0, 1)

    def _of_passes(self, blended: torch.Tensor) -> NDArray[Any]:
        """The output of passes that were blended apart, of [n_passes x channels, Z, Y, X]."""
        import torch

        one = replace(self, pass_weights=(), output="labels" if self.output in OVER_PASSES else self.output)
        groups = blended.reshape(len(self.pass_weights), -1, *blended.shape[1:]).numpy()
        weights = [np.float32(w) for w in self.pass_weights]
        if self.output not in OVER_PASSES and (self.average == "logits" or self.output in (*KEPT, *VALUES)):
            return one(torch.from_numpy(_weighted(groups, weights)))
        p = [one._probabilities(group.copy()) for group in groups]
        mean = np.maximum.reduce(p) if self.average == "maximum" else _weighted(p, weights)
        if self.output in OVER_PASSES:
            variance = np.asarray(_weighted([(each - mean) ** 2 for each in p], weights).max(axis=0, keepdims=True))
            return variance if self.output == "variance" else _rounded(np.sqrt(variance), 510)
        if self.activation == "none":
            return one(torch.from_numpy(mean))
        logits = np.log(np.maximum(mean, TINY))  # of a softmax, or of sigmoids, they give these probabilities again
        if self.activation == "sigmoid":
            logits -= np.log(np.maximum(1 - mean, TINY))
        return one(torch.from_numpy(logits[1:] - logits[:1] if one.differences else logits))

    def _of_target(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """One task [1, ...] of its own channels."""
        if len(logits) > 2:
            p = _softmax(logits[1:] - logits[:1])[1:2]
            return _quantize(p) if self.output == "probability" else _mask(p > self.threshold, 255)
        foreground = logits[1:] - logits[:1] if len(logits) == 2 else logits
        return (
            _quantize(_sigmoid(foreground))
            if self.output == "probability"
            else _mask(foreground > self.logit_threshold, 255)
        )

    def _last_over(self, over: NDArray[np.bool_]) -> NDArray[Any]:
        """Labels [1, ...] of classes that may overlap, from where each is over the threshold."""
        labels = np.zeros((1, *over.shape[1:]), self.dtype)
        for channel, label in zip(over, self.ids, strict=True):
            labels[0][channel] = label
        return labels

    def _probabilities(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of every class, of what was accumulated."""
        if self.activation != "softmax":
            return self._probability(x)
        return _softmax(x if self.differences else x[1:] - x[:1])

    def _probability(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return _sigmoid(x) if self.activation != "none" else x.copy()  # what follows works in place

    def _entropy(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """Entropy [1, ...] of what was accumulated, 0 (certain) to 1; of classes that may overlap the mean of all."""
        if self.activation == "softmax":
            differences = x if self.differences else x[1:] - x[:1]
            entropy = _entropy_of_two(differences) if len(differences) == 1 else _entropy_of_many(differences)
        else:
            if self.activation == "none":
                p = np.clip(x, TINY, 1 - np.float32(1e-7))
                x = np.log(p / (1 - p))
            entropy = _entropy_of_two(x)
            entropy = entropy if len(entropy) == 1 else entropy.mean(axis=0, keepdims=True)
        return entropy if self.output == "entropy" else _rounded(entropy, 255)


def _weighted(arrays: Sequence[NDArray[np.float32]] | NDArray[np.float32], weights: Sequence[np.float32]) -> Any:
    """The sum of arrays with weights, one after the other."""
    total = arrays[0] * weights[0]
    for array, weight in zip(arrays[1:], weights[1:], strict=True):
        total += array * weight
    return total


def to_half(logits: NDArray[Any]) -> NDArray[np.float16]:
    """float16; what is larger than it can hold becomes the largest that it holds.

    >>> to_half(np.array([1.0, 1e6], np.float32)).tolist()
    [1.0, 65504.0]
    """
    return np.asarray(np.clip(logits, -65504, 65504), np.float16)


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)); numpy's exp gives the same bits at any place in an array, torch's does not."""
    p = np.negative(x)
    np.minimum(p, 80.0, out=p)
    np.exp(p, out=p)
    p += 1.0
    return np.reciprocal(p, out=p)


def _softmax(differences: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax [C, ...] of [C - 1, ...] differences to class 0."""
    peak = np.maximum(differences.max(axis=0), 0.0)
    p = np.empty((len(differences) + 1, *differences.shape[1:]), np.float32)
    np.negative(peak, out=p[0])
    np.subtract(differences, peak, out=p[1:])
    np.exp(p, out=p)
    total = p[0].copy()
    for channel in p[1:]:
        total += channel
    p /= total
    return p


def _entropy_of_two(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropy in bits of two classes whose logits differ by x: log(1 + e) + |x| e / (1 + e) with e = exp(-|x|)."""
    a = np.abs(x)
    np.minimum(a, FARTHEST, out=a)
    e = np.negative(a)
    np.exp(e, out=e)
    a *= e
    e += 1.0
    a /= e
    np.log(e, out=e)
    a += e
    a *= np.float32(1 / math.log(2))
    return a


def _entropy_of_many(differences: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropy [1, ...] of a softmax over [C - 1, ...] differences to class 0, in units of log C.

    With d the distance of a class to the largest: log(sum exp d) - (sum d exp d) / (sum exp d).
    """
    d = np.empty((len(differences) + 1, *differences.shape[1:]), np.float32)
    d[0] = 0
    d[1:] = differences
    d -= d.max(axis=0)
    np.maximum(d, -FARTHEST, out=d)
    e = np.exp(d)
    d *= e
    total, mean = e[0], d[0]
    for one, weighted in zip(e[1:], d[1:], strict=True):
        total += one
        mean += weighted
    mean /= total
    np.log(total, out=total)
    total -= mean
    total *= np.float32(1 / math.log(len(d)))
    return np.asarray(total[np.newaxis])


def _rounded(x: NDArray[np.float32], top: int) -> NDArray[np.uint8]:
    """The nearest whole number of x times ``top``, at most 255."""
    x *= np.float32(top)
    np.rint(x, out=x)
    return np.minimum(x, np.float32(255), out=x).astype(np.uint8)


def _values(x: NDArray[np.float32], output: str) -> NDArray[Any]:
    """A map that is no class: as it is, or unit vectors [3, ...]; one without a direction is 0."""
    if output == "raw":
        return x.copy()
    length = np.sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2])
    unit = x / np.where(length < SHORTEST, np.float32(np.inf), length)
    return unit.astype(np.float16) if output == "normals16" else np.rint(unit * np.float32(UNIT)).astype(np.int8)


def _argmax(x: NDArray[np.float32], differences: bool) -> NDArray[np.intp]:
    """Index [1, ...] of the largest channel, the first of equals; class 0 is 0 where only differences are given."""
    if not differences:
        return np.asarray(x.argmax(axis=0)[np.newaxis])
    best = x.argmax(axis=0)
    top = np.take_along_axis(x, best[np.newaxis], axis=0)
    return np.asarray(np.where(top > 0.0, best[np.newaxis] + 1, 0))


def _quantize(p: NDArray[np.float32], dtype: str = "uint8") -> NDArray[Any]:
    top = np.float32(np.iinfo(dtype).max)
    return np.multiply(np.clip(p, 0.0, 1.0, out=p), top, out=p).astype(dtype)


def _mask(chosen: NDArray[np.bool_], value: int) -> NDArray[np.uint8]:
    return chosen.view(np.uint8) * np.uint8(value)
