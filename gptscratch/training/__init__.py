"""From batches to a trained model: schedule, optimizer, step, evaluation, hooks, the trainer."""
