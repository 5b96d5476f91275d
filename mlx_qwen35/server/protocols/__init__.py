"""The protocols that the server speaks, and the form of an error in each."""

from typing import Any

from fastapi.responses import JSONResponse

from mlx_qwen35.server.protocols.base import ApiProtocol
from mlx_qwen35.server.protocols.chat_completions import CHAT_COMPLETIONS
from mlx_qwen35.server.protocols.completions import COMPLETIONS
from mlx_qwen35.server.protocols.messages import MESSAGES
from mlx_qwen35.server.protocols.responses import RESPONSES
from mlx_qwen35.server.wire import ApiError

PROTOCOLS: tuple[ApiProtocol[Any], ...] = (CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, MESSAGES)


def error_response(error: ApiError, path: str) -> JSONResponse:
    """An error in the form of the protocol that the path belongs to, and in OpenAI's elsewhere."""
    found = next((one for one in PROTOCOLS if f"{path}/".startswith(f"{one.path}/")), CHAT_COMPLETIONS)
    return JSONResponse(found.error(error), error.status, headers=error.headers)
