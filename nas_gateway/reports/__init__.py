"""What is stored, what is still lying around, and what it risks: a daily snapshot, and the report made from it.

Used by the wiring, the internal API and the schedule. Walks indexes, never a table.
"""
