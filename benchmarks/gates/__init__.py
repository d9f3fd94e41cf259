"""Quality gates: small seeded edits, what is measured on them, and faults that each must notice."""
