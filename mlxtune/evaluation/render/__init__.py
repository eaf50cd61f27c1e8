"""Renderers of reports: tables, Markdown and HTML."""
