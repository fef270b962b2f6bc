"""The package as a whole."""

from __future__ import annotations

import doctest
import subprocess
import sys

import voxweft


def test_public_names_exist_and_are_few():
    assert len(voxweft.__all__) <= 30
    for name in voxweft.__all__:
        assert getattr(voxweft, name) is not None


def test_import_leaves_heavy_libraries_alone():
    code = "import sys, voxweft; print([m for m in ('torch', 'zarr', 'dask', 'numpy', 'openvino') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_help_fits_a_screen(voxweft):
    text = voxweft("--help").stdout
    assert len(text.splitlines()) <= 40
    for command in ("run", "plan", "info", "verify", "report", "demo"):
        assert command in text


def test_every_option_has_a_help_line():
    from dataclasses import fields

    from voxweft.apps.execute import Execution
    from voxweft.engine.options import RunOptions

    for cls in (RunOptions, Execution):
        for field in fields(cls):
            assert field.name == "command" or len(field.metadata["help"]) > 10


def test_every_public_name_has_an_example_that_runs():
    """The examples themselves are run as doctests of src."""
    finder, parser = doctest.DocTestFinder(parser=doctest.DocTestParser()), doctest.DocTestParser()
    lacking = []
    for name in voxweft.__all__:
        if not name.startswith("__"):
            found = finder.find(getattr(voxweft, name), name, module=False)
            if not any(parser.get_examples(one.docstring or "") for one in found):
                lacking.append(name)
    assert not lacking
