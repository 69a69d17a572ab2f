"""LOGITS -> LOSS -> CHECKPOINT: one loop for every stage, exact after any interruption."""
