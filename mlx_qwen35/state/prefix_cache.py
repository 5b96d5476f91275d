"""What was read before, so that no later prompt has to read it again.

While a prompt is read and an answer is written, the state of the sequence is kept at `Prompt.branch_points` and at
the end. The next prompt begins at the last kept place up to which it is the same, images included, of whichever
prefix that is.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from mlx_qwen35.errors import SessionError
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.state.disk import read_prefix, write_prefix
from mlx_qwen35.state.kept_prefixes import KeptPrefixes
from mlx_qwen35.state.prefix import Prefix, Reading, images_of, keys_of
from mlx_qwen35.state.sequence import SequenceState, Snapshot


class PrefixCache(KeptPrefixes):
    """Prefixes that prompts begin from, and that sessions are made of; see `KeptPrefixes`."""

    def begin(self, prompt: Prompt, on_ready: Callable[[], None] | None = None) -> Reading | None:
        """A state that holds as much of a prompt as was read before, but never its last token.

        Args:
            on_ready: Called, on another thread, once what is on disk only has been read back; until then the answer
                is None. Without it this waits.
        """
        images = images_of(prompt)
        keys = keys_of(prompt.input_ids, images)[:-1]
        if self._files is not None and self._files.changed():
            self._look()
        while True:
            with self._lock:
                found = self._prefixes.find(keys, images)
                if found is None:
                    snapshots: list[Snapshot] | None = [] if self.budget and not self._closed else None
                    return Reading(prompt, SequenceState(self._make_caches()), snapshots=snapshots)
                prefix, place = found
                self._prefixes.use(prefix)
                if self._files is not None and prefix.file is not None:
                    self._files.use(prefix.file)
                if prefix.state is not None:
                    self._stay(prefix)
                    kept = [snapshot for snapshot in prefix.state.snapshots if snapshot.tokens <= place]
                    return Reading(prompt, prefix.state.restore(place, self._make_caches), place, kept)
            if on_ready is not None:
                self._disk.post(self._fetch_for, prefix, on_ready)
                return None
            self._disk.call(self._fetch, prefix)

    def keep(self, reading: Reading) -> None:
        """Remember what was read, in place of the prefixes that it continues; only where MLX runs."""
        tokens, prompt, snapshots = reading.state.tokens, reading.prompt, reading.snapshots
        input_ids = np.concatenate([prompt.input_ids, np.array(reading.written, dtype=np.int32)])
        if snapshots is None or self._closed or not reading.start < tokens <= len(input_ids):
            return
        inside = prompt.layout is not None and prompt.layout.inside(tokens) is not None
        if not inside and (not snapshots or snapshots[-1].tokens < tokens):
            snapshots.append(reading.state.snapshot())
        if not snapshots or snapshots[-1].tokens <= reading.start:
            return
        end = snapshots[-1].tokens
        images = tuple(image for image in images_of(prompt) if image.stop <= end)
        places = [snapshot.tokens for snapshot in snapshots]
        self.insert(
            Prefix(input_ids[:end], images, min(prompt.turn_start, end), places, reading.state.freeze(snapshots))
        )

    def insert(self, prefix: Prefix) -> None:
        """Add a prefix as the newest, unless it is larger than the budget, or a part of another one.

        Prefixes that it continues go; so do those whose last turn it shows as the template writes it anew.
        """
        with self._lock:
            if self._closed or not self._fits(prefix):
                return
            longer = self._prefixes.longer(prefix.keys)
            if longer is not None:
                self._prefixes.use(longer)
                return
            for other, depth in self._prefixes.continued_by(prefix):
                prefix.succeed(other, depth)
                self._drop(other)
            assert prefix.state is not None
            self._prefixes.add(prefix)
            self._held.add(prefix.state)
            self._plan(prefix)
            self._settle()

    def save(self, path: Path, prompt: Prompt | None) -> int:
        """Write what was read of a prompt's conversation, or of the newest; returns the number of tokens.

        Of a prefix that the prompt only begins like, just that beginning is written.

        Raises:
            SessionError: Nothing fits, or the file cannot be written.
        """
        with self._lock:
            prefix, place = next(reversed(self._prefixes), None), -1
            if prompt is not None:
                images = images_of(prompt)
                keys = keys_of(prompt.input_ids, images)
                prefix, place = self._prefixes.find(keys[:-1], images) or (None, 0)
                if prefix is not None and self._prefixes.reaches_turn(prefix, keys):
                    place = -1
        state = None if prefix is None else prefix.state or self._disk.call(self._fetch, prefix)
        if prefix is None or state is None:
            raise SessionError("session: expected a conversation that was read, found none in the prompt cache")
        place = len(prefix) if place < 0 else place
        beginning = prefix.beginning(state, place)
        self._disk.call(lambda: write_prefix(path, beginning, state.cut(place), self._fingerprint))
        return place

    def load(self, path: Path) -> int:
        """Add what `save` wrote; returns its tokens.

        Raises:
            SessionError: See `read_prefix`; or the session is larger than the budget.
        """
        with suppress(OSError):
            size = path.stat().st_size
            if size > self.budget:
                raise SessionError(
                    f"{path}: expected at most {self.budget} bytes (the prompt cache's budget), found {size}"
                )
        layout = None if self._layout is None else self._layout()
        prefix: Prefix = self._disk.call(read_prefix, path, self._fingerprint, self._make_caches(), layout)
        self.insert(prefix)
        return len(prefix)
