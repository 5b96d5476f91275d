"""A load of mixed conversations on a server, some of them rude, with every answer held against a reference.

    python -m tools.load --minutes 5 --clients 16 --out docs/load.json

Without --url it starts a server of its own with the checkpoint in the package. Loopback only. What the server's
process holds (memory, threads, handles) is read from /proc, which only Linux has; elsewhere, and with --url but
without --pid, those checks are left out, and the report says so.

References come first, from one client alone. Then all clients at once: conversations of one to four turns in three
protocols, streamed and not, clients that leave, malformed requests, and now and then more requests than the queue
takes. Ends with status 1 if an answer differs from its reference, a malformed request gets anything but its
refusal, a connection hangs, or the server keeps what it should have let go.
"""

import argparse
import ipaddress
import json
import os
import platform
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from mlx_qwen35.bench.servers import serving, stop
from mlx_qwen35.checkpoints.files import BOX
from tools.load.clients import IDLE_SECONDS, Load
from tools.load.conversations import POOL, Json, make_pool
from tools.load.held import MAX_LEFT, Sample, growth, leaks, sample
from tools.load.protocols import MODEL
from tools.load.tally import MOST_SHOWN

# Of a server that is started here: few places in the queue, so that it is full at times, and little memory for
# what was read, so that it is full before growth is counted.
ROWS, PLACES, CACHE = 8, 8, "32MB"
STOP_SECONDS = 30.0
WARM_SECONDS = 20.0


def measure(load: Load, pid: int | None, seconds: float, clients: int) -> Json:
    """References, a warm-up, the load, and what the server kept.

    Args:
        pid: Of the server, to look at what it holds; None for not to.
    Returns:
        For the report.
    """
    load.refer()
    load.run(min(WARM_SECONDS, seconds / 3), clients, "warm-up")
    load.rest()
    load.tally.clear()
    began, samples = time.monotonic(), []
    before = None if pid is None else sample(pid, began)
    over = threading.Event()

    def look(pid: int) -> None:
        while not over.wait(min(1.0, seconds / 30)):
            with suppress(OSError):
                samples.append(sample(pid, began))

    watcher = threading.Thread(target=look, args=(pid,), daemon=True)
    if pid is not None:
        watcher.start()
    took = load.run(seconds, clients, "load")
    over.set()
    load.rest()
    tally, held = load.tally, None
    if pid is not None and before is not None:
        watcher.join()
        try:
            after = _settled(pid, began, before)
        except OSError:
            after, samples = before, [before]
            tally.problem("the server has ended")
        for problem in leaks(before, after, samples):
            tally.problem(problem)
        held = {
            "before": vars(before),
            "after": vars(after),
            "rss_growth": growth(samples),
            "samples": [list(vars(found).values()) for found in samples],
        }
    return {
        "clients": clients,
        "conversations": len(load.pool),
        "seconds": round(took, 1),
        "requests_per_second": round(sum(tally.statuses.values()) / took, 2),
        "statuses": dict(sorted(tally.statuses.items())),
        "actions": dict(sorted(tally.actions.items())),
        "latency": tally.latency(),
        "server": held,
        "wrong_answers_alone": load.retry(),
    }


def _settled(pid: int, began: float, before: Sample) -> Sample:
    """The process once its connections are closed, or after a while as it is."""
    deadline = time.monotonic() + IDLE_SECONDS
    while True:
        found = sample(pid, began)
        if found.handles <= before.handles + MAX_LEFT and found.threads <= before.threads + MAX_LEFT:
            return found
        if time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def table(report: Json) -> str:
    """The report as people read it."""

    def cells(found: dict[str, float] | None) -> str:
        return " | ".join(f"{found[name] * 1000:.0f} ms" if found else "" for name in ("p50", "p90", "p99"))

    lines = ["| request | number | first token p50 | p90 | p99 | total p50 | p90 | p99 |", "|---|" + "--:|" * 7]
    for kind, row in report["latency"].items():
        lines.append(f"| {kind} | {row['requests']} | {cells(row['first_token'])} | {cells(row['total'])} |")
    lines += ["", f"{report['requests_per_second']} requests per second for {report['seconds']} seconds"]
    for name in ("statuses", "actions"):
        lines.append(f"{name}: {', '.join(f'{key}: {count}' for key, count in report[name].items())}")
    server = report["server"]
    if server is None:
        lines.append("what the server holds: not looked at, which takes Linux and the server's process")
    else:
        before, after = server["before"], server["after"]
        lines += [
            f"memory: {before['rss'] / 2**20:.0f} MiB before, {after['rss'] / 2**20:.0f} MiB after; "
            f"grew by {server['rss_growth'] / 2**20:.1f} MiB once settled",
            f"threads: {before['threads']} before, {after['threads']} after; "
            f"handles: {before['handles']} before, {after['handles']} after",
        ]
    lines += [f"asked again alone: {name}: {found}" for name, found in report["wrong_answers_alone"].items()]
    return "\n".join([*lines, f"problems: {len(report['problems'])}", *report["problems"][:MOST_SHOWN]])


def loopback(url: str) -> tuple[str, int]:
    """Host and port of a server on this machine.

    Raises:
        argparse.ArgumentTypeError: It is elsewhere.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if parts.scheme != "http" or not local:
        raise argparse.ArgumentTypeError(f"expected an http: URL of this machine, found {url!r}")
    return host, parts.port or 80


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load, print the table and write the report; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--conversations", type=int, default=POOL, help="different ones; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", type=loopback, help="a server that runs on this machine; default: one of its own")
    parser.add_argument("--capacity", type=int, default=72, help="with --url: rows and places in its queue together")
    parser.add_argument("--pid", type=int, help="with --url: the server's process, to look at what it holds")
    parser.add_argument("--out", type=Path, help="where to write the report as JSON")
    options = parser.parse_args(arguments)
    pool = make_pool(options.seed, options.conversations)
    linux = sys.platform == "linux"
    if options.url is not None:
        load = Load(options.url, pool, seed=options.seed, capacity=options.capacity)
        report = measure(load, options.pid if linux else None, options.minutes * 60, options.clients)
    else:
        with tempfile.TemporaryFile() as log, serving(own_command(), "mlx-qwen35", log) as server:
            load = Load(("127.0.0.1", server.port), pool, seed=options.seed, capacity=ROWS + PLACES)
            report = measure(load, server.process.pid if linux else None, options.minutes * 60, options.clients)
            if server.process.poll() is not None:
                load.tally.problem(f"the server ended by itself with status {server.process.returncode}")
            elif not stop(server.process, signal.SIGINT, STOP_SECONDS):
                load.tally.problem(f"the server does not stop within {STOP_SECONDS:g} seconds")
            log.seek(0)
            errors = [line for line in log.read().decode(errors="replace").splitlines() if _is_error(line)]
            if errors:
                load.tally.problem(f"the server's log has {len(errors)} errors; the first: {errors[0]}")
    report |= {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "problems": load.tally.problems,
    }
    print(table(report))
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if load.tally.problems else 0


def own_command(rows: int = ROWS, places: int = PLACES) -> list[str]:
    """What starts a server for the load, but for its address."""
    return [
        sys.executable, "-m", "mlx_qwen35.cli.main", "serve", "--model", str(BOX), "--served-model-name", MODEL,
        "--max-rows", str(rows), "--max-waiting", str(places), "--prompt-cache-bytes", CACHE, "--log-level", "warning",
    ]  # fmt: skip


def _is_error(line: str) -> bool:
    return line.startswith(("Traceback", "ERROR")) or "was never retrieved" in line


if __name__ == "__main__":
    sys.exit(main())
