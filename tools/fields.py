"""Print the fields of every protocol, as docs/server.md lists them, from the models that decide what becomes of them.

python -m tools.fields
"""

import typing
from collections.abc import Iterator
from typing import Any

from mlx_qwen35.server.protocols import PROTOCOLS
from mlx_qwen35.server.protocols.messages import CountRequest
from mlx_qwen35.server.wire import Dropped, WireObject

BEGIN, END = "<!-- fields -->", "<!-- /fields -->"


def members(annotation: Any) -> Iterator[Any]:
    """The types that a field's annotation is made of."""
    yield annotation
    for argument in typing.get_args(annotation):
        yield from members(argument)


def objects(model: type[WireObject], path: str = "") -> Iterator[tuple[str, type[WireObject]]]:
    """A body's model and those inside it, each with its path; one that comes at several places, at the first."""
    yield path, model
    for name, field in model.model_fields.items():
        inside = f"{path}{field.alias or name}."
        for part in (field.annotation, *field.metadata):
            for member in members(part):
                if isinstance(member, type) and issubclass(member, WireObject) and member is not model:
                    yield from objects(member, inside)


def table(model: type[WireObject]) -> list[str]:
    """Rows of one protocol: what is honoured, what changes nothing, what is refused."""
    honoured: dict[str, None] = {}
    unused: dict[str, None] = {}
    refused: dict[str, str] = {}
    for path, found in objects(model):
        if issubclass(found, Dropped):
            continue
        honoured |= {f"`{path}{field.alias or name}`": None for name, field in found.model_fields.items()}
        unused |= {f"`{path}{name}`": None for name in sorted(found.without_effect)}
        refused |= {f"`{path}{name}`": hint for name, hint in found.refused.items()}
    lines = [f"| honoured | {', '.join(honoured)} |", f"| without effect | {', '.join(unused) or 'none'} |"]
    told = ", ".join(f"{name} ({hint})" for name, hint in refused.items())
    return [*lines, f"| refused | {told or 'none'} |"]


def text() -> str:
    """The whole section."""
    lines = [BEGIN, "", "| `POST` | |", "|---|---|"]
    for path, model in ((protocol.path, protocol.body) for protocol in PROTOCOLS):
        lines += [f"| **{path}** | |", *table(model)]
    assert issubclass(PROTOCOLS[-1].body, CountRequest)
    return "\n".join([*lines, "", END])


if __name__ == "__main__":
    print(text())
