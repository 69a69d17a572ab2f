"""CHECKPOINT -> TOKENS: what was asked (settings, prompts), rows in flight, sampling, the trace, the engine on top."""
