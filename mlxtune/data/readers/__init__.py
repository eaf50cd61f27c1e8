"""Row formats: convert one JSON record of a source file to a row.

Each format is one module that declares a :class:`~mlxtune.data.readers.row_format.RowFormat`; ``formats.FORMATS`` lists them all.
"""
