"""Tokens to people: an OpenAI-compatible server and a page, from one process, over the generation engine."""
