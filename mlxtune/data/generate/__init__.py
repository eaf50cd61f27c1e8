"""Generate rows with a model: a teacher proposes them, filters refuse the bad ones, and the review decides about the rest."""
