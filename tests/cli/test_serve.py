"""The serve command: how it starts, refuses and stops."""

import http.client
import json
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the server extra")

from mlx_qwen35.bench.servers import serving
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.cli.main import build_parser
from mlx_qwen35.cli.serve import defaults_of, origins, settings_of, tell_addresses
from mlx_qwen35.server.generation import AnswerDefaults
from tests.cli.test_commands import run

SERVE = [sys.executable, "-m", "mlx_qwen35.cli.main", "serve"]
STOP_SECONDS = 60


@pytest.mark.some(1)
@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_starts_answers_and_stops(tmp_path: Path, how: signal.Signals, status: int) -> None:
    """No --model: the one in the package serves, and one line says so."""
    flags = ["--prompt-cache-dir", str(tmp_path), "--kv-bits", "8", "--max-tokens", "4", "--log-level", "warning"]
    with tempfile.TemporaryFile() as log:
        with serving([*SERVE, *flags], "serve", log) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=STOP_SECONDS)
            body = {"messages": [{"role": "user", "content": "Spell elephant."}], "temperature": 0}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.load(response)
            connection.close()
            assert response.status == 200
            assert answer["usage"]["completion_tokens"] == 4
            server.process.send_signal(how)
            assert server.process.wait(timeout=STOP_SECONDS) == status
        log.seek(0)
        lines = log.read().decode().splitlines()
    assert [line for line in lines if "Traceback" in line] == []
    url = f"http://127.0.0.1:{server.port}"
    assert f"mlx-qwen35: box answers at {url} (a page to try it; Ctrl-C ends it)" in lines
    assert f"mlx-qwen35: base URL for OpenAI's clients: {url}/v1, for Anthropic's: {url}" in lines
    assert len([line for line in lines if "no model named" in line]) == 1
    # For the next one that is started.
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


STUCK = """
import sys, time
from mlx_qwen35.cli.main import main
from mlx_qwen35.server.service import GenerationService
GenerationService.prepare = lambda self, *wanted: time.sleep(3600)
main(sys.argv[1:])
"""


@pytest.mark.thorough
def test_what_never_ends_does_not_keep_it_from_ending() -> None:
    """Requests that are stuck get their 504, others are answered, and SIGTERM ends the process in --timeout."""
    with serving([sys.executable, "-c", STUCK, "serve", "--timeout", "2", "--log-level", "error"], "serve") as server:
        stuck = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=STOP_SECONDS) for _ in range(6)]
        for connection in stuck:
            body = {"messages": [{"role": "user", "content": "Hello"}]}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        health = http.client.HTTPConnection("127.0.0.1", server.port, timeout=STOP_SECONDS)
        health.request("GET", "/health")
        assert health.getresponse().status == 200
        assert stuck[0].getresponse().status == 504
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=STOP_SECONDS) == 0
        assert time.monotonic() - began < 20
        for connection in (*stuck, health):
            connection.close()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--timeout", "0"], "timeout: expected a number above 0, found 0.0"),
        (["--max-rows", "0"], "max_rows: expected a whole number of at least 1, found 0"),
        (["--prompt-cache-bytes", "many"], "expected a size like 512MB"),
        (["--allow-local-media", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--allow-local-media", "~nobody-of-this-name/a"], "mlx-qwen35: allow_local_media: ~nobody-of-this-name/a: "),
        (["--allowed-origins", "chat.example"], "expected an origin like https://chat.example, found 'chat.example'"),
        (["--top-p", "2"], "top_p: expected at least 0 and at most 1, found 2.0"),
        (["--chat-template-kwargs", "[1]"], "expected a JSON object, found '[1]'"),
        (["--chat-template-kwargs", '{"colour": 1}'], "chat_template_kwargs: the chat template has no colour"),
        (
            ["--no-think", "--chat-template-kwargs", '{"enable_thinking": true}'],
            "expected one word on whether to think",
        ),
        (["--chat-template", "/nowhere.jinja"], "chat_template /nowhere.jinja: expected a file of text, found"),
        (["--host", "192.0.2.1"], "--host: expected an address of this machine, found '192.0.2.1'"),
    ],
)
def test_a_wrong_flag_ends_with_status_2(flags: list[str], message: str) -> None:
    done = run("serve", "--model", str(BOX), *flags)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_busy_port_is_told_before_the_model_is_looked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        done = run("serve", "--model", "/nowhere", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"mlx-qwen35: --port {port}: Address already in use at 127.0.0.1; --port takes another, 0 a free one"
    ]


@pytest.mark.parametrize(
    ("host", "key", "warned"), [("0.0.0.0", "", True), ("0.0.0.0", "secret", False), ("127.0.0.1", "", False)]
)
def test_an_open_server_without_a_key_is_told_in_one_line(host: str, key: str, warned: bool) -> None:
    before = signal.getsignal(signal.SIGTERM)
    done = run("serve", "--model", "/nowhere", "--port", "0", "--host", host, MLX_QWEN35_API_KEY=key)
    assert signal.getsignal(signal.SIGTERM) == before
    lines = done.stderr.splitlines()
    assert (done.returncode, "/nowhere: expected an existing directory" in lines[-1]) == (2, True)
    warning = (
        "mlx-qwen35: --host 0.0.0.0 lets in who reaches this machine, and no key is set; MLX_QWEN35_API_KEY sets one"
    )
    assert lines[:-1] == [warning] * warned


def test_flags_of_an_answer_are_defaults_of_all() -> None:
    line = ["serve", "--temp", "0.6", "--top-k", "20", "--max-tokens", "99", "--stop", "END", "--thinking-budget", "50",
            "--chat-template-args", '{"enable_thinking": false, "preserve_thinking": true}']  # fmt: skip
    assert defaults_of(build_parser().parse_args(line)) == AnswerDefaults(
        {"temperature": 0.6, "top_k": 20, "max_tokens": 99, "stop": ["END"]}, enable_thinking=False,
        thinking_budget=50, template={"preserve_thinking": True},
    )  # fmt: skip
    assert defaults_of(build_parser().parse_args(["serve", "--prefill-step-size", "64"])) == AnswerDefaults()
    # What a template calls so is an effort, which a request may say otherwise.
    line = ["serve", "--chat-template-kwargs", '{"reasoning_effort": "low"}']
    assert defaults_of(build_parser().parse_args(line)) == AnswerDefaults(effort="low")


def test_origins_may_be_one_by_one_or_with_commas() -> None:
    assert origins("https://Chat.example/,http://localhost:3000") == ["https://chat.example", "http://localhost:3000"]
    assert origins("*") == ["*"]
    parsed = build_parser().parse_args(["serve", "--model", "m", "--allowed-origins", "null,*", "http://a"])
    assert settings_of(parsed).origins == ["null", "*", "http://a"]


def test_the_addresses_are_told_once_it_answers(capsys: pytest.CaptureFixture[str]) -> None:
    tell_addresses("http://[::1]:8080", "Qwen")
    assert capsys.readouterr().err.splitlines() == [
        "mlx-qwen35: Qwen answers at http://[::1]:8080 (a page to try it; Ctrl-C ends it)",
        "mlx-qwen35: base URL for OpenAI's clients: http://[::1]:8080/v1, for Anthropic's: http://[::1]:8080",
    ]
