"""The continuous way in for pictures: a tower over patches, a projector, a language model that reads what they give."""
