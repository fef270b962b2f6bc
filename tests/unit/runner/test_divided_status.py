"""The parts that status counts right after the work of one was divided further."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import voxweft
from voxweft.engine.attempts import Attempt, attempt
from voxweft.engine.ledger import Ledger
from voxweft.engine.part import Part
from voxweft.engine.totals import Totals


def test_a_divided_part_has_the_units_that_are_left_to_it(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 20, 20), dtype=np.uint8)
    target = tmp_path / "o.zarr"
    voxweft.run(image, target, "fake://null?patch=16,16,16", chunk=(8, 16, 16), prepare=True)
    n_units = voxweft.status(target).n_units
    ledger = Ledger(voxweft.open_sink(target).records)
    part = Part("sweep", 0, 0, range(n_units), "call")
    with attempt(ledger, Attempt.at(part), Totals()):
        assert [one.n_units for one in voxweft.status(target).parts] == [n_units]
        ledger.end_early(part.key, 3)
        rest = Part("sweep", 1, 0, range(3, n_units), "call")
        with attempt(ledger, Attempt.at(rest), Totals()):
            assert [one.n_units for one in voxweft.status(target).parts] == [3, n_units - 3]
