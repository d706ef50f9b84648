"""Run options: each form of an option follows from its declaration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slipway._cli.run_arguments import build_parser, parse_arguments, read_options
from slipway._mcp.forms import RunCodeArguments
from slipway._model.option import Group, Option
from slipway._model.options import MACHINE_OPTIONS, OPTIONS, Options
from slipway._model.run_request import RunRequest
from slipway._model.runtime_options import RUNTIME_OPTIONS
from slipway._wire.job import encode_job, encode_session
from slipway._wire.request_models import (
    SessionBody,
    SessionRunBody,
    SessionRunQuery,
    StartBody,
    StartQuery,
)
from slipway.machine.hypervisors import HYPERVISORS
from slipway.machine.model import PortKind
from slipway.machine.qemu_targets import TARGETS
from slipway.vmm.spec import PORTS
from slipway_initramfs.store.records import KERNELS
from support.option_table import BEGIN, END, TABLES, make_table

DOCS = Path(__file__).parents[3] / "docs"
REMOTE = [option for option in OPTIONS.values() if option.is_remote]
# A value of each scalar option that is not its default, as it is typed and as it is meant.
MIB = 1024 * 1024
VALUES: dict[tuple[type, str], tuple[str, Any]] = {
    (float, "s"): ("1500ms", 1.5),
    (int, "bytes"): ("8M", 8 * MIB),
    (int, ""): ("3", 3),
}


def name_of(option: Option) -> str:
    return option.name


def typed_and_meant(option: Option) -> tuple[list[str], Any]:
    """Return arguments that give the option a value, and that value."""
    flag = "--" + option.name.replace("_", "-")
    if option.is_flag:
        return [flag], True
    if texts := option.choices or option.names:
        return [flag, texts[-1]], texts[-1]
    text, value = VALUES[option.type, option.bounds.unit if option.bounds else ""]
    return [flag, text], value


SCALARS = [option for option in OPTIONS.values() if option.is_scalar]
on_scalars = pytest.mark.parametrize("option", SCALARS, ids=name_of)


def test_every_field_is_declared() -> None:
    assert list(OPTIONS) == list(Options.__dataclass_fields__)
    assert all(option.help and not option.help.endswith(".") for option in OPTIONS.values())


def test_hypervisors_and_architectures_are_those_that_exist() -> None:
    assert OPTIONS["machine"].choices == ("auto", *HYPERVISORS)
    assert OPTIONS["arch"].choices == ("auto", *TARGETS)


def test_ports_are_those_of_the_machines_and_of_the_vmm() -> None:
    assert OPTIONS["port"].choices == tuple(PortKind)
    assert {port.value: port.devices for port in PortKind} == PORTS


@on_scalars
def test_command_line_takes_the_option(option: Option) -> None:
    typed, value = typed_and_meant(option)
    parser = build_parser("vmm-run")

    given = read_options(parse_arguments([*typed, "-c", "1", "--language", "c"], parser), (), ())
    absent = read_options(parse_arguments(["-c", "1", "--language", "c"], parser), (), ())

    assert getattr(given, option.name) == value
    assert getattr(absent, option.name) == option.default


@pytest.mark.parametrize("option", OPTIONS.values(), ids=name_of)
def test_help_names_the_option(option: Option) -> None:
    told = " ".join(build_parser("vmm-run").format_help().split()).replace(
        "wall- clock", "wall-clock"
    )

    flags = option.flags or ("--" + option.name.replace("_", "-"),)
    assert all(f"{flag} " in told.replace(",", " ") for flag in flags)
    assert option.name == "arguments" or option.help in told


@on_scalars
def test_wire_form_has_the_option_unless_it_is_local(option: Option) -> None:
    _, value = typed_and_meant(option)
    options = Options(**{option.name: value})
    if not option.is_remote:
        with pytest.raises(ValueError, match=option.name):
            encode_job(RunRequest(b"x", "c", options, b""))
        return

    assert encode_job(RunRequest(b"x", "c", options, b""))[option.name] == value
    assert option.name not in encode_job(RunRequest(b"x", "c", Options(), b""))
    in_session = encode_session("c", options, 1.0)
    assert (option.name in in_session) == (option.group is Group.MACHINE)


@pytest.mark.parametrize("option", REMOTE, ids=name_of)
def test_api_takes_the_option(option: Option) -> None:
    is_machine = option.group is Group.MACHINE
    is_in_query = option.is_scalar or option.name in {"tty", "network"}

    assert option.name in StartBody.model_fields
    assert (option.name in SessionBody.model_fields) == is_machine
    assert (option.name in SessionRunBody.model_fields) != is_machine
    assert (option.name in SessionRunQuery.model_fields) == (is_in_query and not is_machine)
    assert (option.name in StartQuery.model_fields) == is_in_query


def test_api_takes_no_local_option() -> None:
    local = {option.name for option in OPTIONS.values() if not option.is_remote}

    assert local == {"boot_log"} <= {*MACHINE_OPTIONS}
    assert not local & {*StartBody.model_fields, *StartQuery.model_fields}


def test_kernels_are_those_that_a_store_may_have() -> None:
    assert OPTIONS["kernel"].names == RUNTIME_OPTIONS["kernel"].choices == KERNELS


@pytest.mark.parametrize("path", ["vmlinux", "./small", "/boot/small"])
def test_a_kernel_that_is_no_name_is_a_file_of_this_host(path: str) -> None:
    parser = build_parser("vmm-run")
    typed = ["--kernel", path, "-c", "1", "--language", "c"]

    given = read_options(parse_arguments(typed, parser), (), ())

    assert given.kernel == Path(path)
    with pytest.raises(ValueError, match="kernel is not available on a server"):
        encode_job(RunRequest(b"x", "c", given, b""))
    for model in (StartQuery, StartBody):
        with pytest.raises(ValidationError, match="'debian' or 'small'"):
            model.model_validate({"kernel": path})


@pytest.mark.parametrize("option", REMOTE, ids=name_of)
def test_tool_for_models_takes_the_option(option: Option) -> None:
    # Hypervisor, port and kernel are the host's choice, not a model's.
    assert (option.name in RunCodeArguments.model_fields) == (
        option.name not in {"machine", "port", "kernel"}
    )


@pytest.mark.parametrize("name", TABLES)
def test_table_of_the_page_is_made_from_the_declarations(name: str) -> None:
    page, options = TABLES[name]

    table = BEGIN.format(name) + make_table(options.values()) + END

    assert table in (DOCS / page).read_text("utf-8"), "see tests/support/option_table.py"


@pytest.mark.parametrize("option", REMOTE, ids=name_of)
def test_page_of_the_api_names_the_option(option: Option) -> None:
    assert f"`{option.name}`" in (DOCS / "api.md").read_text("utf-8")
