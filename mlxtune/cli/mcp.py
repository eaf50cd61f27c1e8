"""``mcp``: let coding agents use a workspace over the Model Context Protocol."""

import os
from pathlib import Path
from typing import Annotated

from mlxtune.cli.options import argument
from mlxtune.core.errors import InputError


def mcp(workspace: Annotated[Path, argument("The workspace, which no path may leave.", metavar="WORKSPACE")] = Path()) -> None:
    """Serve a workspace to a coding agent over the Model Context Protocol, on standard input and output.

    The agent can check, train, evaluate, and export. The user is asked before rows are sent to another machine.
    """
    try:
        from mlxtune.cli.mcp_server import server
    except ImportError as error:
        raise InputError("The server for agents needs the package mcp.", hint="Install it: pip install 'mlxtune[mcp]'") from error
    os.chdir(workspace)
    server.run("stdio")
