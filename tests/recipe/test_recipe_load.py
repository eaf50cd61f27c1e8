import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.errors import RecipeError
from mlxtune.recipe import AdapterSection, Disclaimer, EvaluationSection, dump, load, parse
from mlxtune.recipe.load import files_read

ROOT = Path(__file__).parents[2]
MINIMAL = 'name = "n"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n'


def _refused(text: str, **more) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse(text, where="r.toml", **more)
    return caught.value


def test_a_minimal_recipe_has_the_documented_defaults():
    recipe = parse(MINIMAL)
    assert (recipe.data.holdout, recipe.data.validation, recipe.data.seed, recipe.data.format) == (0.15, 0.10, 7, "auto")
    assert (recipe.adapter.rank, recipe.adapter.alpha, recipe.adapter.layers, recipe.adapter.targets) == (
        16,
        32.0,
        "all",
        "all-linear",
    )
    section = recipe.training
    assert (section.epochs, section.steps, section.batch_size, section.batch_tokens, section.learning_rate) == (0, 0, 0, 0, 0.0)
    assert section.schedule == "cosine"
    assert recipe.evaluation.arms == []
    assert recipe.schema_file is None


@pytest.mark.parametrize("text", ["2026-11-26", '"2026-11-26"'])
def test_a_date_may_be_written_with_or_without_quotes(text):
    assert parse(f"{MINIMAL}date = {text}\n").data.date == "2026-11-26"
    assert parse(MINIMAL, overrides=[f"data.date={text}"]).data.date == "2026-11-26"
    assert "a date such as" in _refused(f'{MINIMAL}date = "26 Nov"\n').message


def test_paths_are_relative_to_the_recipe(tmp_path):
    (tmp_path / "recipes").mkdir()
    file = tmp_path / "recipes" / "r.toml"
    file.write_text(MINIMAL.replace("d.jsonl", "../data/d.jsonl") + '[evaluation]\nschema = "s.json"\n')
    recipe = load(file)
    assert recipe.source == tmp_path.resolve() / "data" / "d.jsonl"
    assert recipe.schema_file == tmp_path.resolve() / "recipes" / "s.json"


def test_scale_is_alpha_over_rank_or_over_its_root():
    assert AdapterSection(rank=8, alpha=20.0).scale == 2.5
    assert AdapterSection(rank=16, alpha=20.0, rslora=True).scale == 5.0


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda file: file.stem)
def test_a_dumped_recipe_is_independent_of_its_folder(file, tmp_path):
    recipe = load(file)
    (tmp_path / "recipe.toml").write_text(dump(recipe))
    loaded = load(tmp_path / "recipe.toml")
    assert (loaded.source, loaded.schema_file, loaded.prompt_file) == (recipe.source, recipe.schema_file, recipe.prompt_file)
    paths = {"data": dataclasses.replace(loaded.data, source=recipe.data.source)}
    paths["evaluation"] = dataclasses.replace(loaded.evaluation, schema=recipe.evaluation.schema, prompt=recipe.evaluation.prompt)
    assert dataclasses.replace(loaded, **paths) == recipe


def test_dump_resolves_a_local_base(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "recipes" / "r.toml").write_text(MINIMAL.replace('"m"', '"../model"'))
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "recipe.toml").write_text(dump(load(tmp_path / "recipes" / "r.toml")))
    loaded = load(tmp_path / "runs" / "x" / "recipe.toml")
    assert loaded.path(loaded.model.base) == (tmp_path / "model").resolve()


@pytest.mark.parametrize("path", ["data.replay_prompts", "evaluation.regression"])
def test_dump_resolves_files_of_prompts(path, tmp_path):
    recipe = parse(MINIMAL, folder=tmp_path / "recipes", overrides=[f"{path}=../own.jsonl", "data.replay=0.5"])
    dumped = parse(dump(recipe), folder=tmp_path / "runs" / "x")
    assert files_read(dumped) == files_read(recipe)


