"""Measurements of speed, by `make bench`; each prints its figures and what they were measured on."""
