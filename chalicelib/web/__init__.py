"""The web tier's blueprints: sign-in, files, health. Thin handlers over StorageManager, the catalog and sessions."""
