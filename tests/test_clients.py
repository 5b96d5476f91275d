"""The script that tries real programs: what it takes for an answer, and what not."""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mlx_qwen35.cli.programs import PROGRAMS
from tools.clients import __main__ as clients
from tools.clients.libraries import LIBRARIES


@pytest.fixture
def url() -> Iterator[str]:
    """A server that counts as ours does, and answers a POST with the status in its path's query."""
    counts: dict[tuple[str, str], int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            lines = [
                f'mlx_qwen35_requests_total{{path="{path}",status="{status}"}} {number:.1f}'
                for (path, status), number in counts.items()
            ]
            self.send_response(200)
            self.end_headers()
            self.wfile.write("\n".join(["# HELP", *lines, ""]).encode())

        def do_POST(self) -> None:
            path, _, status = self.path.partition("?")
            counts[path, status] = counts.get((path, status), 0) + 1
            self.send_response(int(status))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


ASKS = """
import http.client, sys
for status in sys.argv[3:]:
    connection = http.client.HTTPConnection(sys.argv[1].removeprefix("http://"))
    connection.request("POST", "/v1/messages?" + status)
    connection.getresponse()
print("the | end")
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("status", "asked", "expected"),
    [
        ("0", ["200"], ("Anthropic messages", "answers")),
        ("0", ["200", "400"], ("Anthropic messages", "/v1/messages: 400; status 0; the / end")),
        ("3", ["200"], ("Anthropic messages", "status 3; the / end")),
        ("0", [], ("", "status 0; the / end")),
    ],
)
def test_an_answer_is_a_good_end_and_no_request_refused(
    url: str, tmp_path: Path, status: str, asked: Sequence[str], expected: tuple[str, str]
) -> None:
    trial = clients.Trial("client", "1", [sys.executable, "-c", ASKS, url, status, *asked], tmp_path)
    assert clients.attempt(trial, url, os.environ, 60) == expected
    # What others asked before does not count.
    good = clients.Trial("client", "1", [sys.executable, "-c", ASKS, url, "0", "200"], tmp_path)
    assert clients.attempt(good, url, os.environ, 60)[1] == "answers"


def test_one_that_does_not_end_has_no_answer(url: str, tmp_path: Path) -> None:
    trial = clients.Trial("client", "1", [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path)
    assert clients.attempt(trial, url, os.environ, 0.3) == ("", "nothing in 0 s")


def test_the_rows_of_a_file_are_replaced_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "clients.md"
    path.write_text(f"above\n{clients.BEGIN}\n\n{clients.END}\nbelow\n")
    head = ["| client | version |", "|---|---|"]
    clients.write(path, [*head, "| pi | 1 |", "| curl | 1 |"])
    clients.write(path, [*head, "| claude | 2 |", "| pi | 2 |"])
    table = "\n".join([*head, "| claude | 2 |", "| pi | 2 |", "| curl | 1 |"])
    assert path.read_text() == f"above\n{clients.BEGIN}\n\n{table}\n\n{clients.END}\nbelow\n"


def test_every_program_is_asked_something() -> None:
    assert clients.ASKING.keys() == PROGRAMS.keys()


def test_every_script_has_the_address() -> None:
    for library in LIBRARIES.values():
        script = library.filled("http://here", "secret")
        assert re.search(r"http://here\b", script)
        assert not re.search(r"\b(URL|KEY)\b", script)
        assert ("baseURL: " in script) == (library.language == "node")


def test_the_copy_of_the_model_takes_long_prompts() -> None:
    with clients.large_context() as model:
        config = json.loads((model / "config.json").read_text())
        assert config["text_config"]["max_position_embeddings"] == clients.CONTEXT
        assert (model / "model.safetensors").exists()
