"""From a checkpoint to everything that runs requests on it."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_qwen35.answers.sampling import check_flag, whole_number
from mlx_qwen35.checkpoints.build import check_backend, materialise
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.hub import find_checkpoint
from mlx_qwen35.checkpoints.mtp_heads import MtpHead, read_mtp_head
from mlx_qwen35.errors import (
    CheckpointError,
    CheckpointWarning,
    InsufficientMemoryError,
    KitClosedError,
    OptionError,
)
from mlx_qwen35.patches.cpu import on_cpu, turn_weights
from mlx_qwen35.patches.gated_delta_net import GatedDelta, choose_gated_delta
from mlx_qwen35.patches.mtp import MultiTokenPrediction
from mlx_qwen35.patches.qwen3_5 import Model
from mlx_qwen35.patches.versions import check_versions
from mlx_qwen35.patches.widening import widen, widened_bytes
from mlx_qwen35.paths import expand
from mlx_qwen35.prompts.images import check_pixels
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.prompts.tokenizer_files import read_chat_template
from mlx_qwen35.runtime.admission import MemoryAdmission
from mlx_qwen35.runtime.decoder import Decoder
from mlx_qwen35.runtime.estimates import default_limit, machine_memory
from mlx_qwen35.runtime.executor import Executor
from mlx_qwen35.runtime.ledger import ImageLeases, Lease, Ledger, process_ledger
from mlx_qwen35.runtime.loop import Loop
from mlx_qwen35.runtime.memory import SMALLEST_STEP, MemoryGuard
from mlx_qwen35.runtime.scheduler import Scheduler
from mlx_qwen35.runtime.speculation import Speculate, Speculation, check_speculation
from mlx_qwen35.runtime.thread import MlxThread, check_process
from mlx_qwen35.state.cache import make_caches
from mlx_qwen35.state.disk import fingerprint_of
from mlx_qwen35.state.kept_files import KeptFiles
from mlx_qwen35.state.kv_quantization import KvQuantization, check_head_dim, check_kv_quantization
from mlx_qwen35.state.layout import StateLayout
from mlx_qwen35.state.prefix_cache import PrefixCache
from mlx_qwen35.upstream import version
from mlx_qwen35.vision import VisionAddOn, make_vision_add_on

# The disk takes this many times what memory does, unless that is said.
DISK_FACTOR = 10
# Bytes that are written there in an hour, at most: a disk of 600 TB written lasts eight years of such hours.
WRITE_BYTES = 8 * 10**9


@dataclass(frozen=True)
class LoadOptions:
    """What `ModelKit.load` was asked for; see there."""

    path_or_hub_id: Any
    adapter_path: Any
    revision: str | None
    max_pixels: Any
    prompt_cache_bytes: Any
    prompt_cache_dir: Any
    image_cache_bytes: Any
    max_context: Any
    memory_limit: Any
    exact: bool
    gated_delta: str | None
    speculate: Any = "auto"
    draft_tokens: Any = None
    mtp_path: Any = None
    kv_bits: Any = None
    kv_group_size: Any = None
    prompt_cache_dir_bytes: Any = None
    prompt_cache_write_bytes: Any = None
    chat_template: Any = None


@dataclass(frozen=True)
class DiskOptions:
    """Where prefixes are kept on disk, and how many bytes of them; see `KeptFiles`."""

    directory: Path | None
    capacity: int
    per_hour: int

    @classmethod
    def of(cls, options: LoadOptions, budget: int) -> "DiskOptions":
        """What was asked for.

        Args:
            budget: Bytes of memory for prefixes.
        Raises:
            OptionError: It is not what it may be.
        """
        directory = options.prompt_cache_dir
        limits = []
        for name, default in (("dir_bytes", DISK_FACTOR * budget), ("write_bytes", WRITE_BYTES)):
            given = getattr(options, f"prompt_cache_{name}")
            if given is not None and directory is None:
                raise OptionError(f"prompt_cache_{name}: expected with prompt_cache_dir, found {given!r} without")
            limits.append(default if given is None else whole_number(f"prompt_cache_{name}", given, 0))
        return cls(None if directory is None else expand(directory, OptionError, "prompt_cache_dir"), *limits)

    def open(self, fingerprint: str) -> KeptFiles | None:
        """The files of a model; None without a directory.

        Raises:
            SessionError: It cannot be written.
        """
        if self.directory is None:
            return None
        return KeptFiles(self.directory, fingerprint, capacity=self.capacity, per_hour=self.per_hour)


@dataclass
class Loaded:
    """A checkpoint that is ready to answer.

    Args:
        guard: Estimates what requests take.
        ledger: Counts what they hold, and everything else of this checkpoint.
        thread: Where MLX runs, and the loop.
    """

    checkpoint: Checkpoint
    model: Any
    tokenizer: Tokenizer
    vision: VisionAddOn
    guard: MemoryGuard
    ledger: Ledger
    prefix_cache: PrefixCache
    thread: MlxThread
    loop: Loop
    speculation: Speculation

    def close(self) -> None:
        """Release everything; again, and in a child of the process that loaded it, it does nothing."""
        if self.thread.is_forked:
            return
        with suppress(KitClosedError):
            self.thread.call(self._close)
        self.prefix_cache.close()
        self.ledger.close()
        self.thread.close()

    def _close(self) -> None:
        """On the thread that owns MLX: end what runs, and let the weights go."""
        self.loop.close(KitClosedError("this ModelKit was closed: load it again"))
        self.vision.close()
        self.model = None
        mx.clear_cache()


def load(options: LoadOptions) -> Loaded:
    """Check everything that can be checked before a weight is read, then build it all; errors as `ModelKit.load`."""
    check_process()
    check_versions()
    check_flag("exact", options.exact)
    check_pixels(options.max_pixels)
    gated_delta = choose_gated_delta(options.gated_delta, exact=options.exact)
    mode, draft_tokens = check_speculation(options.speculate, options.draft_tokens, exact=options.exact)
    kv = check_kv_quantization(options.kv_bits, options.kv_group_size, exact=options.exact)
    if options.mtp_path is not None and (mode not in ("mtp", "auto") or draft_tokens == 0):
        raise OptionError(
            'mtp_path: expected with speculate="mtp" or "auto", found without; nothing would use the head'
        )
    budget = options.prompt_cache_bytes
    budget = machine_memory() // 8 if budget is None else whole_number("prompt_cache_bytes", budget, 0)
    whole_number("image_cache_bytes", options.image_cache_bytes, 0)
    limit = options.memory_limit
    limit = default_limit() if limit is None else whole_number("memory_limit", limit, 1)
    kept_on_disk = DiskOptions.of(options, budget)
    template = None if options.chat_template is None else read_chat_template(options.chat_template)
    checkpoint = Checkpoint.open(find_checkpoint(options.path_or_hub_id, revision=options.revision))
    guard = _checked(checkpoint, options.max_context, limit, kv)
    tokenizer = _tokenizer(checkpoint, template)
    ledger = Ledger(limit, parent=process_ledger())
    ledger.take("weights", guard.weights, place="checkpoint")
    thread = MlxThread()
    try:
        model, guard = _read_model(thread, checkpoint, options, guard, ledger)
        vision = make_vision_add_on(
            checkpoint.config, model.vision_tower, checkpoint.directory, options.image_cache_bytes, ImageLeases(ledger)
        )
        head, module = _read_head(thread, checkpoint, options.mtp_path, mode, draft_tokens, guard.dtype_size)
        speculation, module, guard = _drafts(checkpoint, module, mode, draft_tokens, guard, ledger)
        decoder = Decoder(model, module, kv)
        layers_of_module = 0 if module is None else len(module.layers)
        new_caches = partial(make_caches, checkpoint.config.text.layer_types, layers_of_module, kv)
        arithmetic_of_states = arithmetic(options.exact, gated_delta, module is not None, guard.dtype_size)
        further = () if head is None else head.files
        fingerprint = fingerprint_of(checkpoint.fingerprint(options.adapter_path, arithmetic_of_states, further), kv)
        prefix_cache = PrefixCache(
            new_caches,
            budget,
            fingerprint=fingerprint,
            files=kept_on_disk.open(fingerprint),
            account=_accountant(ledger, ledger.open("kept prefixes")),
            layout=partial(_layout, thread, ref(decoder)),
        )
    except BaseException:
        thread.close()
        ledger.close()
        raise
    ledger.on_pressure(prefix_cache.reclaim)
    ledger.on_pressure(vision.reclaim)
    admission = MemoryAdmission(guard, ledger)
    executor = Executor(
        decoder, vision, tokenizer, prefix_cache, admission, checkpoint.config.text.vocab_size, speculation
    )
    loop = Loop(thread, Scheduler(admission), executor)
    ledger.on_release(loop.wake)
    return Loaded(checkpoint, model, tokenizer, vision, guard, ledger, prefix_cache, thread, loop, speculation)


def _checked(checkpoint: Checkpoint, max_context: Any, limit: int, kv: KvQuantization | None) -> MemoryGuard:
    """Whether it fits."""
    check_head_dim(kv, checkpoint.config.text.head_dim)
    context = checkpoint.config.text.context_length
    if max_context is not None and whole_number("max_context", max_context, 1) > context:
        raise OptionError(f"max_context: expected at most {context} (the model's context), found {max_context}")
    thread = MlxThread()
    try:
        guard = thread.call(MemoryGuard.of, checkpoint.config, checkpoint.weight_files(), limit, kv)
    finally:
        thread.close()
    if max_context is not None:
        guard.step_size(SMALLEST_STEP, max_context, place="max_context")
    return guard


def _read_model(
    thread: MlxThread, checkpoint: Checkpoint, options: LoadOptions, guard: MemoryGuard, ledger: Ledger
) -> tuple[Any, MemoryGuard]:
    """The model, and what it takes now."""
    model = thread.call(_lazy_model, checkpoint, options)
    guard = _widened(thread, model, options, guard, ledger)
    thread.call(check_backend, model, checkpoint.directory)
    if on_cpu() and not options.exact:
        thread.call(turn_weights, model)
    for _ in thread.iterate(lambda: materialise(model, checkpoint.directory)):
        pass
    return model, guard


def _lazy_model(checkpoint: Checkpoint, options: LoadOptions) -> Any:
    """With weights that are not read yet; on the thread that owns MLX."""
    # As mlx_lm 0.32 does, utils.py, maybe_set_recommended_wired_limit.
    recommended = mx.device_info().get("max_recommended_working_set_size")
    if recommended is not None:
        mx.set_wired_limit(int(recommended))
    return Model.from_checkpoint(
        checkpoint,
        adapter_path=options.adapter_path,
        exact=options.exact,
        gated_delta=options.gated_delta,
        vision_later=True,
    )


def _widened(thread: MlxThread, model: Any, options: LoadOptions, guard: MemoryGuard, ledger: Ledger) -> MemoryGuard:
    """On the CPU let the model compute in float32, if it is not to be exact and leaves half of the memory free."""
    if options.exact or not on_cpu():
        return guard
    wide = replace(guard, weights=guard.weights + thread.call(widened_bytes, model), dtype_size=4)
    more = wide.weights - guard.weights
    longest = 1 if options.max_context is None else options.max_context
    if not more or wide.weights > min(guard.limit // 2, guard.weights + ledger.headroom):
        return guard
    if wide.needs(longest, SMALLEST_STEP) > guard.limit:
        return guard
    thread.call(widen, model)
    ledger.take("weights in float32", more, place="checkpoint")
    return wide


def _drafts(
    checkpoint: Checkpoint, module: Any, mode: Speculate, draft_tokens: int | None, guard: MemoryGuard, ledger: Ledger
) -> tuple[Speculation, Any, MemoryGuard]:
    """How tokens are drafted, the module that does it, if any, and what all of it takes."""
    if module is None and mode == "mtp" and draft_tokens != 0:
        raise CheckpointError(
            f'{checkpoint.directory}: expected the weights of an MTP module (mtp.*), which speculate="mtp" needs, '
            'found none; take a checkpoint that has them, or speculate="lookup"'
        )
    speculation = Speculation(mode, draft_tokens, has_module=module is not None)
    if not speculation.is_on:
        return speculation, None, guard
    size, layers = 0, 0
    if module is not None:
        size = sum(value.nbytes for value in dict(tree_flatten(module.parameters())).values())
        layers = len(module.layers)
    try:
        drafting = guard.with_drafts(speculation.most, size, layers)
        if size:
            ledger.take("mtp module", size, place="speculate")
    except InsufficientMemoryError:
        if mode != "auto":
            raise
        return Speculation(), None, guard
    return speculation, module, drafting


def _read_head(
    thread: MlxThread, checkpoint: Checkpoint, mtp_path: Any, mode: Speculate, draft_tokens: int | None, dtype_size: int
) -> tuple[MtpHead | None, Any]:
    """The MTP head and its module, if there is one and it is wanted; what nobody asked for by name may be unusable."""
    if mode not in ("mtp", "auto") or draft_tokens == 0:
        return None, None
    try:
        head = thread.call(read_mtp_head, checkpoint, mtp_path)
        return head, None if head is None else thread.call(_make_module, checkpoint, head, dtype_size)
    except CheckpointError as error:
        if mode == "mtp" or mtp_path is not None:
            raise
        warnings.warn(f"{error}; it is left out", CheckpointWarning, stacklevel=2)
        return None, None


def _make_module(checkpoint: Checkpoint, head: MtpHead, dtype_size: int) -> Any:
    """The MTP module with its weights, which compute as the model does; on the thread that owns MLX."""
    module = MultiTokenPrediction.from_head(checkpoint.config, head)
    if dtype_size == 4 and on_cpu():
        widen(module)
        turn_weights(module)
    check_backend(module, head.files[0].parent)
    for _ in materialise(module, checkpoint.directory):
        pass
    return module


def _tokenizer(checkpoint: Checkpoint, template: str | None) -> Tokenizer:
    """The checkpoint's, with another chat template where one is given.

    Raises:
        OptionError: That is none.
    """
    vocab_size = checkpoint.config.text.vocab_size
    tokenizer = Tokenizer(checkpoint.directory, checkpoint.eos_token_ids, vocab_size, template)
    if template is not None:
        # Slow to import.
        from jinja2 import TemplateError

        try:
            variables = tokenizer.template.variables
        except TemplateError as error:
            raise OptionError(f"chat_template: expected a Jinja template, found {error}") from error
        if "messages" not in variables:
            raise OptionError("chat_template: expected a Jinja template of messages, found one that does not read them")
    return tokenizer


def _layout(thread: MlxThread, decoder: "ref[Decoder]") -> StateLayout:
    """What the model's states look like; asked for when a session comes, and does not keep the model."""
    found = decoder()
    if found is None:
        raise KitClosedError("this ModelKit was closed: load it again")
    return thread.call(lambda: StateLayout.of(found.read, found.make_state()))


def _accountant(ledger: Ledger, lease: Lease) -> Callable[[int], int]:
    """Enters what is held, and says how much of it is too much."""

    def account(nbytes: int) -> int:
        lease.enter(nbytes)
        return max(0, -ledger.headroom)

    return account


def arithmetic(exact: bool, gated_delta: GatedDelta, drafts: bool, dtype_size: int) -> str:
    """What a state depends on beside the weights: another kit may go on from it only if all of this is the same."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "mlx-vlm"))
    module = ", with the MTP module" if drafts else ""
    ways = f"{'exact' if exact else 'compiled'}, {8 * dtype_size} bits{module}"
    return f"{ways}, {gated_delta}, {mx.default_device()}, {versions}"
