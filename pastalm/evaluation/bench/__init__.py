"""How fast a model decodes here: steps, their parts, known answers, load, and other engines beside it."""
