"""Conversations in files: what was read of them, for another process to take up."""

from pathlib import Path

from mlx_qwen35.errors import SessionError
from mlx_qwen35.paths import expand
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.thread import MlxThread
from mlx_qwen35.state.prefix_cache import PrefixCache


class SessionFiles:
    """The part of a ModelKit that writes and reads sessions."""

    prompt_cache: PrefixCache
    _thread: MlxThread

    def save_session(self, path: str | Path, prompt: Prompt | None = None) -> int:
        """Write what was read of a conversation to a file, so that another process need not read it again.

        Args:
            prompt: A prompt of the conversation; None for the one that was used last.
        Returns:
            The number of tokens it holds.
        Raises:
            SessionError: Nothing of it was read, or the file cannot be written.
            KitClosedError: After `close`.
        """
        self._thread.check()
        return self.prompt_cache.save(expand(path, SessionError, "session"), prompt)

    def load_session(self, path: str | Path) -> int:
        """Take up what `save_session` wrote; later prompts begin where it left off, to the bit.

        Returns:
            The number of tokens it holds.
        Raises:
            SessionError: The file is of another model or version, cut short, damaged, or larger than the
                prompt cache may be. Nothing has changed then.
            KitClosedError: After `close`.
        """
        self._thread.check()
        return self.prompt_cache.load(expand(path, SessionError, "session"))
