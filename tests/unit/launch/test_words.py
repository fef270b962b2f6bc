"""Words reach voxweft as they were given, whatever is in them."""

from __future__ import annotations

import re
import subprocess
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from voxweft.launch.pods import literal
from voxweft.launch.slurm import TASK, SlurmOptions, script
from voxweft.launch.steps import PART, Step

WORDS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), max_size=5)


@settings(max_examples=40)
@given(WORDS)
def test_a_batch_script_gives_its_words_to_the_program(words: Any) -> None:
    step = Step("parts", (*words, PART), 3)
    text = script(step, SlurmOptions(), "/tmp", ("printf", r"%s\0"))
    done = subprocess.run(
        ["bash", "-eu"], input=text.encode(), capture_output=True, env={TASK.strip('"$'): "2"}, check=True
    )
    assert done.stdout.decode().split("\0") == [*(w for w in words if w != PART), "2", ""]


@given(st.text())
def test_kubernetes_finds_no_variable_in_a_word(word: Any) -> None:
    shown = re.sub(r"\$\$|\$\([^)]*\)", lambda m: "$" if m[0] == "$$" else "expanded", literal(word))
    assert shown == word
