"""OURS <-> EVERYONE'S: model folders as the rest of the world reads and writes them."""
