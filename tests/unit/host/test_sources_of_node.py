"""Which JavaScript sources are modules, and the names by which node knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway._model.input_file import InputFile
from slipway._model.options import Options
from slipway._run.job_message import Surroundings, build_job_message
from slipway._run.job_request import JobRequest
from slipway._sources.node_text import MAX_READ, is_module
from slipway_initramfs.languages import catalogue

MODULES = [
    "import fs from 'fs'",
    "import 'x'",
    "import{a}from'b'",
    "import * as x from 'y'",
    "export default 3",
    "export const a=1",
    "export{a}",
    "export * from 'x'",
    "const x = await f()",
    "await f();",
    "try { await f() } catch (e) { }",
    "for await (const x of y) {}",
    "console.log(await f())",
    "console.log(import.meta.url)",
    "const f = async x => await g(x)\nconst y = await f(1)",
    "const f = async x => await g(x);\nawait f(1)",
    "const o = {a: await f()}",
    "const t = `${await f()}`",
    "#!/usr/bin/env node\nimport a from 'b'",
    "/* c */ import a from 'b'",
    "if (x) { await f() }",
    "const r = /[/'`]/; import a from 'b'",
    "function f() { return 1 }\nexport { f }",
    "const a = b / 2; const c = '/'; await f()",
    "while (1) { const {x} = await f(); break }",
    "label: { await f() }",
    "x++ / 2; await f() / 3",
]
SCRIPTS = [
    "const fs = require('fs')",
    "import('x').then(f)",
    "const x = {import: 1}",
    "a.import",
    "// import x from 'y'",
    "/*\nimport x from 'y'\n*/",
    "const s = `\nimport x from 'y'\n`",
    "const s = 'import x'",
    "async function f() { await g() }",
    "const f = async () => { await g() }",
    "const f = async x => await g(x)",
    "foo(async x => await g(x))",
    "[1].map(async x => await x)",
    "var await = 1; await\nfoo",
    "await (x)",
    "await[0]",
    "class A { async m() { await x } }",
    "const o = { async m() { await x } }",
    "const o = { import: 1, export: 2 }",
    "const s = `${`import a from 'b'`}`",
    "if (a) /import x/.test(b)",
    "const re = /`/; function f() {}\n const re2 = /`/; // await x",
    "module.exports = {}; async function g() { for await (const x of y) {} }",
    "(async () => { await f() })()",
    "a.export.default",
    "const f = async () =>\n  await g()",
    "exports.x = async (a, b) => await a + await b;",
    "new Promise(async (r) => { const { b } = await c; r(b) })",
    "(async function () { await x })()",
    "const x = { async *gen() { yield await x } }",
    "async function f(a = {}) { await a }",
    "get(async function named(a) { if (a) { await b } })",
    'let s = "it\'s"; async () => { await x }',
    "x = a / b; async () => { await c / d }",
    "await = 3",
    "const p = 'export default'",
    "console.log('await x')",
    "while (x) await\n",
    "f(async (x) => [await x, await y])",
]
FILES = {"module.js": "export const x = 1", "script.js": "exports.x = 1", "package.json": "{}"}


@pytest.mark.parametrize("source", MODULES)
def test_source_that_can_only_be_a_module(source: str) -> None:
    assert is_module(source.encode())


@pytest.mark.parametrize("source", SCRIPTS)
def test_source_that_can_be_a_script(source: str) -> None:
    assert not is_module(source.encode())


@pytest.mark.parametrize(
    "text",
    [
        "import(",
        "`",
        "/",
        "import('\\'",
        "import /*",
        "import ([",
        "import /\\",
        "await {",
        "`${",
        "=>",
    ],
)
def test_hostile_text_takes_no_longer_than_other_text(text: str) -> None:
    data = f"import () {text * MAX_READ}".encode()

    assert not is_module(data)


@given(st.text(st.sampled_from("import export await{}()[]`$/*\\'\"=> \n"), max_size=100))
def test_any_text_has_an_answer(text: str) -> None:
    assert is_module(text.encode()) in {True, False}


@pytest.mark.parametrize(
    ("told", "source", "beside", "name", "more"),
    [
        ("javascript", "require('fs')", [], "main.js", False),
        ("javascript", "import 'fs'", [], "main.mjs", False),
        ("javascript", "import './script.js'", ["script.js"], "main.mjs", False),
        ("javascript", "import './module.js'", ["module.js"], "main.mjs", True),
        ("javascript", "import('./module.js')", ["module.js"], "main.cjs", True),
        ("javascript", "import 'fs'", ["package.json"], "main.js", False),
        ("javascript", "import 'fs'", ["module.js", "package.json"], "main.js", False),
        ("javascript", "import 'fs'", ["main.mjs"], "main.js", False),
        ("javascript", "import 'fs'", ["lib/package.json", "lib/module.js"], "main.mjs", False),
        ("javascript", "1", ["node_modules/x/module.js"], "main.js", False),
        ("javascript", "1", ["lib/module.js"], "main.cjs", True),
        ("mjs", "console.log(this)", [], "main.mjs", False),
        ("cjs", "import 'fs'", [], "main.cjs", False),
    ],
)
def test_names(told: str, source: str, beside: list[str], name: str, more: bool) -> None:
    files = tuple(
        InputFile(path, FILES.get(path.rpartition("/")[2], "").encode()) for path in beside
    )
    options = Options(files=files)

    job, (first, *others) = build_job_message(
        JobRequest(catalogue.find_language(told), source.encode(), options)
    )

    assert (job.run.argv[0], job.run.argv[-1]) == ("node", name)
    assert (first.path, first.data) == (name, source.encode())
    assert [file.path for file in others] == [*beside, *(["package.json"] if more else [])]


def test_package_of_an_earlier_run_is_left_alone() -> None:
    options = Options(files=(InputFile("module.js", FILES["module.js"].encode()),))

    place = Surroundings(taken=frozenset({"package.json"}))
    _, files = build_job_message(
        JobRequest(catalogue.find_language("js"), b"import 'fs'", options), place
    )

    assert [file.path for file in files] == ["main.js", "module.js"]
