"""The papers' ablations and baselines on held-out scenes, by the product and its bundled family.

`suite.py` lists the questions. Each is a module: scenes, variants of an edit, what is measured of a
finished one, and claims. `work.py` writes a question's manifest and runs it; `page.py` writes
docs/claims.md from the numbers and from `text.md`, which is written by hand.
"""
