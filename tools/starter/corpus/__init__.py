"""The starter model's corpus: facts and phrasings written for this project, and what is made of them.

Reads: nothing but its own modules. Writes: nothing; the caller writes. Refuses: nothing.
"""
