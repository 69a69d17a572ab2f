"""TOKENS -> LOGITS: the network itself, and nothing of training, serving or distribution."""
