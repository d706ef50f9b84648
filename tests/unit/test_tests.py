"""What all tests keep to: they go the public ways, and importing them does nothing."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
# What runs in guests, and packages for TypeScript.
_NOT_OURS = {"programs", "node_modules"}
# Private names of other modules and objects that tests use. It only goes down: give what a test
# needs a public name, or have the test look at what users see.
PRIVATE_USES = 28
# Names of namedtuple that are public in spite of their underscore.
_PUBLIC = {"_replace", "_asdict", "_fields"}
EVENT = re.compile(r"\b(asyncio|threading)\.Event\b")
# Conditions of loops that read a stream up to a piece or to its end.
READ = re.compile(r"\b(a?next|hear|take|read)\(")
# Calls that look at the host or take long: at module level they would run whenever tests are
# collected.
_WORK = {
    "Popen",
    "check_call",
    "check_output",
    "create_app",
    "find_assets",
    "find_language",
    "find_pages",
    "glob",
    "iterdir",
    "listdir",
    "mkdtemp",
    "need_program",
    "open",
    "read_bytes",
    "read_text",
    "rglob",
    "run",
    "scandir",
    "sleep",
    "system",
    "urlopen",
    "walk",
    "which",
    "write_bytes",
    "write_text",
}


@cache
def trees() -> dict[Path, ast.Module]:
    """The syntax trees of all modules below ``tests``."""
    found = sorted(TESTS.rglob("*.py"))
    return {
        path: ast.parse(path.read_text("utf-8"), str(path))
        for path in found
        if not _NOT_OURS & set(path.relative_to(TESTS).parts)
    }


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in _PUBLIC


def private_uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each use of a private name that the module does not define."""
    own = defined_names(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if is_private(name) and name not in own:
                yield node.lineno, ast.unparse(node)
            case ast.ImportFrom(names=aliases):
                for alias in aliases:
                    # A package's module is no secret; its functions, classes and constants are.
                    if is_private(alias.name) and not is_module(node.module or "", alias.name):
                        yield node.lineno, f"{node.module}.{alias.name}"
            case ast.Call(
                func=ast.Attribute(attr="setattr"), args=[*_, ast.Constant(str(name)), _]
            ):
                if is_private(str(name).rpartition(".")[2]):
                    yield node.lineno, str(name)


def defined_names(tree: ast.Module) -> set[str]:
    """The names of functions, classes, variables and attributes that a module defines."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def is_module(package: str, name: str) -> bool:
    path = Path(*package.split("."), name)
    root = TESTS.parent
    return any(
        (root / part / path).is_dir() or (root / part / path).with_suffix(".py").is_file()
        for part in ("host", "agent", "initramfs", "protocol", "tests")
    )


def calls_when_imported(node: ast.AST) -> Iterator[ast.Call]:
    """The calls that importing a module makes itself, those in functions and lambdas left out."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for decorator in child.decorator_list:
                    yield from calls_when_imported(ast.Expression(decorator))
            case ast.Lambda():
                pass
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                pass
            case _:
                if isinstance(child, ast.Call):
                    yield child
                yield from calls_when_imported(child)


def find_events(tree: ast.AST) -> set[str]:
    """Return the names that a module gives to events of asyncio and threading."""
    return {last_name(target) for node in ast.walk(tree) for target in events_of(node)}


@cache
def find_event_attributes() -> frozenset[str]:
    """Return the attributes of any object of the tests that are events; and one of ours."""
    found = (target for tree in trees().values() for n in ast.walk(tree) for target in events_of(n))
    return frozenset(
        {"admitted"} | {event.attr for event in found if isinstance(event, ast.Attribute)}
    )


def events_of(node: ast.AST) -> Iterator[ast.expr]:
    match node:
        case ast.Assign(targets=[ast.Tuple(elts=targets)], value=value):
            pass
        case ast.Assign(targets=targets, value=value):
            pass
        case ast.AnnAssign(target=target, annotation=value):
            targets = [target]
        case ast.arg(arg=name, annotation=ast.expr() as value):
            targets = [ast.Name(name)]
        case _:
            return
    if EVENT.search(ast.unparse(value)):
        yield from targets


def last_name(node: ast.AST) -> str:
    return ast.unparse(node).rpartition(".")[2]


def unlimited_waits(node: ast.AST, events: set[str]) -> Iterator[tuple[int, str]]:
    """Line and text of each wait for an event, and of each loop of pauses, without a limit."""
    match node:
        case ast.AsyncWith(items=items) if any(
            last_name(item.context_expr).startswith("timeout(") for item in items
        ):
            return
        case ast.Call(func=ast.Attribute(value=event, attr="wait"), args=[], keywords=[]):
            if last_name(event) in events:
                yield node.lineno, ast.unparse(node)
        case ast.While() if is_wait(node):
            yield node.lineno, f"while {ast.unparse(node.test)}"
    for child in ast.iter_child_nodes(node):
        yield from unlimited_waits(child, events)


def is_wait(loop: ast.While) -> bool:
    """Whether a loop does nothing but look, check and sleep."""
    sleeps = False
    for statement in loop.body:
        match statement:
            case ast.Expr(value=ast.Call() | ast.Await() as call) if "sleep(" in ast.unparse(call):
                sleeps = True
            case ast.Assign(value=ast.Name()) | ast.Assert() | ast.Pass():
                pass
            case _:
                return False
    return sleeps or not READ.search(ast.unparse(loop.test))


def test_private_names_of_others_are_used_less_and_less() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{line}: {text}"
        for path, tree in trees().items()
        for line, text in private_uses(tree)
    ]

    assert len(found) <= PRIVATE_USES, "\n".join(found)


