"""Real QEMU, real kernels, real nested guests: fixtures that run campaigns as a user would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from integration.cli_run import QUICKSTART, CliRun, run_campaign

from qemu_diff.config import load_campaign
from qemu_diff.kernels import build_kernel
from qemu_diff.model import Build

WriteCampaign = Callable[..., Path]


@pytest.fixture(scope="session")
def builds() -> dict[str, Build]:
    """Both kernels of the quickstart, built or from the cache."""
    return {spec.name: build_kernel(spec) for spec in load_campaign(QUICKSTART).kernels}


@pytest.fixture(scope="session")
def quickstart(builds: dict[str, Build], tmp_path_factory: pytest.TempPathFactory) -> CliRun:
    """The whole quickstart campaign, run once."""
    assert set(builds) == {"unpatched", "patched"}
    return run_campaign(QUICKSTART, tmp_path_factory.mktemp("quickstart") / "results")


def write_campaign(
    path: Path,
    builds: dict[str, Build],
    kernels: dict[str, str | Path],
    body: str,
    **settings: float,
) -> Path:
    """A campaign over kernels that are built already: name → one of ``builds``, or an image."""
    lines = ["[campaign]", 'name = "test"']
    lines.extend(f"{key} = {value}" for key, value in settings.items())
    for name, image in kernels.items():
        where = builds[image].image if isinstance(image, str) else image
        lines += [f"[kernels.{name}]", f'source = {{ image = "{where}" }}']
    path.write_text("\n".join([*lines, body]) + "\n")
    return path


@pytest.fixture
def campaign_of(builds: dict[str, Build], tmp_path: Path) -> WriteCampaign:
    """:func:`write_campaign`, into a directory of the test's own."""

    def write(kernels: dict[str, str | Path], body: str, **settings: float) -> Path:
        return write_campaign(tmp_path / "campaign.toml", builds, kernels, body, **settings)

    return write
