"""Lets what runs in a VM act on the server that runs beside it, by `POST /kill` and its like."""

from __future__ import annotations

import http.server
import json
import urllib.request
from http import HTTPStatus

from tests.kube.server import ApiServer

PORT = 6400
ACTIONS = ("kill", "start", "pause", "resume", "seed", "remove_slices")
"""Methods of the server; a request has their arguments as a list."""


class Control(http.server.HTTPServer):
    """Takes requests for a server; each is answered when it is done. There is one at a time."""

    def __init__(self, address: str, server: ApiServer) -> None:
        super().__init__((address, PORT), _Handler)
        self.actions = {name: getattr(server, name) for name in ACTIONS}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Control

    def do_POST(self) -> None:
        action = self.server.actions.get(self.path.removeprefix("/"))
        if action is None:
            self.send_error(HTTPStatus.NOT_FOUND, f"one of {', '.join(ACTIONS)}")
            return
        action(*json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        pass


def ask(control: str, action: str, *arguments: object) -> None:
    """Ask for an action, by the URL that the environment gives as IPVS_AGENT_KUBE_CONTROL."""
    request = urllib.request.Request(f"{control}/{action}", json.dumps(arguments).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=600):
        pass
