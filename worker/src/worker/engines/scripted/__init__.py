"""An engine that answers by script: for tests, and to try the server without a model."""
