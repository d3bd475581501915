"""The demo's default listener: a TCP server that sends back what it gets.

A program of its own, run inside the container as `python -I -S echo.py ADDRESS PORT [READY_FD]`; it imports nothing of nsnet.
READY_FD is closed when it listens. It serves several clients, one piece at a time, and runs until it is killed.
"""

import os
import selectors
import socket
import sys


def serve(address: str, port: int, ready_fd: int = -1) -> None:
    """Echo on that address and port for ever."""
    selector = selectors.DefaultSelector()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        if ready_fd >= 0:
            os.close(ready_fd)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                else:
                    echo(selector, key.fileobj)


def echo(selector: selectors.BaseSelector, client: socket.socket) -> None:
    """Send back one piece of what the client sent; forget the client at its end of file."""
    try:
        data = client.recv(65536)
        client.sendall(data)
    except OSError:                 # it went away; so be it
        data = b""
    if not data:
        selector.unregister(client)
        client.close()


if __name__ == "__main__":
    try:
        serve(sys.argv[1], *map(int, sys.argv[2:]))
    except OSError as error:
        sys.exit(f"echo listener: {error}")
