"""From what a client sends to what a model is shown: its rules, its making, and the guard against loops."""
