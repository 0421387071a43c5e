"""`python -m docs.generate` writes the tables that follow from the code: parameters, events, settings."""
