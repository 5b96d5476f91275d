"""Every error that a caller of this package may want to catch.

Messages say the place, what was expected and what was found. Whatever is wrong with
a request is raised before any work on the model.
"""


class Qwen35Error(Exception):
    """Base of every error that this package raises on purpose."""


class VersionError(Qwen35Error):
    """An upstream library is outside the range this package was tested with."""


class CheckpointError(Qwen35Error):
    """A checkpoint cannot be found, read, or does not hold what its config announces."""


class ConfigError(CheckpointError):
    """config.json misses a field, or asks for something that is not supported."""


class AdapterError(CheckpointError):
    """A LoRA adapter cannot be read or does not fit the model."""


class PromptError(Qwen35Error):
    """Messages, tools or a finished prompt that cannot be turned into token ids."""


class PromptMismatchError(PromptError):
    """Placeholders and media differ in number or in length."""


class ContextLengthError(PromptError):
    """The prompt does not fit the context.

    Args:
        found: Tokens that it has, at least.
        fits: Tokens that it may have.
    """

    def __init__(self, message: str, found: int = 0, fits: int = 0) -> None:
        super().__init__(message)
        self.found, self.fits = found, fits


class InsufficientMemoryError(Qwen35Error):
    """A request, or the context that was asked for, needs more memory than there is."""


class PromptMemoryError(InsufficientMemoryError, ContextLengthError):
    """There is memory for a shorter prompt only."""


class MediaError(Qwen35Error):
    """An image or a video that cannot be read, or is refused."""


class VisionUnavailableError(MediaError):
    """The prompt has an image or a video, the checkpoint cannot see it."""


class OptionError(Qwen35Error, ValueError):
    """An option is unknown or out of range."""


class CacheError(Qwen35Error):
    """A cache is asked for something that would silently give wrong positions."""


class SessionError(Qwen35Error):
    """A saved session cannot be written or read, or is not of this model."""


class GenerationCancelled(Qwen35Error):
    """The caller asked for the end of a request before it was done."""


class DeadlineError(Qwen35Error):
    """A request was not done within the time that it may take."""


class EngineFullError(Qwen35Error):
    """More requests at once than the engine lets wait."""


class KitClosedError(Qwen35Error):
    """A ModelKit or an engine was used after ``close()``."""


class CheckpointWarning(UserWarning):
    """Something of a checkpoint is left out or left as it is, and it is loaded or converted all the same."""
