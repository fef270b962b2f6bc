"""What a shared archive wants to know of a result: RO-Crate metadata, by the Process Run Crate profile."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

from voxweft.engine.fields import option
from voxweft.engine.part import State
from voxweft.engine.plan import Plan
from voxweft.errors import IncompleteError, RequestError, VolumeError
from voxweft.installed import install_line
from voxweft.remote import is_remote, without_secrets
from voxweft.runner.records import plan_of, settings_of, time_of
from voxweft.stores import open_sink
from voxweft.stores.attributes import attributes_of
from voxweft.stores.url import absolute, parent_and_name, records_at
from voxweft.version import __version__

METADATA = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
VERSION = "1.1"  # of RO-Crate, that of the profile
SOFTWARE = "https://pypi.org/project/voxweft/"
ORCID = re.compile(r"(?:https?://orcid\.org/)?(\d{4}-\d{4}-\d{4}-\d{3}[\dX])$")
SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True, slots=True)
class CrateOptions:
    """What a shared archive is told of a result.

    Raises
    ------
    RequestError
        If a licence is none, or the library is not installed.

    Examples
    --------
    >>> CrateOptions(license="CC-BY-4.0")
    Traceback (most recent call last):
    voxweft.errors.RequestError: --license and --creator are written by --ro-crate; give that too
    """

    title: ClassVar[str] = "For a shared archive"

    ro_crate: bool = option(False, "Write ro-crate-metadata.json into OUTPUT: result, model, input, settings, licence.")
    license: str = option(
        "", "Licence of the result: an SPDX name, such as CC-BY-4.0, or a URL.", names=("--license", "--licence")
    )
    creator: tuple[str, ...] = option((), "Who made it, once for each: a name, an ORCID, or both: 'Ada L. 0000-...'.")

    def __post_init__(self) -> None:
        problems = []
        if (self.license or self.creator) and not self.ro_crate:
            problems.append("--license and --creator are written by --ro-crate; give that too")
        if self.license and "://" not in self.license and not SPDX.fullmatch(self.license):
            problems.append(f"--license {self.license!r} is no SPDX name and no URL; CC-BY-4.0 is one")
        if any(not who.strip() for who in self.creator):
            problems.append("--creator is empty; give a name or an ORCID")
        if self.ro_crate and find_spec("rocrate") is None:
            problems.append(f"--ro-crate needs the extra 'crate': {install_line('crate')}")
        if problems:
            raise RequestError(*problems)
        if self.ro_crate:
            time_of(0)  # refuses a SOURCE_DATE_EPOCH that is none


def save_crate(output: str, options: CrateOptions, picture: str = "") -> str:
    """Describe a complete output to a shared archive.

        out.zarr/ro-crate-metadata.json     result, model, input, software, action, settings
        out.zarr/ro-crate/plan.json         enough for ``voxweft run --plan out.zarr/ro-crate/plan.json``
        out.zarr/ro-crate/report.json       times, versions, hardware

    Of a picture they lie beside it: ``NAME-ro-crate-metadata.json``, ``NAME-ro-crate/...``. Users, passwords and
    signatures are cut from all URLs. Times are those of the run, or SOURCE_DATE_EPOCH where it is set.

    Parameters
    ----------
    output
        URL of what a run wrote, local or s3://.
    options
        Licence and creators.
    picture
        The picture that was made of it, if that is the result.

    Returns
    -------
    str
        Where the metadata lie.

    Raises
    ------
    IncompleteError
        If the output is not complete.
    """
    plan, ledger = plan_of(open_sink(output))
    report = ledger.report()
    if report.get("status") != State.COMPLETE:
        raise IncompleteError(f"{output} is not complete; run the same command again, then with --ro-crate")
    folder, name = parent_and_name(picture) if picture else (output.rstrip("/"), "")
    stem = f"{name.rpartition('.')[0]}-" if picture else ""
    parts = {
        f"{stem}ro-crate/plan.json": ("What decides the result; voxweft run --plan repeats it", plan.to_json()),
        f"{stem}ro-crate/report.json": ("What the run was and did", json.dumps(report, indent=1).encode()),
    }
    about = _About(plan, report, _started(output, report), options, picture or output)
    described = about.crate({key: text for key, (text, _) in parts.items()}, name)
    place = records_at(folder)
    for key, (_, data) in parts.items():
        place.put(key, without_secrets(data.decode()).encode())
    place.put(f"{stem}{METADATA}", json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False).encode())
    return f"{folder or '.'}/{stem}{METADATA}"


def _started(output: str, report: Mapping[str, Any]) -> str:
    """When the run began that made an output, or its last call where it does not say."""
    try:
        said = attributes_of(output).get("voxweft", {}).get("started_at")
    except VolumeError:
        said = None
    return time_of(said or float(report["ended_at"]) - float(report["elapsed_s"]))


@dataclass(frozen=True, slots=True)
class _About:
    """All that is told, and the graph of it."""

    plan: Plan
    report: Mapping[str, Any]
    started: str
    options: CrateOptions
    result: str

    def crate(self, parts: Mapping[str, str], picture: str) -> dict[str, Any]:
        """The graph; ``parts``: the files beside the result and what they are."""
        from rocrate.rocrate import ROCrate

        crate, ended = ROCrate(version=VERSION), time_of(float(self.report["ended_at"]))
        root = crate.root_dataset
        name = self.result.rstrip("/").rpartition("/")[2]
        root["name"], root["description"], root["datePublished"] = name, self._description(), ended
        root["conformsTo"] = _entity(crate, PROFILE, "CreativeWork", name="Process Run Crate", version="0.5")
        if self.options.license:
            root["license"] = self._license(crate)
        creators = [_person(crate, who, n) for n, who in enumerate(self.options.creator, 1)]
        if creators:
            root["creator"] = creators
        for key, text in parts.items():
            _file(crate, key, name=key.rpartition("/")[2], description=text, encodingFormat="application/json")
        result = root
        if picture:
            kind = "image/png" if picture.endswith(".png") else "image/tiff"
            result = _file(crate, picture, name=picture, description=self._description(), encodingFormat=kind)
        root["mentions"] = self._action(crate, result, creators, ended)
        return dict(crate.metadata.generate())

    def _action(self, crate: Any, result: Any, creators: list[Any], ended: str) -> Any:
        app = self.plan.request.app
        software = _entity(
            crate,
            SOFTWARE,
            "SoftwareApplication",
            name="voxweft",
            version=__version__,
            softwareVersion=self.report.get("environment", {}).get("voxweft", __version__),
            url=SOFTWARE,
        )
        used = [*self._inputs(crate), *self._models(crate), *self._settings(crate)]
        action = crate.add_action(
            software,
            identifier="#run",
            object=used,
            result=result,
            properties={
                "name": f"voxweft {app}",
                "description": without_secrets(str(self.report.get("command") or f"voxweft {app}")),
                "identifier": self.plan.digest,
                "startTime": self.started,
                "endTime": ended,
                "actionStatus": "http://schema.org/CompletedActionStatus",
            },
        )
        if creators:
            action["agent"] = creators
        return action

    def _description(self) -> str:
        spec = next((o.spec for s in self.plan.stages for o in s.outputs if o.spec), None)
        shape = " x ".join(str(n) for n in spec.shape_zyx if n > 1) + f", {spec.dtype}" if spec else ""
        what = settings_of(self.plan).get("output", "result")
        return f"{what} of voxweft {self.plan.request.app}, {shape}".rstrip(", ")

    def _license(self, crate: Any) -> Any:
        said = self.options.license
        url = said if "://" in said else f"https://spdx.org/licenses/{said}"
        return _entity(crate, url, "CreativeWork", name=said, url=url)

    def _inputs(self, crate: Any) -> Iterable[Any]:
        for one in self.plan.inputs:
            url, facts = without_secrets(one.ref.url), {"encodingFormat": getattr(one.ref, "opener", "") or "volume"}
            yield _lying(crate, url, one.name, identifier=f"fingerprint:{one.fingerprint}", **facts)

    def _models(self, crate: Any) -> Iterable[Any]:
        for n, ref in enumerate(self.plan.models):
            url = without_secrets(ref.url)
            yield _lying(crate, url, f"model-{n}", identifier=f"sha256:{ref.digest}", encodingFormat=ref.card.format)

    def _settings(self, crate: Any) -> Iterable[Any]:
        for name, value in settings_of(self.plan).items():
            text = value if isinstance(value, (str, int, float)) else json.dumps(value)
            shown = without_secrets(text) if isinstance(text, str) else text
            yield _entity(crate, f"#setting-{name}", "PropertyValue", name=name, value=shown)


def _entity(crate: Any, key: str, kind: str, /, **properties: Any) -> Any:
    from rocrate.model import ContextEntity

    return crate.add(ContextEntity(crate, key, properties={"@type": kind, **properties}))


def _lying(crate: Any, url: str, name: str, /, **properties: Any) -> Any:
    """Something that was used, called by its URL where it has one that others can reach."""
    known = is_remote(url) or url.startswith("hf://")
    base = url.rstrip("/").rpartition("/")[2] or name
    place = url if "://" in url else f"file://{absolute(url)}"
    return _entity(crate, url if known else f"#{name}", "CreativeWork", name=base, url=place, **properties)


def _file(crate: Any, key: str, /, **properties: Any) -> Any:
    from rocrate.model import File

    return crate.add(File(crate, dest_path=key, properties=properties))


def _person(crate: Any, who: str, n: int) -> Any:
    """A person by ORCID, by name, or by both; ``n`` tells those without ORCID apart."""
    found = ORCID.search(who.strip())
    name = who.strip()[: found.start()].strip(" ,<(") if found else who.strip()
    if not found:
        return _entity(crate, f"#person-{n}", "Person", name=name)
    return _entity(crate, f"https://orcid.org/{found[1]}", "Person", name=name or found[1])
