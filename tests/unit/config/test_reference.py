"""docs/campaigns.md: every key of the schema and nothing else; its example is a campaign."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest
import tomli
from integration.cli_run import ROOT

from qemu_diff.config import load_campaign
from qemu_diff.config.schema import (
    CampaignFile,
    CampaignTable,
    DefaultsTable,
    ExcludeTable,
    FloodTable,
    KernelTable,
    MachineTable,
    PairTable,
    QemuTable,
    ScenarioTable,
    SourceTable,
    Table,
)
from qemu_diff.model import (
    Driver,
    ExceptionOrder,
    Expectation,
    FloodSource,
    KvmMode,
    PairOf,
    Pending,
    Placement,
)

REFERENCE = (ROOT / "docs" / "campaigns.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", REFERENCE, re.M | re.S))
TABLES = {
    "Top level": (CampaignFile,),
    "`[campaign]`": (CampaignTable,),
    "`[kernels.NAME]`": (KernelTable, SourceTable),
    "`[qemu.NAME]`": (QemuTable,),
    "`[[pair]]`": (PairTable,),
    "`[[scenario]]`": (ScenarioTable,),
    "`machine = { … }`": (MachineTable,),
    "`flood = { … }`": (FloodTable,),
    "`[[exclude]]`": (ExcludeTable,),
}
CHOICES: dict[str, type[StrEnum]] = {
    "kvm_mode": KvmMode,
    "exception_order": ExceptionOrder,
    "pending": Pending,
    "source": FloodSource,
    "placement": Placement,
    "driver": Driver,
    "of": PairOf,
    "expect": Expectation,
}


def rows(section: str) -> dict[str, list[str]]:
    """Key → the other columns of its row."""
    found = re.findall(r"^\| `(\w+)` \| (.*) \|$", SECTIONS[section], re.M)
    assert len(found) == len({key for key, _ in found})
    return {key: [column.strip() for column in rest.split(" | ")] for key, rest in found}


@pytest.mark.parametrize("section", TABLES)
def test_a_section_has_each_key_of_its_tables_and_no_other(section: str) -> None:
    fields = {name for table in TABLES[section] for name in table.model_fields}
    assert {*rows(section)} == fields


def test_no_table_of_the_schema_is_left_out() -> None:
    told = {table for tables in TABLES.values() for table in tables}
    assert {*Table.__subclasses__()} - told == {DefaultsTable}
    assert all(f"`{name}`" in SECTIONS["Top level"] for name in DefaultsTable.model_fields)


@pytest.mark.parametrize("section", TABLES)
def test_the_defaults_are_those_of_the_schema(section: str) -> None:
    for table in TABLES[section]:
        for name, field in table.model_fields.items():
            default = field.default
            said = rows(section)[name][1]
            if field.is_required():
                assert said == "needed", name
            elif isinstance(default, list) and len(default) == 1 and default[0] != "":
                assert value_of(said) == default[0], name
            elif isinstance(default, bool | int | float | str):
                assert value_of(said) == default, name


def value_of(said: str) -> object:
    quoted = said.partition("`")[2].partition("`")[0]
    return tomli.loads(f"value = {quoted}")["value"]


@pytest.mark.parametrize("section", TABLES)
def test_every_choice_is_named(section: str) -> None:
    for name, columns in rows(section).items():
        if name in CHOICES and not (name == "source" and "kernels" in section):
            missing = {one.value for one in CHOICES[name] if f"`{one}`" not in " ".join(columns)}
            assert not missing, name


def test_the_example_is_a_campaign(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", REFERENCE, re.S)
    assert example is not None
    source = 'source = "debian:linux-source-6.1"\n'
    kernels = f"[kernels.unpatched]\n{source}[kernels.mine]\n{source}"
    (tmp_path / "kernels.toml").write_text(kernels)
    (tmp_path / "c.toml").write_text(example[1])
    campaign = load_campaign(tmp_path / "c.toml", root=ROOT)
    assert len(campaign.scenarios) == len(campaign.pairs) == 2
