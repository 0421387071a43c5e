"""Writes every generated table of the documents."""

from docs.generate.pages import generated

for path, text in generated().items():
    path.write_text(text)
