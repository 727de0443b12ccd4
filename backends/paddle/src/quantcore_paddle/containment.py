"""Keeping what Paddle does to its process to itself; imports no framework."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

#: Environment variables that Paddle writes while it is imported. OMP_NUM_THREADS=1
#: (base/__init__.py:152-166 of 3.3.1) would slow every later child process down.
_WRITTEN = ("OMP_NUM_THREADS", "CUSTOM_DEVICE_ROOT")

#: What it says where OMP_NUM_THREADS is what its user wants; quantcore sets it to the cores.
_ADVICE = ("WARNING: OMP_NUM_THREADS", "PLEASE USE OMP_NUM_THREADS WISELY")

#: Paddle's loggers that tell each step of a search, on handlers of their own.
_CHATTY = ("paddle.static.quantization.cal_kl_threshold",)


@contextlib.contextmanager
def contained_import() -> Iterator[None]:
    """Undoes what the first import of Paddle does to its process.

    Paddle 3.3.1 gives the root logger a handler and level INFO, writes environment variables and
    prints advice on them, warns about a missing ccache
    (utils/cpp_extension/extension_utils.py:709-712) and takes over the fatal signals, so that a
    terminated process ends in a page of C++ trace. None of that is wanted by a program that merely
    has Paddle as a backend. A program that had imported Paddle before keeps what it has.
    """
    if "paddle" in sys.modules:
        yield
        return
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    environment = {name: os.environ.get(name) for name in _WRITTEN}
    terminate = signal.getsignal(signal.SIGTERM)
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        for line in said.getvalue().splitlines(keepends=True):
            if not line.startswith(_ADVICE):
                sys.stderr.write(line)
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _restore_signals(terminate)


def _restore_signals(terminate: object) -> None:
    paddle = sys.modules.get("paddle")
    if paddle is None or not hasattr(paddle, "disable_signal_handler"):
        return  # the import failed
    paddle.disable_signal_handler()
    if terminate is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # type: ignore[arg-type]


def _glibc() -> Any:
    """The C library where it is glibc, else None."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


_GLIBC = _glibc()
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def keep_memory_steady(wanted: bool) -> None:
    """Keeps the process from growing over the batches, while a session is open.

    Paddle takes every CPU tensor from malloc and frees it again. glibc keeps what lies between two
    living blocks, so that 80 images peaked a fifth above 20 although nothing more was alive. With
    this, tensors and image batches of 16 MiB and more get pages of their own, which go back when
    they are freed. Afterwards the threshold is the 32 MiB that glibc itself settles at.
    """
    if _GLIBC is not None:
        _GLIBC.mallopt(_MMAP_THRESHOLD, (16 if wanted else 32) * 2**20)


def return_memory() -> None:
    """Gives what is free at the end of a batch back to the system."""
    if _GLIBC is not None:
        _GLIBC.malloc_trim(0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps Paddle's log lines and advice about its own code from the user's terminal."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
