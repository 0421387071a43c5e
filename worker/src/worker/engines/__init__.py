"""The engine's process, whichever engine it is: its supervisor, its entry point, and a room for each engine."""
