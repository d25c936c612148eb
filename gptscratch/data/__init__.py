"""From text to batches of tokens: corpus, shards, batches, and the job that prepares them."""
