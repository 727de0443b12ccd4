"""Work that a stranger's file could break, in a process of its own with bounds on memory and time.

Some libraries abort the whole process on malformed input (onnx's shape inference, on a clamp whose
ends are reversed); no check beforehand can name every such input. One process serves all calls; the
next call starts another where one has died.
"""

from __future__ import annotations

import atexit
import contextlib
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from quantcore.errors import BackendError, CheckpointError, QuantcoreError
from quantcore.runtime.progress import Silent
from quantcore.runtime.worker import Worker
from quantcore.showing import one_line

R = TypeVar("R")

#: Bytes of memory beside what the process has already, and for each byte of input.
_MEMORY, _MEMORY_PER_BYTE = 1 << 30, 12

#: Seconds of processor time, and bytes of input that give one more.
_SECONDS, _BYTES_PER_SECOND = 8, 8 << 20

_LOCK = threading.Lock()
_WORKERS: list[Worker] = []


def guarded(function: Callable[..., R], *arguments: Any, path: Path, size: int) -> R:
    """What `function(*arguments)` returns, computed where a crash harms nothing.

    Args:
        function: Of a module; it and its arguments are pickled.
        arguments: Its arguments.
        path: The file that they come from, for errors.
        size: Bytes of input, which the bounds grow with.

    Raises:
        CheckpointError: The function failed in any way, took too much memory or time, or ended the
            process.
    """
    with _LOCK:
        if not _WORKERS:
            _WORKERS.append(Worker(str(path), threads=1, quiet=True))
        (worker,) = _WORKERS
        try:
            seconds, memory = (
                _SECONDS + size // _BYTES_PER_SECOND,
                _MEMORY + _MEMORY_PER_BYTE * size,
            )
            given = (function, seconds, memory, arguments)
            found: list[R] = [*worker.run(_bounded, *given, progress=Silent())]
            return found[0]
        except BackendError:
            _end()
            raise CheckpointError(
                f"{path}: malformed in a way that ends the process which reads it, or takes more "
                "than it may; export the model again"
            ) from None
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except BaseException:  # Ctrl-C in the middle of an exchange
            _end()
            raise


def _bounded(
    function: Callable[..., R],
    seconds: int,
    memory: int,
    arguments: tuple[Any, ...],
    progress: object,
) -> Iterator[R]:
    """The call, in the process, beside what that has used already."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds += int(used.ru_utime + used.ru_stime)
    memory += _virtual()
    for kind, bound in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (min(bound, hard) if hard > 0 else bound, hard))
    try:
        yield function(*arguments)
    except QuantcoreError:
        raise
    except MemoryError:
        raise CheckpointError("takes more memory than a file of its size may") from None
    except Exception as error:  # protobuf, onnx and NumPy each have their own
        raise CheckpointError(f"not valid ({one_line(str(error), 300)})") from None


def _virtual() -> int:
    """Bytes of address space that this process has."""
    with contextlib.suppress(OSError):
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
        return int(pages) * resource.getpagesize()
    return 4 << 30


@atexit.register
def _end() -> None:
    while _WORKERS:
        _WORKERS.pop().close()
