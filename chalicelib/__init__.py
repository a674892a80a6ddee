"""What ships with both tiers. Nothing in this package can reach the NAS."""
