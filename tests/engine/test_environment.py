"""environment.yml and pyproject.toml make the same environment."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())


def pinned() -> dict[str, Version]:
    (pip,) = (entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))
    lines = [line for line in pip if not line.startswith("-e")]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines), "exact versions only"
    return {line.split("==")[0].lower(): Version(line.split("==")[1]) for line in lines}


def required() -> dict[str, Requirement]:
    lines = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    return {(requirement := Requirement(line)).name.lower(): requirement for line in lines}


def test_both_name_the_same_packages():
    assert set(pinned()) == set(required())


def test_every_pinned_version_is_in_its_range():
    for name, requirement in required().items():
        assert requirement.specifier.contains(pinned()[name]), f"{requirement} does not admit {pinned()[name]}"


def test_conda_makes_the_python_and_installs_the_project():
    assert CONDA["name"] == "simclr"
    python = next(line for line in CONDA["dependencies"] if str(line).startswith("python="))
    assert PROJECT["requires-python"] == f">={python.removeprefix('python=')}"
    assert "pip" in CONDA["dependencies"]
    (pip,) = (entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))
    assert "-e ." in pip
