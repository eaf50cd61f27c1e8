"""Data checks: problems in the rows of a source, and how to fix them.

Each family of checks is one module with a :class:`~mlxtune.data.checks.base.CheckFamily`; ``registry.FAMILIES`` lists them. To add a
check, write a function in a family:

    @family.text_check(Check("shouting", "warn", "answers that shout", "The answer has {count} exclamation marks."), answers_only=True)
    def shouting(text: str) -> Iterator[Hit]:
        for match in re.finditer(r"!{3,}", text):
            yield Hit(*match.span(), replacement="!", values={"count": len(match[0])})
"""
