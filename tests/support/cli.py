"""`depot …` in a test: in this process with its output, or as a process that can be killed. Settings are the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from chalicelib.cli import main

TARGET = ("--cohort", "VACS", "--protocol-year", "2024", "--file-type", "patient")


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Depot:
    """The command line in a folder of its own. `env` is what it sees of the environment, besides PATH and HOME."""

    def __init__(
        self, folder: Path, env: Mapping[str, str], capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.folder, self._capsys = folder, capsys
        self.env = {"XDG_STATE_HOME": str(folder / "state"), "HOME": str(folder), "PATH": os.environ["PATH"], **env}
        for name in [name for name in os.environ if name.startswith("DEPOT_") or name.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.chdir(folder)
        self._patch = patch

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def __call__(self, *arguments: str | Path) -> Result:
        for name, value in self.env.items():
            self._patch.setenv(name, value)
        self._capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = int(str(end.code))
        told = self._capsys.readouterr()
        return Result(code, told.out, told.err)

    def upload(self, *arguments: str | Path) -> Result:
        return self("upload", *arguments, *TARGET)

    def start(self, *arguments: str | Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        root = str(Path(__file__).parents[2])
        return subprocess.Popen(
            [sys.executable, "-m", "chalicelib.cli", *map(str, arguments)],
            cwd=self.folder,
            env={**self.env, "PYTHONPATH": root},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            # Whoever started the tests may have Ctrl-C ignored (a job in the background); a terminal has not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    @property
    def state(self) -> Path:
        return self.folder / "state" / "depot"
