"""Ctrl-C and SIGTERM: the run ends at once, its files closed, even while compiled code computes.

Python runs a handler only between two bytecodes of the main thread, so not while that is inside a compiled function.
The number of the signal, however, is written to a file descriptor the moment the signal arrives. A thread reads it
there and calls what `on_stop` was given: compiled loops look at a flag that is set so, and return early. What they
leave is never used, because the handler that then runs raises.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_hooks: list[Callable[[bool], None]] = []
_active = False

if hasattr(os, "register_at_fork"):  # a child's signals are not its parent's
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def on_stop(hook: Callable[[bool], None]) -> None:
    """Have `hook(True)` called, in another thread, when the process is to stop, and `hook(False)` before it goes on."""
    _hooks.append(hook)


def _tell(stop: bool) -> None:
    for hook in _hooks:
        hook(stop)


@contextmanager
def signals_as_exit() -> Iterator[None]:
    """SIGTERM raises SystemExit(143), so that files are closed and the status is written; a second is ignored.

    Ctrl-C raises KeyboardInterrupt, as ever. Both also end what compiled code is doing. Inside another such block, and
    in another thread than the main one, it changes nothing.
    """
    global _active
    if _active or threading.current_thread() is not threading.main_thread():
        yield
        return
    told = threading.Semaphore(0)
    before = {signal.SIGTERM: signal.getsignal(signal.SIGTERM), signal.SIGINT: signal.getsignal(signal.SIGINT)}
    ours = [signal.SIGTERM]
    if before[signal.SIGINT] is signal.default_int_handler:  # else it is ignored, as in the background, or somebody's
        ours.append(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        told.acquire(timeout=1.0)  # the thread sets the flag before it is cleared, not after
        _tell(False)
        if number == signal.SIGTERM:
            raise SystemExit(128 + number)
        raise KeyboardInterrupt

    reading, written = socket.socketpair()
    written.setblocking(False)

    def listen() -> None:
        while (numbers := reading.recv(64)) and 0 not in numbers:
            if any(number in numbers for number in ours):
                _tell(True)
                told.release()

    listener = threading.Thread(target=listen, name="signals", daemon=True)
    fd_before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    listener.start()
    _active = True
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        _active = False
        for number in ours:
            signal.signal(number, before[number] or signal.SIG_DFL)
        signal.set_wakeup_fd(fd_before)
        written.send(b"\0")
        listener.join(timeout=5.0)
        written.close()
        reading.close()
