"""The Ed25519 key that signs checkpoints: where it comes from, and how a new one is made. For `checkpoints` and wiring."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from chalicelib.errors import SettingsError

FORM = "an Ed25519 private key: PEM (openssl genpkey -algorithm ed25519), or base64 of its 32 bytes"


class SigningKey:
    """One private key. `public` is the raw public key in base64, as checkpoints name it. Does not show in repr."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = base64.b64encode(key.public_key().public_bytes_raw()).decode()

    def __repr__(self) -> str:
        return f"SigningKey({self.public})"

    def sign(self, message: bytes) -> str:
        """The signature in base64."""
        return base64.b64encode(self._key.sign(message)).decode()

    def to_pem(self) -> bytes:
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str, name: str) -> SigningKey:
        """From PEM (its line ends may be written as two characters, \\n, in an environment) or base64.

        Raises `SettingsError` that names the setting.
        """
        text = text.strip()
        try:
            if text.startswith("-----"):
                key = load_pem_private_key(text.replace("\\n", "\n").encode(), None)
                if isinstance(key, Ed25519PrivateKey):
                    return cls(key)
            else:
                return cls(Ed25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True)))
        except (ValueError, TypeError):  # TypeError: the PEM is encrypted
            pass
        raise SettingsError(f"{name} must be {FORM}")


def load(path: Path, *, make: bool = False) -> SigningKey:
    """The key in a file that only its owner can read. `make`: a missing one is made. Raises `SettingsError`."""
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise SettingsError("LEDGER_SIGNING_KEY_FILE must be readable by its owner only (chmod 600)")
            return SigningKey.parse(file.read(65536).decode(), "LEDGER_SIGNING_KEY_FILE")
    except FileNotFoundError:
        if make:
            return create(path)
        raise SettingsError("LEDGER_SIGNING_KEY_FILE names a file that is not there") from None
    except (OSError, UnicodeDecodeError):
        raise SettingsError("LEDGER_SIGNING_KEY_FILE cannot be read") from None


def create(path: Path) -> SigningKey:
    """Make a key and keep it in a new file, in one step; of two who do, both get the key of the first."""
    key = SigningKey.generate()
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.to_pem())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return load(path)
        finally:
            temporary.unlink()
    except OSError as error:
        raise SettingsError(f"LEDGER_SIGNING_KEY_FILE cannot be made: {error.strerror}") from None
    return key
