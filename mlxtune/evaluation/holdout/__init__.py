"""The use of held-out rows: the ledger of evaluations, and the check for contamination by training."""
