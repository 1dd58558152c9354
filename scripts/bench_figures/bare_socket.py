"""The floor of two processes on one socket: octets of the same sizes, and nothing done with them.

Run as a program this is the far end: it takes the sizes and answers until the socket closes.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time

READ_SIZE = 64 * 1024


def seconds_per_answer(asked: int, answered: int, answers: int, round_trips: int) -> float:
    """Requests of ``asked`` octets, each brings ``answers`` messages of ``answered`` octets.

    Blocking calls on a Unix stream socket, the other end in a process of its own.
    """
    near, far = socket.socketpair()
    sizes = [str(number) for number in (far.fileno(), asked, answered, answers)]
    command = [sys.executable, __file__, *sizes]
    with near, subprocess.Popen(command, pass_fds=[far.fileno()]) as process:
        far.close()
        request = bytes(asked)
        _ask(near, request, answered * answers)  # the far end is up
        began = time.perf_counter()
        for _ in range(round_trips):
            _ask(near, request, answered * answers)
        seconds = time.perf_counter() - began
        near.close()
        process.wait()
    return seconds / (round_trips * answers)


def _ask(near: socket.socket, request: bytes, size: int) -> None:
    near.sendall(request)
    while size > 0:
        data = near.recv(READ_SIZE)
        if not data:
            raise ConnectionError("the far end of the bare socket is gone")
        size -= len(data)


def _answer(far: socket.socket, asked: int, answered: int, answers: int) -> None:
    block, waiting = bytes(answered), 0
    while data := far.recv(READ_SIZE):
        waiting += len(data)
        while waiting >= asked:
            waiting -= asked
            far.sendall(block * answers)


if __name__ == "__main__":
    descriptor, *numbers = map(int, sys.argv[1:])
    _answer(socket.socket(fileno=descriptor), *numbers)
