"""``report`` and ``verify``: print a report or open it in the browser, and recompute its numbers from its stored outputs."""

import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from mlxtune.cli.evaluate import show_report
from mlxtune.cli.options import Json, ReportName, option
from mlxtune.cli.output import show, show_json
from mlxtune.core.errors import GateError
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation import history
from mlxtune.evaluation import report as reports
from mlxtune.evaluation import signature as signing
from mlxtune.evaluation import verify as verifying
from mlxtune.evaluation.report import promotion_caveat
from mlxtune.evaluation.verify import unproven
from mlxtune.present.verdict import caveat_text, verdict_text


def report(
    which: ReportName = "last",
    open_page: Annotated[bool, option("--open", "Open the HTML page, and print its path.")] = False,
    json: Json = False,
) -> None:
    """Print an evaluation's report, or open its HTML page, which can be printed and read on a phone."""
    folder = history.find(Path.cwd(), which)
    loaded = reports.load(folder)
    page = (folder / reports.PAGES[1]).resolve(strict=open_page)
    if open_page:
        webbrowser.open(page.as_uri())
    if json:
        show_json({"folder": str(folder), **to_json(loaded)})
    elif open_page:
        show(str(page))
    else:
        show_report(loaded, folder)


_SHOWN = 20


def verify(
    report: ReportName = "last",
    sign: Annotated[Path | None, option("--sign", "Sign the report, if it is correct, with this SSH key.", metavar="KEY")] = None,
    signers: Annotated[Path | None, option("--signers", "Exit 1 unless a signer in this file (allowed signers) signed it.")] = None,
    json: Json = False,
) -> None:
    """Recompute every number in a report offline from the stored outputs. Exits 1 if any differs."""
    folder = history.find(Path.cwd(), report)
    differences = verifying.verify(folder)
    signature = signing.sign(folder, sign) if sign and not differences else signing.check(folder, signers)
    if signature and not signature.key:
        differences.append(f"{signing.FILE} is not a valid signature of {reports.FILE}.")
    is_attested = bool(signature and signature.signer)
    open_points = [] if differences or is_attested else unproven(folder)
    if json:
        result = {"holds": not differences, "folder": str(folder), "differences": differences, "unproven": open_points}
        show_json({**result, "signature": asdict(signature) if signature else None})
    else:
        for difference in differences[:_SHOWN]:
            show(("  ✗ ", "bold error"), one_line(difference, 240))
        if len(differences) > _SHOWN:
            show("    ", (f"and {plural(len(differences) - _SHOWN, 'more difference')}; use --json to list all", "muted"))
    if differences:
        raise GateError(f"The report does not match its outputs: {plural(len(differences), 'difference')}.")
    if not json:
        loaded = reports.load(folder)
        rates = plural(sum(len(arm.rates) for arm in loaded.arms), "rate")
        counts = f"{rates} and {plural(len(loaded.comparisons), 'comparison')} for {plural(loaded.facts['rows'], 'row')}"
        show(("  ✓ ", "bold success"), f"Recomputed from the stored files: {counts}, and the verdict.")
        show("    ", (one_line(verdict_text(loaded.verdict)), "muted"))
        if open_points:
            show(("  ○ ", "warning"), one_line(f"Not proven without a trusted signature: {', '.join(open_points)}.", 2_000))
        if caveat := promotion_caveat(loaded):
            show(("  ! ", "bold warning"), f"Not recommended: {caveat_text(caveat)}.")
        if signature is None:
            show("    ", ("Not signed.", "muted"))
        elif signature.signer:
            show(("  ✓ ", "bold success"), f"Signed by {signature.signer} with {signature.key}.")
        else:
            show("    ", (f"Signed with {signature.key}, which no file of allowed signers names.", "muted"))
    if signers and not (signature and signature.signer):
        raise GateError(f"No signer in {signers} signed the report.")
