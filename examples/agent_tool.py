"""A tool for a language model: run code, and tell the model what it needs to mend it.

    python examples/agent_tool.py
    python examples/agent_tool.py --api-sock /run/slipway/api

The model here is a script, so that no network is needed: it writes a program with a mistake, reads
the error that the tool tells, and repairs what the error names. Put yours into its place. For
models that speak the Model Context Protocol, `slipway mcp` is this tool ready-made.
"""

import argparse
import json
import re
import sys

import slipway

TOOL = {
    "name": "run_code",
    "description": (
        "Run a program in a machine of its own, without a network, and get its output. Nothing is "
        "kept from one run to the next. Long output is cut."
    ),
    "input_schema": {
        "type": "object",
        "properties": {
            "language": {"type": "string", "description": "python, rust, go, c, c++, ..."},
            "source": {"type": "string", "description": "the whole program"},
            "stdin": {"type": "string", "description": "what the program reads"},
        },
        "required": ["language", "source"],
        "additionalProperties": False,
    },
}

MOST_SHOWN = 4000  # characters of each stream: a model's context is not for endless loops


def run_code(runs, arguments):
    """What a model is answered that called the tool with ``arguments``."""
    unknown = arguments.keys() - TOOL["input_schema"]["properties"].keys()
    if unknown or not all(isinstance(value, str) for value in arguments.values()):
        return {"error": "the arguments are not those of the tool's schema"}
    try:
        result = runs.run(
            arguments.get("source", ""),
            arguments.get("language", ""),
            stdin=arguments.get("stdin", "").encode(),
            timeout=30,
            output_limit=64 * 1024,
        )
    except slipway.Busy as error:
        return {"error": f"{error.message}; try again in {error.retry_after:.0f} s"}
    except slipway.InputError as error:  # the model's own mistake, and a hint at what to do
        return {"error": error.message, "hint": error.hint}
    except slipway.SlipwayError as error:  # nobody's mistake here: the host, or a lost machine
        return {"error": f"the tool failed: {error.message}", "hint": ""}
    return {
        "verdict": str(result.verdict),
        "summary": result.summary(),
        "stdout": result.stdout[:MOST_SHOWN],
        "stderr": result.stderr[-MOST_SHOWN:],  # of a traceback the end tells most
    }


class ScriptedModel:
    """Stands in for a model: from the messages so far to the next call of a tool, or an answer."""

    source = "import math\nprint(round(mat.pi * 6371 ** 2 * 4))\n"

    def __call__(self, messages):
        last = json.loads(messages[-1]["content"]) if messages[-1]["role"] == "tool" else None
        if last is None:
            return {"tool": "run_code", "arguments": self._call("pyhton")}
        if "error" in last:
            meant = re.search(r"Did you mean (\w+)", last.get("hint", ""))
            if meant is None:
                return {"answer": f"I cannot run programs: {last['error']}."}
            return {"tool": "run_code", "arguments": self._call(meant[1])}
        if last["verdict"] != "ok":
            told = re.search(r"name '(\w+)' is not defined. Did you mean: '(\w+)'", last["stderr"])
            self.source = re.sub(rf"\b{told[1]}\b", told[2], self.source)
            return {"tool": "run_code", "arguments": self._call("python")}
        return {
            "answer": f"The surface of the earth is {last['stdout'].strip()} square kilometres."
        }

    def _call(self, language):
        return {"language": language, "source": self.source}


def converse(runs, model, question, turns=8):
    """Let ``model`` call the tool until it answers."""
    messages = [{"role": "user", "content": question}]
    print(f"user:  {question}")
    for _ in range(turns):
        reply = model(messages)
        if "answer" in reply:
            return reply["answer"]
        print(f"model: {reply['tool']} {json.dumps(reply['arguments'])}")
        outcome = run_code(runs, reply["arguments"])
        print(f"tool:  {json.dumps(outcome)}", flush=True)
        messages.append({"role": "assistant", "content": json.dumps(reply)})
        messages.append({"role": "tool", "content": json.dumps(outcome)})
    return f"I have no answer after {turns} turns."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--api-sock", metavar="PATH", help="of a server; else machines of its own")
    path = parser.parse_args().api_sock
    with slipway.Client(path) if path else slipway.Runtime() as runs:
        print("model:", converse(runs, ScriptedModel(), "How large is the earth's surface?"))


try:
    main()
except KeyboardInterrupt:
    sys.exit(130)
