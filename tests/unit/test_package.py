"""The package as a whole."""

from __future__ import annotations

import doctest
import subprocess
import sys

import voxweft
from conftest import Voxweft


def test_public_names_exist_and_are_few() -> None:
    assert len(voxweft.__all__) <= 30
    for name in voxweft.__all__:
        assert getattr(voxweft, name) is not None


def test_import_leaves_heavy_libraries_alone() -> None:
    code = "import sys, voxweft; print([m for m in ('torch', 'zarr', 'dask', 'numpy', 'openvino') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_commands_start_without_torch_and_zarr() -> None:
    """Localizing, too, needs neither before it reads a volume; torch it never needs."""
    code = "import sys, voxweft.cli.app; print([m for m in ('torch', 'zarr', 'scipy', 'dask') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    code = (
        "import sys, numpy as np; from voxweft.apps.particles.localize import localize_array, Wanted\n"
        "localize_array(np.ones((8, 8, 8), np.uint8), [Wanted('a', 1, 4, 2, 4)]); print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_help_fits_a_screen(voxweft: Voxweft) -> None:
    text = voxweft("--help").stdout
    assert len(text.splitlines()) <= 40
    for command in ("run", "plan", "info", "verify", "report", "demo"):
        assert command in text


def test_every_option_has_a_help_line() -> None:
    from dataclasses import fields

    from voxweft.engine.options import RunOptions
    from voxweft.runner.execution import Execution

    for cls in (RunOptions, Execution):
        for field in fields(cls):
            assert field.name == "command" or len(field.metadata["help"]) > 10


def test_every_public_name_has_an_example() -> None:
    """They are run as doctests of src."""
    find = doctest.DocTestFinder().find
    names = [n for n in voxweft.__all__ if not n.startswith("__")]
    assert [n for n in names if not any(t.examples for t in find(getattr(voxweft, n), n, module=False))] == []
