"""`depot openapi`: the web tier's API as an OpenAPI document. Needs no settings and no running tier."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any


def register(commands: Any) -> None:
    command = commands.add_parser(
        "openapi",
        help="print the web tier's API as an OpenAPI 3.1 document",
        description="Print what GET /openapi.json answers: the web tier's API for code generators and API clients.",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    # app.py registers the routes of the role it finds; connecting to anything is left to the first request.
    os.environ["SERVER_ROLE"] = "web"
    import app
    from chalicelib.web.openapi import described

    json.dump(described(app.app), sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")
    return 0
