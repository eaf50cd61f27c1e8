"""Facts are codes and numbers: no code parses or compares text that people read.

``parsed_text.py`` says what counts. Store a code with its arguments where the fact arises, and choose words where it is drawn.
"""

import ast

from package_trees import PACKAGE, package_trees
from parsed_text import parsed_texts

# Text that another program, a model, or a user writes, by file.
TEXT_OF_OTHERS = {
    "data/checks/forms.py": ["prose.rstrip().endswith(_STOPS)"],  # answers in rows
    "evaluation/scorers/disclaimer.py": ["at == 'last paragraph'"],  # a value that users write in recipes
    "evaluation/selftest/checks.py": ["answer.startswith(('Thank you', 'Dear'))"],  # a scripted judge reads model answers
    "planning/machine.py": ["line.startswith('model name')"],  # /proc/cpuinfo
    "recipe/schema.py": ["at in ('anywhere', 'last paragraph')"],  # a value that users write in recipes
}


def test_no_code_parses_text_for_people():
    found = {}
    for path, tree in package_trees().items():
        name = str(path.relative_to(PACKAGE))
        allowed = TEXT_OF_OTHERS.get(name, [])
        places = [(node.lineno, ast.unparse(node)) for node in parsed_texts(tree, name.split("/")[0])]
        found |= {f"{name}:{line}": code for line, code in places if code not in allowed}
    assert found == {}


def test_the_walk_finds_parsed_text():
    parsed = """
verdict.partition(".")
text.startswith(start)
"evaluation.rows" in loaded.remedy
outcome == "cannot tell"
notice.glyph == "●"
glyph in ("✓", "·")
re.sub(" .*", "", error.message)
summary["the verdict"]
dict(view.summary).get("verdict", "").partition(".")
Outcome = Literal["better", "cannot tell"]
match outcome:
    case "cannot tell": pass
"""
    fine = """
outcome == "cannot_tell"
text.split("\\n")
text.startswith("{")
label.upper()
path.name.startswith("run")
"count" in facts
labels["cannot_tell"]
"""
    assert len(list(parsed_texts(ast.parse(parsed), "cli"))) == 11
    assert list(parsed_texts(ast.parse(fine), "cli")) == []
