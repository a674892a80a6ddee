"""The command line: what it accepts, and that a mistake is one clear line."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from chalicelib.cli import BAD_SETTINGS, INTERRUPTED, main, manage, parser, serve, up
from chalicelib.errors import InvalidRequest, SettingsError


def parsed(*arguments: str) -> argparse.Namespace:
    return parser().parse_args(arguments)


@pytest.mark.parametrize("command", ["up", "serve", "test-two-server", "verify", "init", "create-superuser", "env"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parsed(command, "--help")
    assert end.value.code == 0
    assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize("bad", ["-1", "65536", "http", "", "80.0"])
def test_a_port_is_a_number_up_to_65535(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parsed("up", f"--web-port={bad}")
    assert end.value.code == BAD_SETTINGS
    assert "is no port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (SettingsError("INTERNAL_API_KEY required for web server role"), BAD_SETTINGS, "INTERNAL_API_KEY required"),
        (InvalidRequest("no such thing"), 1, "no such thing"),
        (KeyboardInterrupt(), INTERRUPTED, ""),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    raised: BaseException,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(arguments: argparse.Namespace) -> int:
        raise raised

    monkeypatch.setattr(manage, "run_env", fail)
    assert main(["env"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == bool(said)


def test_serve_with_bad_settings_ends_with_2_and_names_the_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("INTERNAL_API_KEY", "SERVICES_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SERVER_ROLE", "web")
    assert main(["serve", "--role", "web"]) == BAD_SETTINGS
    assert capsys.readouterr().err == "depot: INTERNAL_API_KEY required for web server role\n"


# --- what a tier's process is left with --------------------------------------------------------------------------


def test_the_web_tier_forgets_everything_that_leads_to_the_nas() -> None:
    environ = {
        "SERVER_ROLE": "services", "STORAGE_CONFIG": "{}", "S3_ENDPOINT": "http://nas", "S3_SECRET_KEY": "x",
        "NAS_WORKSPACE_PATH": "/mnt", "INTERNAL_API_KEY": "k", "AWS_ENDPOINT_URL": "http://aws",
    }  # fmt: skip
    assert serve.prepare("web", environ) == "web"
    assert environ == {"SERVER_ROLE": "web", "INTERNAL_API_KEY": "k", "AWS_ENDPOINT_URL": "http://aws"}


def test_the_services_tier_keeps_them() -> None:
    environ = {"STORAGE_CONFIG": "{}", "S3_ENDPOINT": "http://nas"}
    assert serve.prepare("services", environ) == "services"
    assert environ == {"SERVER_ROLE": "services", "STORAGE_CONFIG": "{}", "S3_ENDPOINT": "http://nas"}


# --- what `depot up` is asked for, by options and environment ------------------------------------------------------

STORE = {"S3_ENDPOINT": "http://127.0.0.1:7480/", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s"}


@pytest.mark.parametrize(
    ("arguments", "environ", "nas", "endpoint"),
    [
        ([], {}, "local", None),
        ([], {"NAS": "s3"}, "s3", None),
        (["--nas", "s3"], {}, "s3", None),
        (["--nas", "local"], {"NAS": "s3"}, "local", None),
        ([], STORE, "s3", "http://127.0.0.1:7480"),
        (["--nas", "s3"], STORE, "s3", "http://127.0.0.1:7480"),
        (["--nas", "local"], STORE, "local", None),
        ([], {"NAS": "local", **STORE}, "local", None),
    ],
)
def test_which_nas_is_meant(
    arguments: list[str], environ: dict[str, str], nas: str, endpoint: str | None, tmp_path: Path
) -> None:
    options = up.stack_options(parsed("up", "--state-dir", str(tmp_path), *arguments), environ)
    assert options.nas == nas
    assert (options.store.endpoint if options.store else None) == endpoint


def test_the_nas_folder_is_in_the_state_folder_unless_moved(tmp_path: Path) -> None:
    arguments = parsed("up", "--state-dir", str(tmp_path / "state"))
    assert up.stack_options(arguments, {}).nas_dir == tmp_path / "state" / "nas"
    assert up.stack_options(arguments, {"DEPOT_NAS_DIR": str(tmp_path / "big")}).nas_dir == tmp_path / "big"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"NAS": "tape"}, "NAS must be local or s3"),
        ({"S3_ENDPOINT": "127.0.0.1:7480"}, "S3_ENDPOINT must be a URL"),
        ({"S3_ENDPOINT": "http://x", "S3_ACCESS_KEY": "a"}, "S3_SECRET_KEY required"),
    ],
)
def test_a_bad_environment_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        up.stack_options(parsed("up"), environ)


def test_env_without_a_running_stack_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--state-dir", str(tmp_path)]) == BAD_SETTINGS
    assert "No 'depot up' is running" in capsys.readouterr().err


def test_env_quotes_for_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ready.json").write_text('{"env": {"STORAGE_CONFIG": "{\\"disks\\": \'$(x)\'}"}}')
    assert main(["env", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == """export STORAGE_CONFIG='{"disks": '"'"'$(x)'"'"'}'\n"""
