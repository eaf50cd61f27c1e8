"""Preference training with DPO-style losses over pairs, and with KTO."""
