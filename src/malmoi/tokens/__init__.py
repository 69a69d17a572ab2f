"""TEXT AND IMAGES <-> TOKENS: the tokenizer, how a vocabulary is learned, how a conversation becomes ids."""
