"""Dask distributed as an executor: the workers of a scheduler, or of a client that is handed over.

Dask connects, authenticates, carries bytes, starts workers again and shows what they do. Which
worker does what is decided by `ClusterExecutor`: Dask would blame every task that was assigned to a
worker for its death, and knows nothing of machines that must be quiet (docs/adr/0011).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantcore.contracts.executor import ExecutorOptions, ExecutorPlugin
from quantcore.contracts.options import option
from quantcore.errors import ExecutorError, UsageError
from quantcore.executors.cluster import (
    ClusterExecutor,
    ClusterOptions,
    Link,
    Post,
    WorkerAt,
    WorkerLost,
)
from quantcore.executors.cluster.link import Called
from quantcore.reading import parse_json, read_text
from quantcore.runtime.executor import Executor
from quantcore.showing import one_line, shown

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security


#: Seconds that a scheduler may take to answer, and that a client may take to leave one.
_ANSWER, _GOODBYE = 40, 2

#: Bytes of a scheduler file, which tells of every worker too.
_MOST_FILE = 1 << 26


@dataclass(frozen=True, kw_only=True)
class DaskOptions(ExecutorOptions):
    """Where the cluster is, and how work is spread.

    Attributes:
        scheduler: Address of the scheduler, or its scheduler file.
        files: `FOLDER=URL`: what lies in a folder here, workers fetch from there.
        any_versions: See `ClusterOptions`, as the next two.
        deaths: As there.
        wait: As there.
        tls_ca: File of the authority that certifies the cluster's certificates.
        tls_cert: File of this client's certificate.
        tls_key: File of its key.
    """

    scheduler: str | None = option(None, "tcp://HOST:PORT, tls://HOST:PORT or a scheduler file.")
    files: tuple[str, ...] = option((), "FOLDER=URL: workers fetch what lies in FOLDER from URL.")
    any_versions: bool = option(False, "Take workers whose versions differ from those here.")
    deaths: int = option(2, "Workers that may die of some work before it is given up.")
    wait: float = option(60.0, "Seconds to wait for a worker that can do what is next.")
    tls_ca: Path | None = option(None, "File of the authority that certifies the cluster.")
    tls_cert: Path | None = option(None, "File of this side's certificate.")
    tls_key: Path | None = option(None, "File of its key.")


class DaskPlugin(ExecutorPlugin):
    """Workers of a Dask scheduler."""

    options = DaskOptions

    def _open(self, options: ExecutorOptions) -> Executor:
        assert isinstance(options, DaskOptions)
        how = ClusterOptions(
            mapped=tuple(map(_mapped, options.files)),
            any_versions=options.any_versions,
            deaths=options.deaths,
            wait=options.wait,
        )
        return ClusterExecutor(DaskLink(_client(options), own=True), how)


class DaskExecutor(ClusterExecutor):
    """Runs jobs on the workers of a Dask client, which stays open.

    Args:
        client: A `distributed.Client`.
        options: How work is spread.
    """

    def __init__(self, client: Client, options: ClusterOptions | None = None) -> None:
        super().__init__(DaskLink(client, own=False), options)


def _mapped(written: str) -> tuple[str, str]:
    folder, sign, url = written.partition("=")
    if not sign or not Path(folder).is_absolute():
        raise UsageError(
            f"files is written FOLDER=URL with an absolute folder, not {shown(written)}"
        )
    return folder, url


def _client(options: DaskOptions) -> Client:
    """A client of the scheduler.

    Raises:
        ExecutorError: It cannot be reached.
        UsageError: None was named, or it is not said how to reach it.
    """
    if options.scheduler is None:
        raise UsageError("executor dask: say where the scheduler is: --scheduler tcp://HOST:PORT")
    where = _address(options.scheduler)
    given = {"address": where, "security": _security(options, where.startswith("tls://"))}
    found: Future[Client] = Future()
    # Dask itself waits forever for what takes the connection and says nothing.
    threading.Thread(target=_connect, args=(found, given, options.wait), daemon=True).start()
    try:
        return found.result(options.wait + _GOODBYE)
    except FutureTimeout:
        why = f"nothing came within {options.wait:.0f} s"
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        why = f"{type(error).__name__}: {error}"
    raise ExecutorError(one_line(f"{where}: no scheduler answers ({why})", 300))


def _address(where: str) -> str:
    """The scheduler's address, which may be given as a scheduler file."""
    if "://" in where or not Path(where).is_file():
        return where
    try:
        return str(parse_json(read_text(Path(where), _MOST_FILE, UsageError))["address"])
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{where}: is no scheduler file: it tells no address") from None


def _connect(found: Future[Client], given: Mapping[str, Any], seconds: float) -> None:
    from distributed import Client

    # That the scheduler is gone, an error of ours says in one line; Dask would print every attempt.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        found.set_result(Client(**given, set_as_default=False, timeout=seconds))
    except BaseException as error:
        found.set_exception(error)


