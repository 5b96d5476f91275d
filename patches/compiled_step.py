"""Compiled functions of a module that outlive an exception."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx


class CompiledStep:
    """`mx.compile` of a function that reads a module's arrays, which may raise while it is traced.

    While it traces, `mx.compile` puts placeholders into the module, and an exception would leave them there: every
    later use of the module would fail with "Attempting to eval an array without a primitive". So a trace always ends
    normally here, the exception is raised afterwards, and what was traced is dropped.

    Args:
        function: From arrays to an array or a tuple of arrays.
        inputs: The module; its arrays may change between two calls.
    """

    def __init__(self, function: Callable[..., Any], inputs: Any) -> None:
        self._function, self._inputs = function, inputs
        self._error: BaseException | None = None
        self._compiled = self._compile()

    def __call__(self, *arrays: mx.array) -> Any:
        """What the function gives.

        Raises:
            Exception: What the function raised while it was traced.
        """
        result = self._compiled(*arrays)
        if self._error is None:
            return result
        error, self._error = self._error, None
        self._compiled = self._compile()
        raise error

    def _compile(self) -> Callable[..., Any]:
        return mx.compile(self._trace, inputs=self._inputs)

    def _trace(self, *arrays: mx.array) -> Any:
        try:
            return self._function(*arrays)
        except BaseException as error:
            self._error = error
            return arrays