def test_modules_do_no_work_when_they_are_imported() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{call.lineno}: {ast.unparse(call)}"
        for path, tree in trees().items()
        for call in calls_when_imported(tree)
        if ast.unparse(call.func).rpartition(".")[2] in _WORK
    ]

    assert found == []


def test_waits_have_a_limit_and_a_sentence() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{line}: {text}"
        for path, tree in trees().items()
        if path.parent != TESTS / "support"
        for line, text in unlimited_waits(tree, find_events(tree) | find_event_attributes())
    ]

    assert found == [], "use wait_until or block_until of support.waiting"


def test_waits_without_a_limit_are_found() -> None:
    tree = ast.parse(
        "async def test(gate: asyncio.Event):\n"
        "    reached, open = asyncio.Event(), threading.Event()\n"
        "    await reached.wait()\n"
        "    open.wait()\n"
        "    assert open.wait(5)\n"
        "    async with asyncio.timeout(5):\n"
        "        await gate.wait()\n"
        "    while not seen():\n"
        "        await asyncio.sleep(0)\n"
        "    while (now := progress()) != last:\n"
        "        last = now\n"
        "        time.sleep(1)\n"
        "    while b'x' not in file.readline():\n"
        "        assert process.poll() is None\n"
        "    while more():\n"
        "        work()\n"
        "        time.sleep(1)\n"
    )

    assert [text for _, text in unlimited_waits(tree, find_events(tree))] == [
        "reached.wait()",
        "open.wait()",
        "while not seen()",
        "while (now := progress()) != last",
        "while b'x' not in file.readline()",
    ]


def test_the_counts_count() -> None:
    tree = ast.parse(
        "from slipway._run.guest import _secret, Guest\n"
        "from slipway import _run\n"
        "TEXT = PATH.read_text()\n"
        "class Own:\n"
        "    def __init__(self):\n"
        "        self._mine = other._theirs\n"
        "own._mine, own._asdict()\n"
        "patch.setattr(other, '_hidden', lambda: open('x'))\n"
    )

    assert [text for _, text in private_uses(tree)] == [
        "slipway._run.guest._secret",
        "_hidden",
        "other._theirs",
    ]
    assert [ast.unparse(call.func) for call in calls_when_imported(tree)] == [
        "PATH.read_text",
        "own._asdict",
        "patch.setattr",
    ]
