"""The promises of the project's own layout: pins, light imports, files that stand alone."""

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

HOOKS = sorted((ROOT / "hooks" / "claudedo_hooks").rglob("*.py"))


def pins() -> dict[str, str]:
    """Return the pinned version of each package, by its canonical name."""
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def wanted() -> list[Requirement]:
    """Return every requirement of pyproject.toml: to run, to build, to develop."""
    groups = PYPROJECT["dependency-groups"].values()
    texts = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]]
    return [Requirement(text) for text in [*texts, *(one for group in groups for one in group)]]


def imports(file: Path) -> Iterator[str]:
    """Yield the top-level name of everything `file` imports; a relative import yields "."."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else str(node.module).partition(".")[0]


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_a_pin_satisfies_what_pyproject_asks_for(requirement: Requirement) -> None:
    pin = pins()[canonicalize_name(requirement.name)]

    assert requirement.specifier.contains(pin, prereleases=True)


def test_every_requirement_of_the_package_has_a_lower_and_an_upper_bound() -> None:
    loose = [
        text
        for text in PYPROJECT["project"]["dependencies"]
        if not {">=", "<"} <= {bound.operator for bound in Requirement(text).specifier}
    ]

    assert loose == []


def test_the_constraints_pin_each_package_once_and_name_no_registry() -> None:
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]

    assert len(pins()) == len(packages)
    assert [line for line in packages if "/" in line or "@" in line or line.startswith("-")] == []


def test_importing_the_contract_package_costs_nothing() -> None:
    listing = "import json, sys; before = set(sys.modules); import claudedo; "
    listing += "print(json.dumps(sorted(set(sys.modules) - before)))"
    answer = subprocess.run(
        [sys.executable, "-c", listing], check=True, capture_output=True, timeout=60
    )

    assert json.loads(answer.stdout) == ["claudedo"]


@pytest.mark.parametrize("file", HOOKS, ids=lambda file: file.name)
def test_a_file_that_runs_beside_claude_imports_only_the_standard_library(file: Path) -> None:
    assert set(imports(file)) - sys.stdlib_module_names == set()


def test_every_package_promises_its_types() -> None:
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert [name for name in packages if not (ROOT / name / "py.typed").is_file()] == []
