"""Room for running requests in the memory ledger."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mlx_qwen35.errors import InsufficientMemoryError
from mlx_qwen35.runtime.estimates import gigabytes
from mlx_qwen35.runtime.ledger import Ledger
from mlx_qwen35.runtime.memory import MemoryGuard
from mlx_qwen35.runtime.request import Job, Pool


class MemoryAdmission:
    """Leases for the caches of running requests, their snapshots, and the activations of the step to come.

    A request is counted with the longest answer that it may get, so that none that was admitted fails for want of
    memory. Rows of a batch are padded to the longest of them.
    """

    def __init__(self, guard: MemoryGuard, ledger: Ledger) -> None:
        self._guard, self._ledger = guard, ledger
        self._caches = ledger.open("caches")
        self._step = ledger.open("activations")
        self._snapshots = ledger.open("snapshots")

    def admit(self, job: Job, running: Sequence[Job]) -> bool:
        """Set memory aside for a job beside those that run, or say that there is none."""
        caches, step = self._needs([*running, job])
        if not self._ledger.make_room(caches + step - self._caches.nbytes - self._step.nbytes):
            return False
        self._caches.enter(caches)
        self._step.enter(step)
        return True

    def update(self, running: Sequence[Job]) -> None:
        """Give back what these do not need."""
        caches, step = self._needs(running)
        self._caches.enter(caches)
        self._step.enter(step)
        self._snapshots.enter(sum(job.snapshot_bytes for job in running))

    def take_snapshot(self, job: Job, nbytes: int) -> bool:
        """Set memory aside for a snapshot of a prompt that is being read; without it, there is none."""
        if not self._snapshots.resize(self._snapshots.nbytes + nbytes):
            return False
        job.snapshot_bytes += nbytes
        return True

    @contextmanager
    def encoding(self, patches: int) -> Iterator[None]:
        """Make sure of the memory that encoding an image takes meanwhile, and of that of its embeddings.

        Raises:
            InsufficientMemoryError: There is none.
        """
        before, needed = self._step.nbytes, self._guard.encoding(patches) + self._guard.embeddings(patches)
        if needed > before and not self._step.resize(needed):
            left = gigabytes(max(0, self._ledger.headroom) + before)
            raise InsufficientMemoryError(
                f"image: expected one that takes at most {left} while it is encoded, found {patches} patches, which "
                f"take {gigabytes(needed)}"
            )
        try:
            yield
        finally:
            self._step.enter(before)

    def close(self) -> None:
        """Give everything back."""
        for lease in (self._caches, self._step, self._snapshots):
            lease.release()

    def _needs(self, jobs: Sequence[Job]) -> tuple[int, int]:
        """Bytes of caches, and what any one step takes beside them."""
        guard = self._guard
        pools: dict[Pool | None, list[Job]] = {}
        for job in jobs:
            pools.setdefault(job.pool, []).append(job)
        caches = step = 0
        for pool, members in pools.items():
            tokens = [job.request.tokens for job in members]
            rows = len(tokens) if pool is not None else 1
            held = sum(map(guard.held, tokens)) if pool is None else rows * guard.held(max(tokens))
            caches += held
            step = max(step, guard.passing(max(tokens), rows, rows=rows))
            short = [job for job in members if job.pool is not None and job.request.prompt.layout is None]
            if len(short) > 1:
                # They may be read together, padded to no more than one step.
                prompts = [_prompt_tokens(job) for job in short]
                together = min(sum(prompts), max(job.step_size for job in short))
                step = max(step, guard.passing(max(*prompts, together), together) + 2 * len(short) * guard.states)
        for job in jobs:
            request = job.request
            prompt = _prompt_tokens(job)
            # While a prompt is read, the room of its answer is free.
            unwritten = guard.held(request.tokens) - guard.held(prompt)
            # What was encoded waits there until it is read.
            waiting = guard.embeddings(sum(request.unseen))
            waiting += guard.scoring if request.prompt_logprobs is not None else 0
            step = max(step, guard.passing(prompt, job.step_size, max(request.unseen, default=0)) + waiting - unwritten)
        return caches, step


def _prompt_tokens(job: Job) -> int:
    """Tokens of its prompt that are read."""
    return min(len(job.request.prompt.input_ids), job.request.tokens)