@given(
    texts=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12).map(lambda text: "x" + text), max_size=3),
    when=st.dictionaries(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), st.text("a\"\\\n'é") | st.booleans() | st.integers(-9, 9), max_size=2),
)  # fmt: skip
def test_dump_and_parse_are_inverse_for_any_text(texts, when):
    recipe = parse(MINIMAL)
    evaluation = EvaluationSection(disclaimers=[Disclaimer(text, when) for text in texts], forbid=texts)
    full = dataclasses.replace(recipe, evaluation=evaluation, data=dataclasses.replace(recipe.data, source=str(recipe.source)))
    assert parse(dump(full)) == full


def test_a_disclaimer_may_be_a_sentence_or_a_table():
    rules = parse(
        MINIMAL + '[evaluation]\ndisclaimers = ["Always.", { text = "Sometimes.", when = { category = "a" } }]\n'
    ).evaluation.disclaimers
    assert rules == [Disclaimer("Always."), Disclaimer("Sometimes.", {"category": "a"})]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.epochs=3", "training.epochs", 3),
        ("training.learning_rate=1e-3", "training.learning_rate", 1e-3),
        ("adapter.alpha=8", "adapter.alpha", 8.0),
        ("adapter.rslora=true", "adapter.rslora", True),
        ('adapter.targets=["q_proj", "v_proj"]', "adapter.targets", ["q_proj", "v_proj"]),
        ("model.base=smollm2-135m", "model.base", "smollm2-135m"),
        ('model.base="quoted"', "model.base", "quoted"),
        (" data.seed = 9", "data.seed", 9),
    ],
)
def test_an_override_is_toml_or_a_bare_word(override, path, value):
    result = parse(MINIMAL, overrides=[override])
    for name in path.split("."):
        result = getattr(result, name)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training.=3", "name.deep=1"])
def test_an_invalid_override_is_refused(override):
    assert "--set" in _refused(MINIMAL, overrides=[override]).message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["training.learning_rate=fast"],
            '--set training.learning_rate=fast: training.learning_rate must be a number, but is "fast".',
        ),
        (
            ["training.learning_rate=7"],
            "--set training.learning_rate=7: training.learning_rate must be from 0 to less than 1, but is 7.0.",
        ),
        (["training.lerning_rate=7"], "--set training.lerning_rate=7: unknown key lerning_rate in [training]."),
        (["training={epochs = -1}"], "--set training={epochs = -1}: training.epochs must be from 0 to 10,000, but is -1."),
        (["adapter.rank=0", "adapter.rank=x"], '--set adapter.rank=x: adapter.rank must be an integer, but is "x".'),
        (["data.validation=0.9"], "--set data.validation=0.9: data.holdout and data.validation leave no rows for training."),
    ],
)
def test_an_error_in_an_override_names_the_override(overrides, message):
    assert _refused(MINIMAL + "[training]\nlearning_rate = 1e-4\n", overrides=overrides).message == message


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[training]\nwarmup = 3.0\n", "r.toml, line 7: training.warmup must be", ""),
        ("[training]\nepochs = 1\nlerning_rate = 1e-4\n", "r.toml, line 8: unknown key lerning_rate in [training].", "Did you mean learning_rate?"),
        ("[zzzzzz]\n", "r.toml, line 6: unknown key zzzzzz", "training"),
        ('[[evaluation.disclaimers]]\ntext = "x"\nwhem = {}\n', "r.toml, line 8: unknown key whem", "Did you mean when?"),
        ('[training]\nschedule = "cosin"', "r.toml, line 7: training.schedule must be", "Did you mean cosine?"),
        ('[evaluation]\nlength = "60 words"\n', "r.toml, line 7: evaluation.length must be a table", "Or write it in braces: { min = … }."),
    ],
)  # fmt: skip
def test_an_error_in_the_file_has_its_line_and_a_suggestion(text, message, hint):
    error = _refused(MINIMAL + text)
    assert error.message.startswith(message)
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the key name is missing"),
        ('name = "n"\n[data]\nsource = "d"\n', "the section [model] is missing"),
        ('name = "n"\n[model]\n[data]\nsource = "d"\n', "the key model.base is missing"),
        ('name = "n"\nmodel = "m"\n[data]\nsource = "d"\n', "model must be a section, but is"),
        (
            'name = "n"\n[model]\nbase = "b"\n[data]\nsource = "d"\n[evaluation]\nlength = "60 wrds"\n',
            "evaluation.length must be a table, but is",
        ),
    ],
)
def test_missing_keys_are_reported(text, words):
    assert words in _refused(text).message