def _security(options: DaskOptions, encrypted: bool) -> Security:
    """What this side shows and whom it trusts; what is not given, Dask's own configuration says.

    Raises:
        UsageError: A file is missing or none of its kind, or the scheduler wants more.
    """
    from distributed.security import Security

    told = {
        "tls_ca_file": options.tls_ca,
        "tls_client_cert": options.tls_cert,
        "tls_client_key": options.tls_key,
    }
    files = {name: str(path) for name, path in told.items() if path is not None}
    for path in files.values():
        if not Path(path).is_file():
            raise UsageError(f"executor dask: {path}: no such file")
    security = Security(**files, **({"require_encryption": True} if files else {}))
    try:
        context = security.get_connection_args("client")["ssl_context"]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"executor dask: {', '.join(files.values())}: not to be used ({error})"
        ) from None
    if files and not encrypted:
        raise UsageError("executor dask: tls-ca, tls-cert and tls-key are for a tls:// scheduler")
    if encrypted and context is None:
        raise UsageError(
            "executor dask: a tls:// scheduler wants --executor-option tls-ca=FILE, tls-cert=FILE "
            "and tls-key=FILE (docs/cluster.md)"
        )
    return security


class DaskLink(Link):
    """The workers of a Dask client.

    Args:
        client: The client.
        own: Whether it is closed with the link.
    """

    def __init__(self, client: Client, own: bool) -> None:
        self._client, self._own = client, own
        self._scattered: dict[str, Any] = {}
        self._lock = threading.Lock()

    def workers(self) -> Mapping[str, WorkerAt]:
        """See Link."""
        try:
            if self._client.status != "running":
                raise OSError(f"the connection is {self._client.status}")
            # `scheduler_info` returns what a periodic update of the client may just have emptied.
            told = self._client.sync(self._client.scheduler.identity, callback_timeout=_ANSWER)
            found = told["workers"]
        except Exception as error:  # Dask's own, of the network, and of a client that is closed
            raise ExecutorError(
                f"the scheduler is gone ({one_line(str(error), 200)}); what is finished is kept: "
                "start the same command again"
            ) from None
        # A worker that was started again may have the same address, but never the same folder.
        ids = {f"{at} {about['local_directory']}": (at, about) for at, about in found.items()}
        return {id: WorkerAt(id, _name(*told)) for id, told in ids.items()}

    def call(self, worker: WorkerAt, function: Called, *arguments: bytes) -> Future[bytes]:
        """See Link."""
        return self._submit(worker, function, *arguments)

    def _submit(self, worker: WorkerAt, function: Called, *arguments: Any) -> Future[bytes]:
        given = self._client.submit(
            _run,
            function,
            *arguments,
            workers=[worker.id.partition(" ")[0]],
            allow_other_workers=False,
            pure=False,
            key=f"quantcore-{function.__name__}-{uuid.uuid4().hex}",
        )
        return _Carried(given)

    def keep(self, worker: WorkerAt, parts: Mapping[str, bytes]) -> Future[bytes]:
        """See Link; workers get large parts from each other."""
        from quantcore.executors.cluster import post

        with self._lock:
            held = {name: self._scattered.get(name) for name in parts}
            there = {
                name for name, future in held.items() if future and future.status == "finished"
            }
            try:
                new = {name: content for name, content in parts.items() if name not in there}
                self._scattered.update(self._client.scatter(new, hash=False) if new else {})
            except Exception as error:  # Dask's own, where the worker that it chose is gone
                raise WorkerLost(one_line(f"{type(error).__name__}: {error}", 300)) from None
            given = [each for name in parts for each in (name.encode(), self._scattered[name])]
        return self._submit(worker, post.keep, *given)

    def describe(self) -> str:
        """See Link."""
        return f"dashboard: {self._client.dashboard_link}"

    def close(self) -> None:
        """See Link."""
        self._scattered.clear()
        if self._own:
            with contextlib.suppress(Exception):
                self._client.close(timeout=_GOODBYE)


class _Carried(Future[bytes]):
    """A future of Dask's as one of Python's; cancelling it cancels that one."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self._given = given
        given.add_done_callback(self._ended)

    def _ended(self, given: Any) -> None:
        with contextlib.suppress(Exception):  # cancelled meanwhile
            if given.status == "finished":
                self.set_result(given.result())
            elif given.status == "error":
                self.set_exception(_error(given.exception()))
            else:
                self.set_exception(WorkerLost(f"the call was {given.status}"))

    def cancel(self) -> bool:
        """Ends it over there as well."""
        with contextlib.suppress(Exception):
            self._given.cancel(force=True)
        return super().cancel()


def _error(error: BaseException) -> ExecutorError:
    from distributed.scheduler import KilledWorker

    told = one_line(f"{type(error).__name__}: {error}", 300)
    return WorkerLost(told) if isinstance(error, KilledWorker) else ExecutorError(told)


def _name(address: str, about: Mapping[str, Any]) -> str:
    name = str(about.get("name", address))
    return address if name == address else f"{name} ({address})"


def _run(function: Called, *arguments: bytes) -> bytes:
    """On the worker: calls a function with the worker's post."""
    from distributed import get_worker, secede
    from distributed.worker import thread_state

    worker, key = get_worker(), thread_state.key

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in ("executing", "long-running")

    secede()  # a worker of one thread can be looked at all the same
    folder = Path(worker.local_directory) / "quantcore"
    memory = worker.memory_manager.memory_limit
    return function(Post(folder, worker.state.nthreads, memory, wanted), *arguments)
