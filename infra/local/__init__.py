"""The whole system on one machine: embedded AWS, services tier, web tier, as child processes of `depot up`."""
