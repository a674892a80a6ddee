"""Upload sessions: one file that arrives in several calls, through any process (design, section 5).

`service` is the use-cases; `writer` turns a body into acknowledged parts and tails; `finishing` makes the file visible;
`concatenation` and `direct` are the two other ways bytes get there; `sweep` repairs what a crash left. State is in the
rows of `tables` and on the NAS. Imported by the internal API and the wiring.
"""
