"""Layer kinds, one file each: attributes, shapes, reference, cost and converter rules.

A file named ``convolution.py`` holds the kind whose name is ``convolution``; that is how
`kind_class` finds it, without importing the others. Files import no torch until a reference runs.
"""
