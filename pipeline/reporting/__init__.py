"""Figures and the page that shows what was run and how well it went."""
