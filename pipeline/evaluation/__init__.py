"""Rolling out the test problems, and saying how well it went and why."""
