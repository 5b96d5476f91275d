"""The launch command, with programs that are none: what they get, and what is left behind."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the server extra")

from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.cli import launch
from mlx_qwen35.cli.main import parse
from mlx_qwen35.cli.programs import PATIENCE, PROGRAMS, Connection
from tests.cli.test_commands import run

SECONDS = 300
SERVER = Connection("http://127.0.0.1:8123", "key", "Qwen", 4096)

# Asks as Claude Code does, and says what came.
ASKS = """#!{python}
import json, os, sys, urllib.request
url, key = os.environ["ANTHROPIC_BASE_URL"], os.environ["ANTHROPIC_AUTH_TOKEN"]
body = {{"model": os.environ["ANTHROPIC_MODEL"], "max_tokens": 3, "messages": [{{"role": "user", "content": "Hi"}}]}}
headers = {{"Authorization": "Bearer " + key, "Content-Type": "application/json"}}
request = urllib.request.Request(url + "/v1/messages", json.dumps(body).encode(), headers)
answer = json.load(urllib.request.urlopen(request))
print(json.dumps({{"url": url, "key": key, "type": answer["type"], "arguments": sys.argv[1:]}}))
sys.exit(7)
"""

# Says that it is there, and then waits for a signal, which it survives if it is Ctrl-C.
WAITS = """#!{python}
import os, signal, time
signal.signal(signal.SIGINT, lambda number, frame: print("Ctrl-C", flush=True))
print(os.environ["ANTHROPIC_BASE_URL"], flush=True)
while True:
    time.sleep(0.05)
"""

# The other child of its parent is the server.
KILLS = """#!{python}
import os, signal, time
parent = os.getppid()
children = [int(one) for one in open(f"/proc/{{parent}}/task/{{parent}}/children").read().split()]
(server,) = set(children) - {{os.getpid()}}
os.kill(server, signal.SIGKILL)
# It is gone some time after that; until then it looks alive to its parent.
while open(f"/proc/{{server}}/stat").read().rpartition(")")[2].split()[0] != "Z":
    time.sleep(0.01)
