"""Tool for a language model: runs code, and returns errors that help the model to fix the code.

    python examples/agent_tool.py
    python examples/agent_tool.py --api-sock /run/slipway/api

The model in this example is a script, which needs no network: it writes a program with a mistake,
reads the error in the tool's answer, and fixes the mistake. Replace it by your model. For models
with the Model Context Protocol, `slipway mcp` has this tool.
"""

import argparse
import json
import re
import sys

import slipway

TOOL = {
    "name": "run_code",
    "description": (
        "Run a program in a new virtual machine without a network, and return its output. Nothing "
        "is kept from one run to the next. Long output is cut."
    ),
    "input_schema": {
        "type": "object",
        "properties": {
            "language": {"type": "string", "description": "python, rust, go, c, c++, ..."},
            "source": {"type": "string", "description": "the whole program"},
            "stdin": {"type": "string", "description": "standard input of the program"},
        },
        "required": ["language", "source"],
        "additionalProperties": False,
    },
}

MOST_SHOWN = 4000  # characters of each stream, to save the model's context


def run_code(runs, arguments):
    """Return the tool's answer to a call with ``arguments``."""
    unknown = arguments.keys() - TOOL["input_schema"]["properties"].keys()
    if unknown or not all(isinstance(value, str) for value in arguments.values()):
        return {"error": "invalid arguments: see the tool's schema"}
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
    except slipway.InputError as error:  # a mistake of the model, with a hint
        return {"error": error.message, "hint": error.hint}
    except slipway.SlipwayError as error:  # an error of the host, or a lost machine
        return {"error": f"the tool failed: {error.message}", "hint": ""}
    return {
        "verdict": str(result.verdict),
        "summary": result.summary(),
        "stdout": result.stdout[:MOST_SHOWN],
        "stderr": result.stderr[-MOST_SHOWN:],  # the end of a traceback says most
    }


class ScriptedModel:
    """Script in place of a model: returns the next call of a tool, or an answer."""

    source = "import math\nprint(round(mat.pi * 6371 ** 2 * 4))\n"

    def __call__(self, messages):
        last = json.loads(messages[-1]["content"]) if messages[-1]["role"] == "tool" else None
        if last is None:
            return {"tool": "run_code", "arguments": self._build_arguments("pyhton")}
        if "error" in last:
            match = re.search(r"Did you mean (\w+)", last.get("hint", ""))
            if match is None:
                return {"answer": f"I cannot run programs: {last['error']}."}
            return {"tool": "run_code", "arguments": self._build_arguments(match[1])}
        if last["verdict"] != "ok":
            match = re.search(r"name '(\w+)' is not defined. Did you mean: '(\w+)'", last["stderr"])
            self.source = re.sub(rf"\b{match[1]}\b", match[2], self.source)
            return {"tool": "run_code", "arguments": self._build_arguments("python")}
        return {
            "answer": f"The surface of the earth is {last['stdout'].strip()} square kilometres."
        }

    def _build_arguments(self, language):
        return {"language": language, "source": self.source}


def converse(runs, model, question, turns=8):
    """Let ``model`` call the tool until the model answers."""
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
    parser.add_argument("--api-sock", metavar="PATH", help="server to use (default: none)")
    path = parser.parse_args().api_sock
    with slipway.Client(path) if path else slipway.Runtime() as runs:
        print("model:", converse(runs, ScriptedModel(), "How large is the earth's surface?"))


try:
    main()
except KeyboardInterrupt:
    sys.exit(130)
