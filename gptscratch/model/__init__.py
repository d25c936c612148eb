"""The GPT. Read gpt.py, attention.py, mlp.py, norm.py, position.py, cache.py, in this order."""
