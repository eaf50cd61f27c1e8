import re
import shutil
import subprocess

import pytest
from evaluation_files import write_evaluation

from mlxtune.evaluation.report import Caveat


@pytest.mark.parametrize("name", ["last", "shop", "evals/20261124-1412-shop", "evals/20261124-1412-shop/report.json"])
def test_a_correct_report(cli, cwd, name):
    write_evaluation(cwd)
    result = cli("verify", name)
    assert (result.code, result.err) == (0, "")
    assert "✓ Recomputed from the stored files: 10 rates and 4 comparisons for 4 rows, and the verdict." in result.out
    assert "Cannot tell." in result.out
    _, _, named = result.out.partition("○ Not proven without a trusted signature: ")
    assert {"adapter", "base_fingerprint", "holdout.jsonl", "made", "outputs.jsonl", "run", "seconds"} <= {
        *named.split(".\n")[0].split(", ")
    }


def test_a_promotion_caveat_is_printed(ok, cwd, monkeypatch):
    write_evaluation(cwd)
    monkeypatch.setattr("mlxtune.cli.report.promotion_caveat", lambda _: Caveat("off_task_dropped", 0.58, 0.44, 0.05))
    result = ok("verify")
    assert "! Not recommended: off-task accuracy dropped from 58.0% to 44.0%." in result.out


def test_a_changed_byte_of_an_output_fails(cli, cwd):
    folder = write_evaluation(cwd)
    data = (folder / "outputs.jsonl").read_bytes()
    (folder / "outputs.jsonl").write_bytes(data.replace(b'"passed": false', b'"passed": true', 1))
    result = cli("verify")
    assert result.code == 1
    assert "✗ outputs.jsonl was changed: its sha256 is" in result.out
    assert "✗ outputs.jsonl, base, " in result.out
    assert "The report does not match its outputs: 2 differences." in result.err


def test_json_lists_each_difference(cli, cwd):
    folder = write_evaluation(cwd)
    text = (folder / "report.json").read_text()
    (folder / "report.json").write_text(text.replace('"hits": 3', '"hits": 4', 1))
    result = cli("verify", "--json")
    document = result.json
    assert (result.code, document["holds"]) == (1, False)
    assert document["differences"] == ["report.json, arms tuned, rates json, hits is stored as 4 but recomputed as 3."]


def test_a_missing_evaluation_is_bad_input(cli, cwd):
    (cwd / "report.json").write_text("{}")
    for name in ("report.json", "nothing/report.json", "nothing"):
        assert cli("verify", name).code == 2


@pytest.fixture
def key(tmp_path, monkeypatch):
    """A new SSH key, and no file of allowed signers in the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True)
    return tmp_path / "key"


needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@needs_ssh_keygen
def test_a_signed_report_names_its_signer(cli, cwd, key):
    folder = write_evaluation(cwd)
    assert "Not signed." in cli("verify").out
    assert re.search(
        r"Signed with ED25519 key SHA256:\S+, which no file of allowed signers names\.", cli("verify", "--sign", str(key)).out
    )
    signers = cwd / "signers"
    signers.write_text(f"ada@example.com {key.with_suffix('.pub').read_text()}")
    result = cli("verify", "--signers", "signers")
    assert (result.code, result.err) == (0, "")
    assert "✓ Signed by ada@example.com with ED25519 key SHA256:" in result.out
    assert "Not proven" not in result.out
    assert cli("verify", "--signers", "signers", "--json").json["signature"]["signer"] == "ada@example.com"
    (key.parent / ".ssh").mkdir()
    signers.rename(key.parent / ".ssh" / "allowed_signers")
    assert "Signed by ada@example.com" in cli("verify").out
    (folder / "report.json.sig").unlink()
    result = cli("verify", "--signers", str(key.parent / ".ssh" / "allowed_signers"))
    assert result.code == 1
    assert "signed the report." in result.err


@needs_ssh_keygen
def test_a_signature_of_other_bytes_is_a_difference(cli, cwd, key):
    folder = write_evaluation(cwd)
    cli("verify", "--sign", str(key))
    report = folder / "report.json"
    report.write_text(report.read_text().replace("\n", "\n\n", 1))  # the same values
    result = cli("verify")
    assert result.code == 1
    assert "✗ report.json.sig is not a valid signature of report.json." in result.out
    (folder / "report.json.sig").write_text("x")
    assert cli("verify").code == 1


@needs_ssh_keygen
def test_an_incorrect_report_is_not_signed(cli, cwd, key):
    folder = write_evaluation(cwd)
    (folder / "outputs.jsonl").write_text("")
    assert cli("verify", "--sign", str(key)).code == 1
    assert not (folder / "report.json.sig").exists()


def test_keys_and_signers_that_do_not_exist_are_bad_input(cli, cwd, monkeypatch):
    write_evaluation(cwd)
    for option in ("--sign", "--signers"):
        assert cli("verify", option, "nothing").code == 2
    (cwd / "key").write_text("x")
    assert cli("verify", "--sign", "key").code == (2 if shutil.which("ssh-keygen") else 4)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    result = cli("verify", "--sign", "key")
    assert result.code == 4
    assert "sudo apt install openssh-client" in result.err


def test_a_report_is_printed_or_opened_in_the_browser(cli, ok, cwd, monkeypatch):
    page, opened = write_evaluation(cwd) / "report.html", []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert "Cannot tell." in ok("report").out
    assert ok("report", "--json").json["verdict"]["outcome"] == "cannot_tell"
    assert not opened
    assert ok("report", "last", "--open").out == f"{page}\n"
    assert ok("report", "--open", "--json").json["folder"]
    assert opened == [page.as_uri()] * 2
    page.unlink()
    assert f"{page}: No such file" in cli("report", "--open").err
    assert len(opened) == 2
    assert "Cannot tell." in ok("report").out
