"""Models in the formats of other programs: Hugging Face transformers, llama.cpp."""
