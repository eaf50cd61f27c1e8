import os
from pathlib import Path

import pytest
from downloads import TRL, VOCABULARIES, Package

from mlxtune.core.errors import MachineError


def unpacked(package: Package) -> Path:
    """Return a package's folder. If it cannot be downloaded the test skips, except in CI, where it fails."""
    try:
        return package.folder()
    except (MachineError, OSError) as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"A package of the conformance suite is unavailable: {error}")


@pytest.fixture(scope="session", autouse=True)
def templates() -> Path:
    """TRL's chat templates, downloaded from the user's package index once."""
    return unpacked(TRL)


@pytest.fixture(autouse=True)
def template_of_the_case(request: pytest.FixtureRequest) -> None:
    """The template of the base that a case is about, if it is in another package."""
    base = request.node.callspec.params.get("base") if hasattr(request.node, "callspec") else None
    if base and base.package:
        unpacked(base.package)


@pytest.fixture(scope="session")
def vocabularies() -> dict[str, Path]:
    """Real vocabularies, downloaded from the user's npm registry once."""
    return {name: unpacked(package) for name, package in VOCABULARIES.items()}
