"""Commands and the options classes that they take."""

from __future__ import annotations

import pytest

from voxweft.cli.flags import with_options
from voxweft.engine.options import RunOptions


def test_a_command_without_a_place_for_its_options_is_no_command() -> None:
    with pytest.raises(TypeError, match=r"command\(\) needs parameters options"):

        @with_options(RunOptions)
        def command(source: str) -> None:
            """It would never see them."""
