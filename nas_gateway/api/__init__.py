"""The services tier's blueprints under `/internal/`: thin handlers over the use-cases. API key on every call."""
