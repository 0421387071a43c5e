"""The engine on vLLM's EngineCore, stepped by a loop of our own. The only room that imports vLLM."""
