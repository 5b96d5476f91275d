"""Requests that schemathesis makes from the server's own description."""

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from mlx_qwen35.bench.servers import serving
from mlx_qwen35.checkpoints.files import BOX

# Of the server: short answers, so that many requests fit into the time.
FLAGS = ("--timeout", "20", "--max-context", "1024", "--memory-limit", "2GB", "--log-level", "warning")


def run(seconds: float, seed: int) -> list[str]:
    """What went wrong: what schemathesis printed, if an answer was a 500 or the server ended."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or shutil.which("schemathesis")
    if program is None:
        return ["needs the fuzz extra: pip install -e '.[fuzz]'"]
    command = [sys.executable, "-m", "mlx_qwen35.cli.main", "serve", "--model", str(BOX), "--served-model-name", "box"]
    with serving([*command, *FLAGS], "mlx-qwen35") as server, tempfile.TemporaryDirectory() as directory:
        url = f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{url}/openapi.json") as response:
            schema = json.load(response)
        path = Path(directory) / "openapi.json"
        path.write_text(json.dumps(with_short_answers(with_model(schema, "box"))))
        made = subprocess.run(
            [
                program, "run", str(path), "--url", url, "--checks", "not_a_server_error", "--seed", str(seed),
                "--max-time", str(max(1, int(seconds))), "--phases", "coverage,fuzzing", "--continue-on-failure",
                "--suppress-health-check", "all", "--request-timeout", "60",
            ],
            cwd=directory, capture_output=True, text=True,
        )  # fmt: skip
        ended = server.process.poll() is not None
    lines = made.stdout.splitlines()
    print("\n".join(line for line in lines if "generated" in line), flush=True)
    problems = [made.stdout[-5000:] + made.stderr[-2000:]] if made.returncode else []
    return problems + (["the server has ended"] if ended else [])


def with_model(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """The description with one name of the model: any other is a 404, behind which nothing is tried."""
    for model in schema["components"]["schemas"].values():
        if "model" in model.get("properties", {}):
            model["properties"]["model"] = {"const": name}
    return schema


def with_short_answers(schema: dict[str, Any]) -> dict[str, Any]:
    """The description without answers that have to be long: sixteen of a thousand tokens take more than the timeout."""
    for model in schema["components"]["schemas"].values():
        properties = model.get("properties", {})
        if "min_tokens" in properties:
            properties["min_tokens"] = {"type": "integer", "minimum": 0, "maximum": 32}
            properties["ignore_eos"] = {"const": False}
    return schema
