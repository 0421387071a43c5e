"""JSON schemas as clients send them: their dialects, references and patterns, brought to one form that can be used."""
