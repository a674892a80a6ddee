"""Where the server is, and who signs in: options, environment, the running `depot up`, or a question on the terminal.

A password is never an option (others can read command lines), and neither password nor token is ever written to disk.
"""

from __future__ import annotations

import getpass
import ipaddress
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from chalicelib.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Credentials:
    """Either a token, or a user name and a password. Hidden in repr."""

    token: str | None = field(default=None, repr=False)
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def renewable(self) -> bool:
        return bool(self.username)

    def login(self) -> dict[str, str]:
        return {"username": self.username, "password": self.password}


@dataclass(frozen=True, slots=True)
class Terminal:
    """How a question is asked. `usable` says whether somebody is there to answer."""

    usable: Callable[[], bool] = lambda: sys.stdin.isatty() and sys.stderr.isatty()
    ask: Callable[[str], str] = lambda prompt: _ask(prompt)
    ask_secret: Callable[[str], str] = getpass.getpass


def _ask(prompt: str) -> str:
    # Not input(prompt): that writes to stdout, which is for results.
    print(prompt, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def credentials(environ: Mapping[str, str], terminal: Terminal) -> Credentials:
    """DEPOT_TOKEN, else DEPOT_USERNAME and DEPOT_PASSWORD, else ask. Raises `SettingsError` where nobody can answer."""
    token = environ.get("DEPOT_TOKEN", "").strip()
    if token:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise SettingsError("DEPOT_TOKEN must be printable ASCII without spaces")
        return Credentials(token=token)
    username, password = environ.get("DEPOT_USERNAME", "").strip(), environ.get("DEPOT_PASSWORD", "")
    if username and password:
        return Credentials(username=username, password=password)
    if not terminal.usable():
        raise SettingsError("DEPOT_TOKEN required, or DEPOT_USERNAME and DEPOT_PASSWORD, where nobody can be asked")
    try:
        username = username or terminal.ask("User name: ").strip()
        password = terminal.ask_secret("Password: ")
    except EOFError:
        username = ""
    if not username or not password:
        raise SettingsError("No user name or no password was given")
    return Credentials(username=username, password=password)


def server_url(option: str | None, environ: Mapping[str, str], state_dir: Path, *, insecure: bool) -> str:
    """--url, else DEPOT_URL, else the web tier of the running `depot up`. Raises `SettingsError`."""
    if option:
        return _checked(option, "--url", insecure)
    if environ.get("DEPOT_URL", "").strip():
        return _checked(environ["DEPOT_URL"].strip(), "DEPOT_URL", insecure)
    try:
        document = json.loads((state_dir / "ready.json").read_text())
    except FileNotFoundError:
        raise SettingsError("Which server? Give --url or DEPOT_URL; no 'depot up' is running in this folder") from None
    except (ValueError, OSError):
        raise SettingsError("Which server? Give --url or DEPOT_URL; ready.json of 'depot up' is unreadable") from None
    return _checked(str(document.get("web_url", "")), "web_url of ready.json", insecure)


def _checked(url: str, name: str, insecure: bool) -> str:
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise SettingsError(f"{name} must be a URL such as https://depot.example.org") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or not port_is_fine:
        raise SettingsError(f"{name} must be a URL such as https://depot.example.org")
    if parts.username is not None or parts.password is not None:
        raise SettingsError(f"{name} must hold no user name or password: use DEPOT_USERNAME and DEPOT_PASSWORD")
    if parts.scheme == "http" and not insecure and not is_loopback(url):
        raise SettingsError(f"{name} must begin with https:// (or allow plain text on this network: --insecure-http)")
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether a URL stays on this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
