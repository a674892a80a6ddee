"""The streaming host: HTTP in front of the Chalice handlers, on an ordinary server or under Lambda.

`chalice_app` is what handlers import; `server` and `sandbox` are what the launcher imports; the rest is inside.
"""
