"""Coding agents that work over a server of this package: where each reads the address, the key and the model."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlx_qwen35.cli.options import KEY_VARIABLE

PROVIDER = "mlx-qwen35"
MOST_OUTPUT = 32_000
# Milliseconds of an answer. Programs expect the first words of a data centre within a few minutes, and some give up
# while a long prompt is still read here.
PATIENCE = 3_600_000


@dataclass(frozen=True)
class Connection:
    """A server that answers.

    Args:
        url: Without a path.
        key: What it expects; any text where it expects none.
        model: The name that requests use.
        context: Tokens of a prompt and its answer.
    """

    url: str
    key: str
    model: str
    context: int

    @property
    def most_output(self) -> int:
        """Tokens that an answer may have, so that most of the context is the prompt's."""
        return min(MOST_OUTPUT, self.context // 4)


@dataclass(frozen=True)
class Setup:
    """What a program is run with.

    Args:
        environment: Added to the user's.
        arguments: In front of the user's.
        without: Variables of the user's that would lead elsewhere.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    without: Sequence[str] = ()


@dataclass(frozen=True)
class Program:
    """A program that people run.

    Args:
        install: The command that installs it.
        set_up: Makes it use a server; may write files in the directory, which is gone when the program ends.
    """

    install: str
    set_up: Callable[[Connection, Path], Setup]


def _claude(server: Connection, directory: Path) -> Setup:
    models = ("MODEL", "DEFAULT_OPUS_MODEL", "DEFAULT_SONNET_MODEL", "DEFAULT_HAIKU_MODEL", "SMALL_FAST_MODEL")
    return Setup(
        {
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_AUTH_TOKEN": server.key,
            **{f"ANTHROPIC_{name}": server.model for name in models},
            "CLAUDE_CODE_SUBAGENT_MODEL": server.model,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            # A line at the prompt's beginning that changes with every request: nothing behind it could be reused.
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "API_TIMEOUT_MS": str(PATIENCE),
            "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(server.context),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(server.most_output),
        },
        without=("ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"),
    )


def _codex(server: Connection, directory: Path) -> Setup:
    provider = {
        "name": PROVIDER,
        "base_url": f"{server.url}/v1",
        "env_key": KEY_VARIABLE,
        "wire_api": "responses",
        "stream_idle_timeout_ms": PATIENCE,
    }
    settings = {
        "model": server.model,
        "model_provider": PROVIDER,
        "model_context_window": server.context,
        **{f"model_providers.{PROVIDER}.{name}": value for name, value in provider.items()},
    }
    # The values are TOML, and such strings are the same in JSON.
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={json.dumps(value)}")]
    return Setup({KEY_VARIABLE: server.key}, arguments)


def _opencode(server: Connection, directory: Path) -> Setup:
    model = {
        "name": server.model,
        "tool_call": True,
        "reasoning": True,
        "attachment": True,
        "modalities": {"input": ["text", "image"], "output": ["text"]},
        "limit": {"context": server.context, "output": server.most_output},
    }
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": PROVIDER,
        "options": {"baseURL": f"{server.url}/v1", "apiKey": f"{{env:{KEY_VARIABLE}}}", "timeout": PATIENCE},
        "models": {server.model: model},
    }
    name = f"{PROVIDER}/{server.model}"
    config = {"provider": {PROVIDER: provider}, "model": name, "small_model": name}
    return Setup({KEY_VARIABLE: server.key, "OPENCODE_CONFIG_CONTENT": json.dumps(config)})


def _pi(server: Connection, directory: Path) -> Setup:
    model = {
        "id": server.model,
        "name": server.model,
        "reasoning": True,
        "input": ["text", "image"],
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "contextWindow": server.context,
        "maxTokens": server.most_output,
    }
    provider = {
        "name": PROVIDER,
        "baseUrl": f"{server.url}/v1",
        "apiKey": KEY_VARIABLE,
        "api": "openai-completions",
        "models": [model],
    }
    # An extension, because another configuration directory would be without the user's settings and sessions.
    extension = directory / "provider.ts"
    extension.write_text(
        f"export default (pi) => pi.registerProvider({json.dumps(PROVIDER)}, {json.dumps(provider)});\n", "utf-8"
    )
    arguments = ["--extension", str(extension), "--provider", PROVIDER, "--model", server.model]
    return Setup({KEY_VARIABLE: server.key}, arguments)


def _qwen(server: Connection, directory: Path) -> Setup:
    environment = {
        "OPENAI_BASE_URL": f"{server.url}/v1",
        "OPENAI_API_KEY": server.key,
        "OPENAI_MODEL": server.model,
    }
    return Setup(environment, ["--auth-type", "openai", "--model", server.model])


PROGRAMS = {
    "claude": Program("npm install -g @anthropic-ai/claude-code", _claude),
    "codex": Program("npm install -g @openai/codex", _codex),
    "opencode": Program("npm install -g opencode-ai", _opencode),
    "pi": Program("npm install -g @mariozechner/pi-coding-agent", _pi),
    "qwen": Program("npm install -g @qwen-code/qwen-code", _qwen),
}
