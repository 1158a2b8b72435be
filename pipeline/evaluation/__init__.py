"""Playing the test problems and saying how well it went."""
