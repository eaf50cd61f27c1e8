import pytest

from mlxtune.core import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("x"), 2), (errors.RecipeError("x"), 2), (errors.DataError("x"), 2), (errors.ModelError("x"), 2),
        (errors.TemplateError("x"), 2), (errors.GateError("x"), 1), (errors.Interrupted(7), 3), (errors.MachineError("x"), 4),
        (errors.MlxtuneError("x"), 4),
    ],
)  # fmt: skip
def test_exit_codes(error, code):
    assert error.exit_code == code
    assert isinstance(error, errors.MlxtuneError)


def test_an_interruption_has_its_step_in_the_message():
    assert errors.Interrupted(1204).message == "Stopped at step 1,204."
