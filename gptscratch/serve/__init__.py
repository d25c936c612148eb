"""Trained runs over HTTP: OpenAI's completions, several requests decoded together, and a web page."""
