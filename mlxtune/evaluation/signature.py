"""A signature of a report with an SSH key, so that the report can be attributed. ``ssh-keygen -Y`` makes and checks it (OpenSSH 8.2).

The signature covers ``report.json``, which has the sha256 of every file with evidence.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.files import write_bytes
from mlxtune.core.text import one_line
from mlxtune.evaluation import report

FILE = f"{report.FILE}.sig"
_NAMESPACE = "mlxtune-report"  # so that a signature made with the same key for another purpose is not accepted
_SIGNERS = "~/.ssh/allowed_signers"
_GOOD = re.compile(r'Good "[^"]*" signature (?:for .* )?with (.+)')


@dataclass(frozen=True)
class Signature:
    key: str  # its type and fingerprint, empty if the signature is invalid
    signer: str = ""  # the key's name in the file of allowed signers, empty if it is not listed there


def sign(folder: Path, key: Path) -> Signature:
    """Sign the report in ``folder`` with the SSH key ``key``, a private key or the public half of one that an agent has.

    Raises ``InputError`` if the key cannot be used, and ``MachineError`` if ssh-keygen is not installed.
    """
    if not key.is_file():
        raise InputError(f"There is no SSH key at {key}.", hint="Create one with: ssh-keygen -t ed25519")
    made = _ssh_keygen("sign", "-f", str(key), "-n", _NAMESPACE, document=folder / report.FILE)
    if made.returncode:
        *_, last = ["", *made.stderr.decode(errors="replace").strip().splitlines()]
        reason = one_line(last, 160).rstrip(".") or f"exit code {made.returncode}"
        raise InputError(f"ssh-keygen cannot sign with {key}: {reason}.", hint="Use a key that ssh-keygen -l -f can read.")
    write_bytes(folder / FILE, made.stdout)
    signature = check(folder)
    assert signature
    return signature


def check(folder: Path, signers: Path | None = None) -> Signature | None:
    """Return the signature of the report in ``folder``, or ``None`` if it is not signed.

    ``signers`` is a file in ssh-keygen's format ``ALLOWED SIGNERS``; the default is the user's own, if there is one. Raises ``InputError``
    if it does not exist, and ``MachineError`` if ssh-keygen is not installed.
    """
    if signers and not signers.is_file():
        hint = "Create it, with a name and a public key on each line."
        raise InputError(f"There is no file of allowed signers at {signers}.", hint=hint)
    file, document = folder / FILE, folder / report.FILE
    if not file.is_file():
        return None
    made = _ssh_keygen("check-novalidate", "-n", _NAMESPACE, "-s", str(file), document=document)
    match = _GOOD.search(made.stdout.decode(errors="replace"))
    if made.returncode or not match:
        return Signature("")
    key, allowed = one_line(match[1]), signers or Path(_SIGNERS).expanduser()
    if allowed.is_file():
        files = ("-s", str(file), "-f", str(allowed))
        names = _ssh_keygen("find-principals", *files, document=document).stdout.decode(errors="replace")
        for name in filter(None, names.split("\n")[0].split(",")):
            if not _ssh_keygen("verify", "-I", name, "-n", _NAMESPACE, *files, document=document).returncode:
                return Signature(key, one_line(name))  # the key is listed, and neither revoked nor expired
    return Signature(key)


def _ssh_keygen(operation: str, *options: str, document: Path) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise MachineError("ssh-keygen is not installed.", hint="Install OpenSSH, for example: sudo apt install openssh-client")
    with document.open("rb") as stream:
        return subprocess.run([program, "-Y", operation, *options], stdin=stream, capture_output=True)
