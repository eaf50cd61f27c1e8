"""A language model as judge: narrow questions, checked evidence, and sentinels that expose an unreliable judge."""
