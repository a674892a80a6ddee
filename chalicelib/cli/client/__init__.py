"""The web tier's client behind `depot upload` and `depot download`: sign-in, tus, ranges, resumption, progress.

Knows the web tier by its public HTTP interface only. Imported by `cli.transfer`; never part of a Lambda package.
"""
