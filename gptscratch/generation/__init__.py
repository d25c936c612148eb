"""From a prompt to text: the decoding loop, sampling, scoring and memorization."""