def test_an_override_of_an_unknown_section_is_named_with_the_likely_key():
    with pytest.raises(RecipeError) as caught:
        parse(MINIMAL, overrides=["contract.schema=foo"])
    assert caught.value.message == "--set contract.schema=foo: unknown key contract."
    assert caught.value.hint == "Did you mean evaluation.schema?"
    with pytest.raises(RecipeError) as caught:
        parse(MINIMAL, overrides=["evaluation.length=5"])
    assert caught.value.hint.startswith("Set its keys: evaluation.length.min, evaluation.length.max")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("[adapter]\nrank = 1.5", 'adapter.rank must be an integer, but is 1.5'),
        ("[adapter]\nrank = true", "adapter.rank must be an integer, but is true"),
        ("[adapter]\nlayers = true", 'adapter.layers must be an integer or "all"'),
        ("[adapter]\ntargets = [1]", "adapter.targets must be"),
        ('[adapter]\nalpha = "2"', "adapter.alpha must be a number"),
        ("[adapter]\nrslora = 1", "adapter.rslora must be true or false"),
        ('[training]\nschedule = "cosin"', '"constant" or "linear" or "cosine"'),
        ('[method]\nloss = ["sigmoit"]', "method.loss must be"),
        ("[evaluation]\nforbid = \"x\"", "evaluation.forbid must be a list of strings"),
        ("[evaluation]\ndisclaimers = [3]", "evaluation.disclaimers must be a sentence or { text, when }"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_reported_with_its_line(section, words):
    error = _refused(MINIMAL + section)
    assert words in error.message
    assert error.message.startswith("r.toml, line 7: ")


@pytest.mark.parametrize(
    "section",
    [
        "[adapter]\nrank = 0", "[adapter]\nalpha = 0", "[adapter]\nalpha = nan", "[adapter]\nalpha = inf", "[adapter]\nlayers = 0",
        "[adapter]\ndropout = 1.0", "[training]\nlearning_rate = -1", "[training]\nlearning_rate = nan", "[training]\nlearning_rate = 1",
        "[training]\nwarmup = 1", "[training]\nepochs = -1", "[training]\nsteps = -5", "[training]\naccumulate = 0",
        "[training]\nbatch_tokens = -1", "[training]\nvalidate_every = 0", "[training]\nsave_every = 0", "[training]\nclip = -1.0",
        "[evaluation]\nmax_tokens = 0", "[evaluation]\nmax_tokens = true", "[evaluation]\nmax_tokens = 'all'",
        "[evaluation]\nbatch_size = 0", "[evaluation]\nrows = -1", '[evaluation]\narms = ["tuned"]',
        '[evaluation]\ndisclaimers = [" "]', "[method]\nloss = []", '[method]\nloss = ["sft", "sft"]', "[method]\nweights = [1.0, 1.0]",
        "[method]\nweights = [0.0]", "[method]\nbeta = 0", "[method]\nbeta = inf", "[method]\ngamma = -1.0",
        "[method]\nlabel_smoothing = 0.5", '[evaluation]\nforbid = ["Northpeak", ""]', '[evaluation]\nforbid = ["  "]',
        "# data\nholdout = 1", "# data\nholdout = -0.1", "# data\nvalidation = 1.0", "# data\nholdout = nan", "# data\nmax_tokens = 0",
        "# data\nholdout = 0.5\nvalidation = 0.5",
    ],
)  # fmt: skip
def test_an_impossible_value_is_refused_with_its_line(section):
    assert _refused(MINIMAL + section).message.startswith("r.toml, line 7: ")


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 65, "a/b"])
def test_a_name_that_is_not_a_folder_name_is_refused(name):
    assert "name must be" in _refused(MINIMAL.replace('"n"', f'"{name}"')).message


def test_error_messages_have_no_escape_sequences():
    error = _refused(MINIMAL + '[adapter]\nrank = "\\u001b[31mred"\n')
    assert "\x1b" not in error.message
