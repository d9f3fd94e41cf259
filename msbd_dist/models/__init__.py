"""The models: `card` says what a folder holds (no torch), `bundle` loads its parts on first use."""
