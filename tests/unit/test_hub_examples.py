"""The configurations that people start from: valid for what reads them, and of one mind with the code."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from nbcontainer.jupyter import join, steward

EXAMPLES = resources.files("nbcontainer.jupyter") / "examples"


@pytest.fixture(scope="module")
def values() -> Any:
    return yaml.safe_load((EXAMPLES / "zero-to-jupyterhub.yaml").read_text())


def complaints(values: Any) -> list[str]:
    """The chart's, without those about what its own values bring along."""
    schema = json.loads(Path(__file__).with_name("z2jh_values_schema.json").read_text())
    errors = jsonschema.Draft7Validator(schema).iter_errors(values)
    return [f"{list(error.absolute_path)}: {error.message}" for error in errors if not (error.validator == "required" and not error.absolute_path)]


def test_the_values_are_the_chart_s(values: Any) -> None:
    assert complaints(values) == []


def test_the_schema_would_complain(values: Any) -> None:
    assert complaints({"singleuser": values["singleuser"] | {"memroy": {"limit": "2G"}}})
    assert complaints({"singleuser": values["singleuser"] | {"memory": {"limit": True}}})


def test_the_pod_s_command_is_one_that_join_understands(values: Any) -> None:
    profiles = [profile["kubespawner_override"] for profile in values["singleuser"]["profileList"]]
    assert profiles[0]["environment"] == {"NBCONTAINER_ENGINE": "vm"}
    command = profiles[1]["cmd"]
    assert command[:4] == ["python3", "-I", "-m", join.__name__]
    assert join.read_words(command[4:]) == join.Request((), True, "jovyan", ("jupyterhub-singleuser",))


@pytest.mark.parametrize("words", [[], ["--"], ["--user", "x"], ["--user", "x", "--"], ["--user"], ["--", "ls"], ["--what", "--user", "x", "--", "ls"]])
def test_what_join_does_not_understand(words: list[str]) -> None:
    with pytest.raises((ValueError, IndexError)):
        join.read_words(words)


@pytest.mark.parametrize(
    "words",
    ["", "--group g --place /p", "--place /p --group g run u s id", "--group g --place /p what u s", "--group g --place /p run u s", "--group g --place /p alive u s more"],
)
def test_what_the_steward_does_not_understand(words: str) -> None:
    with pytest.raises(ValueError, match=r"words|first lines"):
        steward.read_words(words.split())


def test_the_line_of_sudoers_is_what_the_hub_types() -> None:
    line = next(line for line in (EXAMPLES / "sudo_config.py").read_text().splitlines() if "NOPASSWD" in line).split("'")[1]
    allowed = line.partition("NOPASSWD: ")[2].removesuffix(" *").split()
    assert allowed[1:4] == ["-I", "-m", steward.__name__]
    request = steward.read_words([*allowed[4:], "run", "alice", "", "jupyterhub-singleuser", "--port=1"])
    assert request == steward.Request("students", "/jupyterhub", "run", "alice", "", ("jupyterhub-singleuser", "--port=1"))


@pytest.mark.parametrize("name", ["jupyterhub_config.py", "sudo_config.py", "systemd_config.py"])
def test_configurations_compile(name: str) -> None:
    compile((EXAMPLES / name).read_text(), name, "exec")
