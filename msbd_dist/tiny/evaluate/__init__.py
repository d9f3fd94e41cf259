"""What a family of models can do, in numbers: ``python -m msbd_dist.tiny.evaluate [FOLDER]``.

command.py    arguments, files, the table
run.py        THE MAP: cases of all measures over processes, rows from what they give
cases.py      held-out scenes and prompts, by seed
family.py     a family as the product loads it, and what it is asked to do: paint, edit
judge.py      the verdict of the family's own CLIP
probe.py      a second verdict, by pixels and contours, without any learned model
real.py, painted.py, edits.py    the measures: on real scenes, on pictures from words, on edits
rows.py       a row of the table
grids.py      contact sheets
card.py       the model card
"""
