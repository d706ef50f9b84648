"""Runs programs by a client that openapi-python-client has made. usage: python ... SOCKET

The generated package is ``slipway_api``, on the path.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import io
import json
import sys

import httpx
from slipway_api import Client
from slipway_api.api.runs import run_program
from slipway_api.api.server import list_languages
from slipway_api.models import File, RunBody, RunBodyEnvironmentType0
from slipway_api.types import File as Octets


def main() -> None:
    transport = httpx.HTTPTransport(uds=sys.argv[1])
    with Client(
        "http://localhost", timeout=httpx.Timeout(600), httpx_args={"transport": transport}
    ) as client:
        # What is None has not been given, and the query may say the same as the body.
        body = RunBody(
            language="bash",
            source="echo hello; cat data; printenv my.variable-1; exit 3",
            environment=RunBodyEnvironmentType0.from_dict({"my.variable-1": "named"}),
            files=[File(path="data", text="content\n")],
            timeout=60,
            memory=None,
            arguments=None,
            stdin=None,
        )
        result = run_program.sync(client=client, body=body, language="bash", timeout=60)
        print(json.dumps([result.verdict, result.run.code, result.run.stdout.text]))
        octets = Octets(payload=io.BytesIO(b"echo octets"))
        answer = run_program.sync_detailed(client=client, body=octets, language="klingon")
        print(json.dumps([int(answer.status_code), answer.parsed.detail]))
        print(
            json.dumps([language.name for language in list_languages.sync(client=client).languages])
        )


if __name__ == "__main__":
    main()
