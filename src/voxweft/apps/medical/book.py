"""What became of the cases of a batch: results, and the ledger that remembers them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxweft.apps.medical.cases import Case
from voxweft.errors import RequestError
from voxweft.model.protocols import ForwardSetting
from voxweft.runner.batch import settled
from voxweft.stores.url import LocalRecords

RECORDS = ".voxweft"  # below the output folder


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of a case.

    Attributes
    ----------
    case, status
        Its name; "done", "skipped" (finished before), "failed", or "waiting" for another part.
    seconds
        From its beginning to its last file.
    message
        Why it failed, or what to know of it.
    files
        Names of its files below the output folder, and their bytes.
    facts
        Labels with their volumes and more, and the confidence; as in ``statistics/NAME.json``.
    """

    case: str
    status: str
    seconds: float = 0.0
    message: str = ""
    files: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class CaseBook:
    """The ledger of a batch: a record a case, which says by what request its files were made, and how long they are.

    Parameters
    ----------
    output
        The folder of the results.
    request
        All that decides them.
    """

    def __init__(self, output: Path, request: str) -> None:
        self._output, self._request = output, request
        self._records = LocalRecords(output / RECORDS)

    def finished(self, case: Case) -> CaseResult | None:
        """The result of a case, where it is complete, of this request and of these very input files."""
        stored = self._stored(case)
        if not stored or stored.get("request") != self._digest or stored.get("stamp") != _plain(case.stamp):
            return None
        files = stored.get("files")
        if not files or any(n_bytes(self._output / name) != n for name, n in files.items()):
            return None
        facts = stored["facts"]
        return CaseResult(case.key, "skipped", stored["seconds"], facts.get("notes", ""), files, facts)

    def begin(self, case: Case) -> None:
        """Note that files of a case may appear."""
        if not self._stored(case):
            self._put(case, {"case": case.key})

    def put(self, case: Case, files: Mapping[str, int], seconds: float, facts: Mapping[str, Any]) -> None:
        """Keep the result of a case."""
        record = {"case": case.key, "request": self._digest, "stamp": _plain(case.stamp)}
        self._put(case, record | {"files": files, "seconds": seconds, "facts": facts})

    def require_ours(self, results: Mapping[str, Case]) -> None:
        """Refuse to write over results that another program left.

        ``results`` are cases by the names of their results.

        Raises
        ------
        RequestError
            Naming them.
        """
        foreign = [n for n, case in results.items() if (self._output / n).exists() and not self._stored(case)]
        if foreign:
            more = f" and {len(foreign) - 1} more" if foreign[1:] else ""
            raise RequestError(
                f"{self._output} already holds {foreign[0]}{more}, which voxweft did not write.",
                "Give another folder, or --overwrite to replace what is there.",
            )

    def settings(self, device: str, decide: Callable[[], Sequence[ForwardSetting]]) -> tuple[ForwardSetting, ...]:
        """How each network is run on a kind of device."""
        return settled(self._records, f"settings/{self._digest[:24]}-{device.partition(':')[0]}.json", decide)

    @property
    def _digest(self) -> str:
        return hashlib.sha256(self._request.encode()).hexdigest()

    def _stored(self, case: Case) -> dict[str, Any]:
        try:
            found = json.loads(self._records.get(self._key(case)) or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _put(self, case: Case, record: Mapping[str, Any]) -> None:
        self._records.put(self._key(case), json.dumps(record).encode())

    def _key(self, case: Case) -> str:
        return f"cases/{hashlib.sha256(case.result.encode()).hexdigest()[:24]}.json"


def n_bytes(path: Path) -> int:
    """Length of a file, or of all files of a folder; -1 where there is none."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size if path.exists() else -1


def _plain(stamp: Any) -> Any:
    return json.loads(json.dumps(stamp))
