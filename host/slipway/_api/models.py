"""What a request may ask for: its query, its JSON body, and the one job that they make together."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from slipway._api.problems import SEE, Problem, Refusal
from slipway._request import (
    MAX_ARGUMENTS,
    MAX_CPUS,
    MAX_FILES,
    MAX_MEMORY,
    MAX_OUTPUTS,
    MAX_PROCESSES,
    MAX_SECONDS,
    MAX_VARIABLES,
    InputFile,
    Options,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# More than the largest job has: its files, variables, arguments and outputs have a few texts each.
MAX_TEXTS = 8192
MAX_STRUCTURE = 256 * 1024
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_TEXTUAL = ConfigDict(extra="forbid", allow_inf_nan=False)
_Model = TypeVar("_Model", bound=BaseModel)


def absent(description: str | None = None) -> Any:
    """A field that need not be there. It is None then; null itself cannot be sent."""
    return Field(None, description=description)


def _flag(value: object) -> object:
    if value in {"true", "false"}:
        return value == "true"
    raise ValueError("must be true or false")


Flag = Annotated[bool, BeforeValidator(_flag)]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Size = Annotated[int, Field(gt=0, le=MAX_MEMORY)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
Machine = Literal["auto", "kvm", "qemu"]
StreamName = Literal["raw", "events"]


class Scalars(BaseModel):
    """What can stand in the query and in the body. Times in seconds, sizes in bytes."""

    language: Name = absent("A language's name or alias, or NAME@VERSION.")
    version: Name = absent("The language's version, instead of @VERSION.")
    timeout: Seconds = absent("Wall-clock time of the program.")
    build_timeout: Seconds = absent("Wall-clock time of the build.")
    cpu_time: Seconds = absent("CPU time of the program.")
    memory: Size = absent("Of the machine.")
    memory_limit: Size = absent("The program's share of the machine's memory.")
    processes: Annotated[int, Field(gt=0, le=MAX_PROCESSES)] = absent(
        "Processes and threads of the program."
    )
    output_limit: Size = absent("Of each of stdout and stderr.")
    cpus: Annotated[int, Field(ge=1, le=MAX_CPUS)] = absent("Of the machine.")
    machine: Machine = absent("Which machine; auto where it is left out.")


class RunQuery(Scalars):
    """The query of ``POST /v1/run``."""

    model_config = _TEXTUAL

    kill_on_output: Flag = Field(False, description="End a program that passes its output limit.")


class StartQuery(RunQuery):
    """The query of ``POST /v1/start``."""

    stream: StreamName = Field("raw", description="What the output socket gives.")
    interactive: Flag = Field(False, description="Stdin comes as commands on the output socket.")
    detached: Flag = Field(False, description="Goes on when its client leaves.")


class ResumeQuery(BaseModel):
    """The query of ``POST /v1/vms/{id}/resume``."""

    model_config = _TEXTUAL

    offset: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        description="The byte of the stream at which the next connection begins."
    )


class Data(BaseModel):
    """Bytes: ``text`` where they are UTF-8, else ``base64`` (RFC 4648); one of the two."""

    model_config = _STRICT

    text: str = absent()
    base64: str = absent()


class File(Data):
    """A file for the working directory."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644


class RunBody(Scalars):
    """The JSON body of ``POST /v1/run``: a whole job."""

    model_config = _STRICT

    kill_on_output: bool = False
    source: str = absent("The program; this or source_base64.")
    source_base64: str = absent()
    arguments: Annotated[list[str], Field(max_length=MAX_ARGUMENTS)] = []
    environment: Annotated[dict[str, str], Field(max_length=MAX_VARIABLES)] = {}
    files: Annotated[list[File], Field(max_length=MAX_FILES)] = []
    outputs: Annotated[list[str], Field(max_length=MAX_OUTPUTS)] = Field(
        [], description="Paths of files that are wanted back."
    )
    stdin: str | Data = ""


class StartBody(RunBody):
    """The JSON body of ``POST /v1/start``: a whole job."""

    stream: StreamName = "raw"
    interactive: bool = False
    detached: bool = False


class SignalBody(BaseModel):
    """The body of ``POST /v1/vms/{id}/signal``."""

    model_config = _STRICT

    signal: Annotated[int, Field(ge=1, le=64)] | Annotated[str, Field(pattern="^(SIG)?[A-Z0-9]+$")]


@dataclass(frozen=True, slots=True)
class Job:
    """A request for a run, put together; ``options`` are fields of :class:`slipway.Options`.

    ``stdin`` is None where it comes as commands.
    """

    source: bytes
    language: str
    stdin: bytes | None
    options: Mapping[str, Any]
    stream: str = "raw"
    detached: bool = False


_SCALAR_OPTIONS = (*(set(Scalars.model_fields) - {"language", "version"}), "kill_on_output")


def job_of_text(source: bytes, query: RunQuery) -> Job:
    """The job whose source is the whole body.

    Raises:
        Refusal: something is missing or contradicts something else.
    """
    return _job(source, b"", {}, query.model_dump(exclude_unset=True))


