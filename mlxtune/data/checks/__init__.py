"""Data checks: problems in the rows of a source, and how to fix them.

Each family of checks is one module with a :class:`~mlxtune.data.checks.base.CheckFamily`; ``registry.FAMILIES`` lists them.
CONTRIBUTING shows how to add a check.
"""
