"""The cheapest recipe that meets a stated accuracy and is really faster, and the proof.

`climb` goes up the rungs of `ladder`, cheapest first; `parts` says which images do what, `judging`
runs graphs on the images that choose, `choice` turns what was found into a decision, `timing` holds
candidates against what one would deploy otherwise, and `verdict` puts the end into words.
"""