def job_of_json(body: bytes, query: RunQuery, kind: type[RunBody]) -> Job:
    """The job in a JSON body of ``kind``.

    Raises:
        Refusal: it is no JSON, not of that form, or contradicts the query.
    """
    told = parsed(body, kind)
    both = query.model_fields_set & told.model_fields_set
    if both:
        raise Refusal(
            _unfit(f"{min(both)} is given in the query and in the body", "Give it in one of them.")
        )
    if (told.source is None) == (told.source_base64 is None):
        raise Refusal(_unfit("the body has to have source or source_base64, and not both"))
    source = _bytes(told.source, told.source_base64, "source_base64")
    stdin = told.stdin if isinstance(told.stdin, str) else _data(told.stdin, "stdin")
    more = {
        "arguments": tuple(told.arguments),
        "environment": tuple(told.environment.items()),
        "files": tuple(
            InputFile(file.path, _data(file, f"files.{number}"), file.mode)
            for number, file in enumerate(told.files)
        ),
        "outputs": tuple(told.outputs),
    }
    scalars = query.model_dump(exclude_unset=True) | {
        name: getattr(told, name) for name in told.model_fields_set & _SCALAR_NAMES
    }
    return _job(source, stdin.encode() if isinstance(stdin, str) else stdin, more, scalars)


_SCALAR_NAMES = frozenset(StartQuery.model_fields)


def _job(source: bytes, stdin: bytes, more: dict[str, Any], scalars: dict[str, Any]) -> Job:
    language, version = scalars.get("language"), scalars.get("version")
    if language is None:
        raise Refusal(_unfit("language is missing", "Name one of: GET /v1/languages"))
    if version is not None:
        if "@" in language:
            raise Refusal(
                _unfit("the version is given in version and in language", "Give it once.")
            )
        language = f"{language}@{version}"
    interactive = scalars.get("interactive", False)
    stream = scalars.get("stream", "raw")
    if interactive and stdin:
        raise Refusal(_unfit("stdin is given, and interactive says that it comes later"))
    if interactive and stream != "events":
        raise Refusal(_unfit("interactive needs stream=events: a raw stream takes no commands"))
    given = {name: scalars[name] for name in _SCALAR_OPTIONS if scalars.get(name) is not None}
    return Job(
        source,
        language,
        None if interactive else stdin,
        {**more, **given},
        stream,
        scalars.get("detached", False),
    )


def of_query(items: Sequence[tuple[str, str]], kind: type[_Model]) -> _Model:
    """The query of ``kind`` in the names and values of a request's.

    Raises:
        Refusal: there is none.
    """
    told = dict(items)
    if len(told) < len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal(_unfit(f"{twice!r:.80} is given twice in the query", "Give it once."))
    try:
        return kind.model_validate(told)
    except ValidationError as error:
        raise Refusal(_of_errors(error, "query", kind)) from None


def parsed(body: bytes, kind: type[_Model]) -> _Model:
    """The object of ``kind`` in a JSON body.

    Raises:
        Refusal: there is none.
    """
    _check_structure(body)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            detail = f"the body is no JSON: {_sentence(first['msg'])}"
            hint = "Send one JSON object, see RFC 8259."
            raise Refusal(Problem(400, "malformed", detail, hint)) from None
        raise Refusal(_of_errors(error, "body", kind)) from None


def _check_structure(body: bytes) -> None:
    """Check that a JSON body is little but texts, before anything is made of it.

    A value of each two bytes would take seconds and gigabytes to read, and all others would wait.
    What is done here is a few passes over the bytes at the speed of memory. Raises Refusal.
    """
    # Without its escapes, each quote begins or ends a text.
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in body else body
    texts = bare.count(b'"') // 2
    if texts <= MAX_TEXTS and sum(map(len, bare.split(b'"')[::2])) <= MAX_STRUCTURE:
        return
    raise Refusal(
        Problem(
            413,
            "too-large",
            f"the body has more than {MAX_TEXTS} texts, or {MAX_STRUCTURE} bytes beside its texts",
            "Leave out white space; pack many files into one archive.",
        )
    )


def _of_errors(error: ValidationError, where: str, kind: type[BaseModel]) -> Problem:
    """What a client is told of the first error in its query or body."""
    # Neither the value, which may be large or secret, nor a link to pydantic's site.
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if not name:
        return _unfit(f"the {where} {_sentence(first['msg'])}")
    if first["type"] == "extra_forbidden":
        return _unfit(f"there is no {name!r:.80} in the {where}", _meant(name, kind))
    if first["type"] == "missing":
        return _unfit(f"{name} is missing in the {where}")
    if first["type"].startswith("int_"):
        hint = "Sizes are in bytes, such as 536870912."
        return _unfit(f"{name:.80} in the {where} should be a whole number", hint)
    return _unfit(f"{name:.80} in the {where}: {_sentence(first['msg'])}")


def _meant(name: str, kind: type[BaseModel]) -> str:
    """What may have been meant by a field that there is not."""
    if name in StartBody.model_fields:
        return "It is for another request. See: GET /openapi.json"
    near = get_close_matches(name[:80], kind.model_fields, n=1)
    return f"Did you mean {near[0]!r}?" if near else SEE


def _sentence(text: str) -> str:
    text = text.removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:200]


def _data(data: Data, where: str) -> bytes:
    if (data.text is None) == (data.base64 is None):
        raise Refusal(_unfit(f"{where} has to have text or base64, and not both"))
    return _bytes(data.text, data.base64, f"{where}.base64")


def _bytes(text: str | None, encoded: str | None, where: str) -> bytes:
    if text is not None:
        return text.encode()
    assert encoded is not None
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(_unfit(f"{where} is no base64", "See RFC 4648, section 4.")) from None


def _unfit(detail: str, hint: str = SEE) -> Problem:
    return Problem(422, "input-error", detail, hint)


assert set(_SCALAR_OPTIONS) <= set(Options.__dataclass_fields__)
