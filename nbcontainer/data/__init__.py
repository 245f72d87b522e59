"""Variables on their way into and out of a container: what they are made of, and how they lie in shared memory.

Inwards anything that can be pickled travels, because a container trusts the kernel that made it. Outwards only data does:
texts, numbers and their collections, bytes, NumPy arrays and Arrow tables. Those are parsed, never executed.
"""
