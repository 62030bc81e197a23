"""Ctrl-C and SIGTERM: the run ends at once, even while compiled code computes.

Python runs a handler only between two bytecodes of the main thread, so not while that is inside a compiled function.
The number of the signal, however, is written to a file descriptor the moment the signal arrives. A thread reads it
there; if the handler has not run after a second, it leaves the status of the run and ends the process. Nothing is lost
by that: a run folder survives a kill at any moment.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

PATIENCE = 1.0  # s

_farewells: list[Callable[[int], None]] = []
_active = False

if hasattr(os, "register_at_fork"):  # a child's signals are not its parent's
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


@contextmanager
def farewell(say: Callable[[int], None]) -> Iterator[None]:
    """Within the block, a signal that the main thread cannot answer ends the process after `say(number)`."""
    _farewells.append(say)
    try:
        yield
    finally:
        _farewells.remove(say)


@contextmanager
def signals_as_exit() -> Iterator[None]:
    """SIGTERM raises SystemExit(143), so that files are closed and the status is written; a second is ignored.

    Ctrl-C raises KeyboardInterrupt, as ever. Inside another such block, and in another thread than the main one, this
    changes nothing.
    """
    global _active
    if _active or threading.current_thread() is not threading.main_thread():
        yield
        return
    answered = threading.Event()
    before = {signal.SIGTERM: signal.getsignal(signal.SIGTERM), signal.SIGINT: signal.getsignal(signal.SIGINT)}
    ours = [signal.SIGTERM]
    if before[signal.SIGINT] is signal.default_int_handler:  # else it is ignored, as in the background, or somebody's
        ours.append(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        answered.set()
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise SystemExit(128 + number)
        raise KeyboardInterrupt

    reading, written = socket.socketpair()
    written.setblocking(False)

    def listen() -> None:
        while (numbers := reading.recv(64)) and 0 not in numbers:
            for number in ours:
                if number in numbers and not answered.wait(PATIENCE) and _farewells:
                    _farewells[-1](number)
                    os._exit(128 + number)

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
        answered.set()
        for number in ours:
            signal.signal(number, before[number] or signal.SIG_DFL)
        signal.set_wakeup_fd(fd_before)
        written.send(b"\0")
        listener.join(timeout=5.0)
        written.close()
        reading.close()
