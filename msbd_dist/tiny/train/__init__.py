"""How the bundled weights are made: ``python -m msbd_dist.tiny.train``, from nothing but a seed.

    settings.py   the settings of all parts
    data.py       pictures and captions by seed, drawn as they are needed or once for all
    words.py      the tokenizer
    loop.py       THE MAP: steps over processes, checkpoints, progress
    vae.py, unet.py, clip.py, upscaler.py    one part each: model, loss, what it writes

A part is what `loop.train` trains. Its parts in order are vae, unet (which learns in the latents
of the vae, together with the text encoder), clip and upscaler.
"""
