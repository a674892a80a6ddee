"""Ports for the local stack: those asked for, checked to be free, or free ones. Imported by infra.local only."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chalicelib.errors import SettingsError


def free_ports(host: str, web_port: int, services_port: int, aws_port: int) -> tuple[int, int, int]:
    """Web, services and AWS port: those asked for, checked to be free, or free ones. Raises `SettingsError`."""
    wanted = (
        ("web", "--web-port", host, web_port),
        ("services", "--services-port", host, services_port),
        ("aws", "--aws-port", "127.0.0.1", aws_port),
    )
    with _bound() as bind:
        web, services, aws = (bind(*each) for each in wanted)
    if len({web, services, aws}) < 3:
        raise SettingsError("--web-port, --services-port and --aws-port must be three different ports")
    return web, services, aws


@contextmanager
def _bound() -> Iterator[Callable[[str, str, str, int], int]]:
    """Binds ports and holds them until the block ends, so that three free ports are three different ones."""
    held: list[socket.socket] = []

    def bind(name: str, option: str, host: str, port: int) -> int:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            held.append(sock := socket.socket(family))
            if port:
                # As servers do, so that a port in TIME_WAIT counts as free; one that listens is refused all the same.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
        except socket.gaierror:
            raise SettingsError(f"--host {host} is no address of this machine") from None
        except OSError as error:
            raise SettingsError(
                f"Port {port} for the {name} process cannot be used ({error.strerror}): choose another with {option}"
            ) from None
        return int(sock.getsockname()[1])

    try:
        yield bind
    finally:
        for sock in held:
            sock.close()