"""


# Stands for `serve`, which takes seconds to start; it has the notices and the endpoints that launch looks at.
SERVES = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
if "--model=/nowhere" in sys.argv:
    sys.exit("mlx-qwen35: /nowhere: expected an existing directory")
print("mlx-qwen35: loading in process group", os.getpgrp(), file=sys.stderr, flush=True)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        has_key = self.headers["Authorization"] == "Bearer " + os.environ["MLX_QWEN35_API_KEY"]
        health = {"status": "ok", "model": "m", "running": 0, "waiting": 0}
        models = {"data": [{"id": "m", "owned_by": "mlx_qwen35", "max_model_len": 100}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(health if self.path == "/health" else models if has_key else {}).encode())

    def log_message(self, *_):
        pass

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
LAUNCHES = f"""
import sys
from mlx_qwen35.cli import launch, main
launch.SERVE = (sys.executable, "-c", {SERVES!r})
sys.exit(main.main(sys.argv[1:]))
"""
QUICK = [sys.executable, "-c", LAUNCHES, "launch", "claude"]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a script on PATH, which has nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text(script.format(python=sys.executable))
        path.chmod(0o755)

    return write


@contextmanager
def served(answers: dict[str, Any], key: str = "") -> Iterator[str]:
    """The URL of a server that answers these paths, the models only with a key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.path == "/health" or self.headers["Authorization"] == f"Bearer {key}"
            seen.append((self.path, self.headers["Authorization"]))
            self.send_response(200 if allowed and self.path in answers else 401)
            self.end_headers()
            self.wfile.write(json.dumps(answers.get(self.path)).encode())

        def log_message(self, *_: Any) -> None:
            pass

    seen: list[tuple[str, str | None]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
    answers["seen"] = seen


HEALTH = {"status": "ok", "model": "other", "running": 0, "waiting": 0}
MODELS = {"object": "list", "data": [{"id": "other", "owned_by": "mlx_qwen35", "max_model_len": 77}]}


def is_gone(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.thorough
def test_a_program_gets_a_server_of_its_own_that_ends_with_it(install: Callable[[str, str], None]) -> None:
    install("claude", ASKS)
    environment = os.environ | {"ANTHROPIC_API_KEY": "of the user"}
    done = subprocess.run(
        [sys.executable, "-m", "mlx_qwen35.cli.main", "launch", "--max-context", "500", "claude", "--model", str(BOX),
         "--", "-p", "--", "hi"],
        capture_output=True, env=environment, timeout=SECONDS, text=True,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    found = json.loads(done.stdout)
    assert found["type"] == "message"
    assert found["arguments"] == ["-p", "--", "hi"]
    assert len(found["key"]) > 30
    assert found["key"] not in done.stderr
    assert is_gone(found["url"])


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_what_ends_it_ends_the_program_and_the_server_and_ctrl_c_is_the_programs(
    install: Callable[[str, str], None], how: signal.Signals, status: int
) -> None:
    install("claude", WAITS)
    process = subprocess.Popen(
        [*QUICK, "--model", "m"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stderr:
        assert int(process.stderr.readline().split()[-1]) != process.pid
    url = process.stdout.readline().decode().strip()
    assert url.startswith("http://127.0.0.1:")
    # As a terminal does: to all processes in the foreground.
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout.readline() == b"Ctrl-C\n"
    assert not is_gone(url)
    process.send_signal(how)
    assert process.wait(SECONDS) == status
    assert process.stdout.read() == b""
    process.stdout.close()
    assert is_gone(url)


# Told to end in the moment in which a process of this name has started and nobody has it yet.
TOLD_EARLY = """
import os, signal, subprocess, sys

class Popen(subprocess.Popen):
    def __init__(self, command, **options):
        super().__init__(command, **options)
        if {part!r} in " ".join(command):
            print(self.pid, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Popen
"""


@pytest.mark.parametrize("part", ["/claude", "serve_forever"])
def test_what_ends_it_while_a_process_starts_ends_that_too(install: Callable[[str, str], None], part: str) -> None:
    """It was left behind, and held the terminal or the port."""
    install("claude", WAITS)
    code = TOLD_EARLY.format(part=part) + LAUNCHES
    command = [sys.executable, "-c", code, "launch", "claude", "--model", "m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process.wait(SECONDS) == 143
        # It was waited for, so that the number is nobody's.
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_signals_are_the_main_thread_s(tmp_path: Path) -> None:
    """One that reached the thread which reads a server's log would not end the wait for the program."""
    reading, writing = os.pipe()
    blocked: list[set[Any]] = []

    class Source(io.FileIO):
        def fileno(self) -> int:
            blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            return super().fileno()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    log = launch.Log(Source(reading), tmp_path / "log")
    os.close(writing)
    log.finish()
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= blocked[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_server_that_does_not_start_says_why_in_one_line(install: Callable[[str, str], None]) -> None:
    install("claude", ASKS)
    done = subprocess.run([*QUICK, "--model", "/nowhere"], capture_output=True, timeout=SECONDS, text=True)
    # The status is the server's.
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mlx-qwen35: /nowhere: expected an existing directory\n"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the server in /proc")
def test_a_server_that_ends_early_is_told_at_the_end(install: Callable[[str, str], None]) -> None:
    install("claude", KILLS)
    done = subprocess.run([*QUICK, "--model", "m"], capture_output=True, timeout=SECONDS, text=True)
    assert done.returncode == 0
    started, ended, last = done.stderr.splitlines()
    assert ended == "mlx-qwen35: the server ended early, with status -9"
    assert started == last


def test_a_program_that_is_not_installed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, program in PROGRAMS.items():
        done = run("launch", name)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"mlx-qwen35: {name}: expected it on PATH, found none; {program.install} installs it\n"


def test_a_server_that_runs_is_used(
    install: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    install("codex", '#!{python}\nimport os, sys\nprint(os.environ["MLX_QWEN35_API_KEY"], *sys.argv[1:])')
    with served({"/health": HEALTH, "/v1/models": MODELS}, "secret") as url, restored():
        monkeypatch.setattr(launch, "URL", url)
        with_default = run("launch", "codex", "--", "exec", MLX_QWEN35_API_KEY="secret")
        default = capfd.readouterr().out
        with_url = run("launch", "--url", f"{url}/", "codex", "--", "exec", MLX_QWEN35_API_KEY="secret")
        wrong = run("launch", "--url", url, "codex", MLX_QWEN35_API_KEY="wrong")
    assert (with_default.returncode, with_url.returncode) == (0, 0)
    assert with_default.stderr == with_url.stderr == f"mlx-qwen35: over other, which {url} serves\n"
    assert default == capfd.readouterr().out
    assert default.startswith('secret -c model="other" -c model_provider="mlx-qwen35" -c model_context_window=77 ')
    assert f'base_url="{url}/v1"' in default
    assert default.endswith(" exec\n")
    assert wrong.returncode == 2
    assert "--url: expected a server of this package that takes the key" in wrong.stderr


@contextmanager
def restored() -> Iterator[None]:
    """What this process does at signals is the same after the block."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_key_goes_to_no_server_of_others() -> None:
    for health in ({"status": "ok"}, ["status", "model"], HEALTH):
        answers = {"/health": health, "/v1/models": {"data": [{"id": "x", "owned_by": "vllm"}]}}
        with served(answers, "secret") as url:
            assert launch.connect(url, "secret") is None
        asked = [path for path, key in answers["seen"] if key]
        assert asked == (["/v1/models"] if health is HEALTH else [])
    assert launch.connect(url, "secret") is None


def test_flags_of_the_model_and_of_answers_reach_the_server() -> None:
    given = ["--max-context", "100", "--memory-limit", "2GB", "--exact", "--gated-delta", "fast", "--model=-m",
             "--no-think", "--stop", "END", "--stop=-", "--temp", "0"]  # fmt: skip
    given += ["--chat-template-kwargs", '{"a": "b c"}']
    options = parse(["launch", "claude", *given, "--", "--exact"])
    assert options.arguments == ["--exact"]
    passed = launch.server_arguments(options)
    again = parse(["serve", *passed])
    for name in ("model", "max_context", "memory_limit", "exact", "gated_delta", "adapter_path", "think", "stop",
                 "temperature", "top_p", "chat_template_kwargs"):  # fmt: skip
        assert getattr(again, name) == getattr(options, name), name
    assert launch.server_arguments(parse(["launch", "claude"])) == []


def test_dashes_belong_to_launch_alone() -> None:
    assert parse(["generate", "-p", "hi"]).prompt == "hi"
    assert parse(["launch", "pi", "--"]).arguments == []
    with pytest.raises(SystemExit):
        parse(["launch", "pi", "-p", "hi"])


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_every_program_is_told_address_key_and_model(name: str, tmp_path: Path) -> None:
    setup = PROGRAMS[name].set_up(SERVER, tmp_path)
    files = "".join(path.read_text() for path in tmp_path.iterdir())
    told = " ".join([*setup.environment.values(), *setup.arguments, files])
    assert SERVER.url in told
    assert SERVER.model in told
    assert SERVER.key in setup.environment.values()
    # Other users of the machine see the arguments of processes.
    assert SERVER.key not in setup.arguments


def test_the_configurations_are_what_the_programs_parse(tmp_path: Path) -> None:
    opencode = json.loads(PROGRAMS["opencode"].set_up(SERVER, tmp_path).environment["OPENCODE_CONFIG_CONTENT"])
    provider = opencode["provider"]["mlx-qwen35"]
    assert opencode["model"] == opencode["small_model"] == "mlx-qwen35/Qwen"
    assert provider["options"]["baseURL"] == "http://127.0.0.1:8123/v1"
    assert provider["options"]["apiKey"] == "{env:MLX_QWEN35_API_KEY}"
    assert provider["models"]["Qwen"]["limit"] == {"context": 4096, "output": 1024}
    codex = PROGRAMS["codex"].set_up(SERVER, tmp_path).arguments
    settings = tomllib.loads("\n".join(one for one in codex if one != "-c"))
    assert settings["model_providers"]["mlx-qwen35"] == {
        "name": "mlx-qwen35",
        "base_url": "http://127.0.0.1:8123/v1",
        "env_key": "MLX_QWEN35_API_KEY",
        "wire_api": "responses",
        "stream_idle_timeout_ms": PATIENCE,
    }
