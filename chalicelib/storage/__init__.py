"""The storage contract, the remote driver and the manager that picks a driver by the server's role."""
